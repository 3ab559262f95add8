"""What tradeoffs.compare found: estimates over settings, and what of it was expected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.tradeoffs.cells import STRONG, WEAK, Cell
from robustjax.analysis.intervals import Estimate
from robustjax.analysis.measures import MEASURES, Measure, estimate
from robustjax.runtime.subplots import Line

Arrays = Mapping[str, np.ndarray]


class Results(NamedTuple):
    """What was measured of every setting, and how to look at it."""

    cells: dict[Cell, Arrays]
    correlation: float  # of the settings that differ in the radius
    radius: float  # l2, of the settings that differ in the correlation
    features: int  # pixels times channels
    resamples: int

    def multi(self, background: tuple[float, float], norm: str = "l2", eps: float = 0.0) -> Cell:
        """Name the setting of ten classes with a radius."""
        return Cell("multi", background, self.correlation, "plain", norm, eps)

    def binary(self, norm: str = "l2", eps: float = 0.0) -> Cell:
        """Name the setting of two classes with a radius."""
        return Cell("binary", WEAK, 0.95, "plain", norm, eps)

    def correlated(self, correlation: float, eps: float) -> Cell:
        """Name the setting of ten classes with a correlation."""
        return Cell("multi", STRONG, correlation, "plain", "l2", eps)

    def radii(self, like: Cell) -> list[float]:
        """List the radii trained, 0 left out, of settings that differ from one in the radius alone."""
        return sorted(c.eps for c in self.cells if c.eps and c == like._replace(eps=c.eps))

    def largest(self, like: Cell) -> Cell | None:
        """Find the setting of largest radius."""
        radii = self.radii(like)
        return like._replace(eps=radii[-1]) if radii else None

    def estimate(self, *terms: tuple[float, Cell, str]) -> Estimate:
        """Estimate a signed sum of measures."""
        return estimate([(s, self.cells[c], MEASURES[m]) for s, c, m in terms], resamples=self.resamples)

    def change(self, one: Cell, other: Cell, measure: str) -> str:
        """Say in a verb how a measure differs between settings."""
        found = self.estimate((1, one, measure), (-1, other, measure))
        return "raises" if found.low > 0 else "lowers" if found.high < 0 else "does not clearly change"

    def line(self, points: Sequence[tuple[float, Cell]], measure: str) -> Line:
        """Draw a measure over settings."""
        return drawn([(x, self.cells[c]) for x, c in points], MEASURES[measure], self.resamples)

    def over_radii(self, background: tuple[float, float], measure: str) -> dict[str, Line]:
        """Draw a measure over the radii of each norm, plain training first."""
        lines = {}
        for norm, reach in (("l2", 1.0), ("linf", self.features**0.5)):
            radii = self.radii(self.multi(background, norm))
            cells = [self.multi(background), *(self.multi(background, norm, e) for e in radii)]
            if radii:
                lines[f"{norm} training"] = self.line([(c.eps * reach, c) for c in cells], measure)
        return lines


def drawn(points: Sequence[tuple[float, Arrays]], measure: Measure, resamples: int) -> Line:
    """Draw a measure over settings given by their arrays."""
    found = [estimate([(1, arrays, measure)], resamples=resamples) for _, arrays in points]
    value, low, high = ([getattr(f, part) for f in found] for part in ("value", "low", "high"))
    return Line([x for x, _ in points], value, low, high)


def written(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


class Claim(NamedTuple):
    """A statement about a signed sum of measures, and on which side of a bound it is expected."""

    text: str
    terms: tuple[tuple[float, Cell, str], ...]
    bound: float
    above: bool

    def judged(self, results: Results) -> dict[str, str]:
        """Compare with what was found: one row of a table."""
        found = results.estimate(*self.terms)
        agrees = found.value >= self.bound if self.above else found.value <= self.bound
        return {
            "claim": self.text,
            "expected": f"at {'least' if self.above else 'most'} {self.bound:g}",
            "found": written(found),
            "verdict": "agrees" if agrees else "does not agree",
        }


def claims(results: Results) -> list[Claim]:
    """State what is expected; a claim whose settings were not trained is left out."""
    out: list[Claim] = []

    def say(text: str, bound: float, *terms: tuple[float, Cell | None, str], above: bool = True) -> None:
        known = [
            (s, c, m) for s, c, m in terms if c and c in results.cells and MEASURES[m].known(results.cells[c])
        ]
        if len(known) == len(terms):
            out.append(Claim(text, tuple(known), bound, above))

    strong, weak, two = results.multi(STRONG), results.multi(WEAK), results.binary()
    top = {n: results.largest(strong._replace(norm=n)) for n in ("l2", "linf")}
    for norm, robust in top.items():
        where = f"strong background, {norm} training:"
        say(f"{where} a wider background gap", 0.05, (1, robust, "gap"), (-1, strong, "gap"))
        say(
            f"{where} more right from the background alone",
            0.25,
            (1, robust, "only_bg"),
            (-1, strong, "only_bg"),
        )
        say(
            f"{where} robust on its own background only",
            0.4,
            (1, robust, "robust_same"),
            (-1, robust, "robust_rand"),
        )
    small = {n: results.largest(weak._replace(norm=n)) for n in ("l2", "linf")}
    say(
        "weak background, linf training: a narrower gap",
        -0.08,
        (1, small["linf"], "gap"),
        (-1, weak, "gap"),
        above=False,
    )
    say("weak background: a smaller gap by linf than by l2 training", 0.0, (1, small["linf"], "gap"),
        (-1, small["l2"], "gap"), above=False)  # fmt: skip
    for eps, name, kept, lost in ((0.0, "plain", 0.15, -0.15), (results.radius, "adversarial", 0.2, -0.35)):
        low, high = (results.correlated(c, eps) for c in (0.1, 0.95))
        for measure, what, bound in (("robust", "kept", kept), ("robust_rand", "broken", lost)):
            way = "more" if bound > 0 else "less"
            say(f"{name} training with a shortcut: {way} robust where it is {what}", bound, (1, high, measure),
                (-1, low, measure), above=bound > 0)  # fmt: skip
    for norm in ("l2", "linf"):
        robust = results.largest(two._replace(norm=norm))
        say(
            f"two classes, {norm} training: a worse worst group",
            -0.1,
            (1, robust, "worst"),
            (-1, two, "worst"),
            above=False,
        )
        say(f"two classes, {norm} training, last layer refitted: worst group", 0.45, (1, robust, "refit"))
    return out
