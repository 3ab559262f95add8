"""What tradeoffs.compare found: estimates over settings, and the claims that are compared with them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.tradeoffs.config import HIGH_CONTRAST, LOW_CONTRAST, Background, Setting, TrainingNorm
from robustjax.analysis.intervals import Estimate
from robustjax.analysis.measures import MEASURES, Measure, estimate
from robustjax.runtime.subplots import Line

Arrays = Mapping[str, np.ndarray]


class Results(NamedTuple):
    """What was measured of every setting, and how to look at it."""

    settings: Mapping[Setting, Arrays]
    correlation: float  # of the settings that differ in the radius
    radius: float  # l2, of the settings that differ in the correlation
    features: int  # pixels times channels
    resamples: int

    def multi(self, background: Background, norm: TrainingNorm = "l2", eps: float = 0.0) -> Setting:
        """Name the setting of ten classes with a radius."""
        return Setting("multi", background, self.correlation, norm=norm, eps=eps)

    def binary(self, norm: TrainingNorm = "l2", eps: float = 0.0) -> Setting:
        """Name the setting of two classes with a radius."""
        return Setting("binary", LOW_CONTRAST, 0.95, norm=norm, eps=eps)

    def correlated(self, correlation: float, eps: float) -> Setting:
        """Name the setting of ten classes with a correlation."""
        return Setting("multi", HIGH_CONTRAST, correlation, eps=eps)

    def radii(self, like: Setting) -> list[float]:
        """List the radii trained, 0 left out, of settings that differ from one in the radius alone."""
        return sorted(s.eps for s in self.settings if s.eps and s == like._replace(eps=s.eps))

    def largest(self, like: Setting) -> Setting | None:
        """Find the setting of largest radius."""
        radii = self.radii(like)
        return like._replace(eps=radii[-1]) if radii else None

    def estimate(self, *terms: tuple[float, Setting, str]) -> Estimate:
        """Estimate a signed sum of measures."""
        return estimate(
            [(sign, self.settings[setting], MEASURES[m]) for sign, setting, m in terms],
            resamples=self.resamples,
        )

    def change(self, one: Setting, other: Setting, measure: str) -> str:
        """Say in a verb how a measure differs between settings."""
        found = self.estimate((1, one, measure), (-1, other, measure))
        return "raises" if found.low > 0 else "lowers" if found.high < 0 else "does not clearly change"

    def curve(self, points: Sequence[tuple[float, Setting]], measure: str) -> Line:
        """Estimate a measure over settings."""
        return curve([(x, self.settings[s]) for x, s in points], MEASURES[measure], self.resamples)

    def over_radii(self, background: Background, measure: str) -> dict[str, Line]:
        """Estimate a measure over the radii of each norm, training on clean images first."""
        lines = {}
        norms: tuple[tuple[TrainingNorm, float], ...] = (("l2", 1.0), ("linf", self.features**0.5))
        for norm, reach in norms:
            radii = self.radii(self.multi(background, norm))
            settings = [self.multi(background), *(self.multi(background, norm, eps) for eps in radii)]
            if radii:
                lines[f"{norm} training"] = self.curve([(s.eps * reach, s) for s in settings], measure)
        return lines


def curve(points: Sequence[tuple[float, Arrays]], measure: Measure, resamples: int) -> Line:
    """Estimate a measure, with intervals, over settings given by their arrays."""
    found = [estimate([(1, arrays, measure)], resamples=resamples) for _, arrays in points]
    value, low, high = ([getattr(f, part) for f in found] for part in ("value", "low", "high"))
    return Line([x for x, _ in points], value, low, high)


def with_interval(found: Estimate) -> str:
    """Format an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


class Claim(NamedTuple):
    """A statement about a signed sum of measures, and on which side of a bound it is expected."""

    text: str
    terms: tuple[tuple[float, Setting, str], ...]
    bound: float
    above: bool

    def row(self, results: Results) -> dict[str, str]:
        """Compare with what was found: one row of a table."""
        found = results.estimate(*self.terms)
        agrees = found.value >= self.bound if self.above else found.value <= self.bound
        return {
            "claim": self.text,
            "expected": f"at {'least' if self.above else 'most'} {self.bound:g}",
            "found": with_interval(found),
            "outcome": "agrees" if agrees else "does not agree",
        }


def claims(results: Results) -> list[Claim]:
    """List what is expected; a claim whose settings were not trained is left out."""
    out: list[Claim] = []

    def claim(text: str, bound: float, *terms: tuple[float, Setting | None, str], above: bool = True) -> None:
        known = [
            (sign, setting, m)
            for sign, setting, m in terms
            if setting and setting in results.settings and MEASURES[m].known(results.settings[setting])
        ]
        if len(known) == len(terms):
            out.append(Claim(text, tuple(known), bound, above))

    high, low, two = results.multi(HIGH_CONTRAST), results.multi(LOW_CONTRAST), results.binary()
    norms: tuple[TrainingNorm, ...] = ("l2", "linf")
    for norm in norms:
        robust = results.largest(high._replace(norm=norm))
        where = f"high-contrast background, {norm} training:"
        claim(f"{where} a wider background gap", 0.05, (1, robust, "gap"), (-1, high, "gap"))
        claim(
            f"{where} higher accuracy from the background alone",
            0.25,
            (1, robust, "only_bg"),
            (-1, high, "only_bg"),
        )
        claim(
            f"{where} robust on its own background only",
            0.4,
            (1, robust, "robust_same"),
            (-1, robust, "robust_rand"),
        )
    l2, linf = (results.largest(low._replace(norm=norm)) for norm in norms)
    claim(
        "low-contrast background, linf training: a narrower gap",
        -0.08,
        (1, linf, "gap"),
        (-1, low, "gap"),
        above=False,
    )
    claim(
        "low-contrast background: a smaller gap by linf than by l2 training",
        0.0,
        (1, linf, "gap"),
        (-1, l2, "gap"),
        above=False,
    )
    for eps, name, kept, broken in (
        (0.0, "standard", 0.15, -0.15),
        (results.radius, "adversarial", 0.2, -0.35),
    ):
        rare, frequent = (results.correlated(c, eps) for c in (0.1, 0.95))
        for measure, what, bound in (("robust", "kept", kept), ("robust_rand", "broken", broken)):
            claim(
                f"{name} training with a shortcut: {'more' if bound > 0 else 'less'} robust where it is {what}",
                bound,
                (1, frequent, measure),
                (-1, rare, measure),
                above=bound > 0,
            )
    for norm in norms:
        robust = results.largest(two._replace(norm=norm))
        claim(
            f"two classes, {norm} training: a worse worst group",
            -0.1,
            (1, robust, "worst"),
            (-1, two, "worst"),
            above=False,
        )
        claim(f"two classes, {norm} training, last layer refitted: worst group", 0.45, (1, robust, "refit"))
    return out
