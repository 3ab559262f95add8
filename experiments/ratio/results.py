"""The numbers in the reports of ratio.compare and ratio.evaluate, from the arrays measured of every network."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments.ratio.config import HARDEST, Measured
from robustjax.analysis import calibration
from robustjax.analysis.detection import clean_and_worst_case
from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.bounds.confidence import guaranteed_auroc
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.metrics import auroc

TITLES = {
    "plain": "plain", "oe": "OE", "ceda": "CEDA", "acet": "ACET", "at": "AT", "trades": "TRADES", "ratio": "RATIO",
    "half_ratio": "RATIO, half clean", "trades_acet": "TRADES-ACET", "trades_ceda": "TRADES-CEDA",
}  # fmt: skip
Arrays = dict[str, np.ndarray]
APART = ("all", HARDEST)  # starts of counterfactuals that have a figure of their own and are in no table


class Results(NamedTuple):
    """What was measured of all networks.

    Attributes:
      cfg: what was asked for.
      measured: of every method, the arrays of `measure.Evaluation`, stacked over seeds.
      classes: names of the ID classes.
      eps, ood_eps: the l2 radii around ID and OOD images.
      titles: what methods are called, if not by their names.
    """

    cfg: Measured
    measured: Mapping[str, Arrays]
    classes: tuple[str, ...]
    eps: float
    ood_eps: float
    titles: Mapping[str, str] = MappingProxyType({})

    def title(self, method: str) -> str:
        """Say what a method is called."""
        return self.titles.get(method, method)

    @property
    def ood_sets(self) -> list[str]:
        """Name the OOD sets."""
        return list(self.cfg.test_ood_sets)

    @property
    def starts(self) -> list[str]:
        """Name the sets of images that counterfactuals start from."""
        found = next(iter(self.measured.values()))
        return [
            k.removeprefix("target/")
            for k in found
            if k.startswith("target/") and k.removeprefix("target/") not in APART
        ]

    @property
    def ood_starts(self) -> list[str]:
        """Name those of them that are OOD."""
        return [name for name in self.starts if name != "test"]

    @property
    def counterfactuals_per_start(self) -> int:
        """Count the counterfactuals from one set."""
        return next(iter(self.measured.values()))["target/test"].shape[1]

    def scores(self, method: str) -> tuple[np.ndarray, Arrays, Arrays]:
        """Compute log odds of the largest probability: of ID images, of OOD sets, and at worst around OOD images."""
        found = self.measured[method]
        clean = {name: log_odds(found[f"logits/{name}"]) for name in self.ood_sets}
        worst = {name: np.maximum(found[f"worst_case/{name}"], clean[name]) for name in self.ood_sets}
        return log_odds(found["logits/test"]), clean, worst

    def accuracy(self) -> Arrays:
        """Compute the clean accuracy of every network, (seeds,) by method."""
        return {m: correct(found).mean(axis=1) for m, found in self.measured.items()}

    def robust_accuracy(self) -> Arrays:
        """Compute the robust accuracy of every network, (seeds,) by method."""
        return {m: found["robust"].mean(axis=1) for m, found in self.measured.items()}

    def id_confidence(self) -> Arrays:
        """Compute the mean confidence on ID images of every network, (seeds,) by method."""
        return {m: scipy.special.expit(self.scores(m)[0]).mean(axis=1) for m in self.measured}

    def auroc(self, *, worst_case: bool) -> Arrays:
        """Compute the AUROC of every network, mean over OOD sets, clean or at worst, (seeds,) by method."""
        out = {}
        for method in self.measured:
            inside, clean, worst = self.scores(method)
            sets = worst if worst_case else clean
            out[method] = np.array(
                [np.mean([auroc(inside[s], sets[n][s]) for n in sets]) for s in range(len(inside))]
            )
        return out

    def target_probability(self, method: str, start: str) -> np.ndarray:
        """Compute the target's probability in every counterfactual, (seeds, n, radii)."""
        found = self.measured[method]
        p = scipy.special.softmax(found[f"counterfactual_logits/{start}"].astype(np.float64), axis=-1)
        return np.take_along_axis(p, found[f"target/{start}"][:, :, None, None], axis=-1)[..., 0]

    def mean_target_probability(self, starts: list[str], radius: float) -> Arrays:
        """Average it over some starts at a radius, (seeds,) by method; empty if that radius was not searched."""
        if radius not in self.cfg.counterfactual_radii or not starts:
            return {}
        at = self.cfg.counterfactual_radii.index(radius)
        return {
            m: np.mean([self.target_probability(m, s)[..., at].mean(axis=1) for s in starts], axis=0)
            for m in self.measured
        }

    def temperatures(self, method: str) -> list[float]:
        """Find the temperature of every network on held-out images."""
        found = self.measured[method]
        return [
            calibration.temperature(z, y)
            for z, y in zip(found["logits/valid"], found["label/valid"], strict=True)
        ]

    def ece(self, method: str, temperatures: Sequence[float], bins: int) -> list[float]:
        """Compute the expected calibration error of every network on test images."""
        found = self.measured[method]
        return [
            calibration.ece(calibration.confidence(z, temperature=t), right, bins=bins)
            for z, right, t in zip(found["logits/test"], correct(found), temperatures, strict=True)
        ]

    def summary_table(self) -> list[dict[str, Any]]:
        """Tabulate the main results: one row per method."""
        rows = []
        near = self.mean_target_probability(self.ood_starts, self.ood_eps)
        for method, found in self.measured.items():
            inside, clean, worst = self.scores(method)
            # Probabilities tie where they round to 1, log odds do not: the order is theirs.
            detection = clean_and_worst_case(inside, clean, worst, resamples=self.cfg.resamples)
            confidence, ood_confidence, worst_confidence = (
                np.mean([scipy.special.expit(a).mean() for a in sets.values()])
                for sets in ({"test": inside}, clean, worst)
            )
            temperatures = self.temperatures(method)
            uncalibrated = [1.0] * len(temperatures)
            row = {
                "method": self.title(method),
                "accuracy": with_interval(mean(correct(found), self.cfg.resamples)),
                "robust": with_interval(mean(found["robust"], self.cfg.resamples)),
                "AUROC": with_interval(detection["auroc"]),
                "worst-case AUROC": with_interval(detection["worst_case_auroc"]),
                "worst-case FPR95": with_interval(detection["worst_case_fpr95"]),
                "MMC ID": f"{confidence:.3f}",
                "MMC OOD": f"{ood_confidence:.3f}",
                "worst-case MMC": f"{worst_confidence:.3f}",
                "ECE 15": with_range(self.ece(method, uncalibrated, 15)),
                "ECE 20": with_range(self.ece(method, uncalibrated, 20)),
                "T": with_range(temperatures),
                "ECE 20 at T": with_range(self.ece(method, temperatures, 20)),
            }
            if method in near:
                row[f"counterfactuals at {self.ood_eps:g}"] = with_range(near[method])
            rows.append(row)
        return rows

    def ood_set_table(self) -> list[dict[str, Any]]:
        """Tabulate every OOD set: clean, attacked and guaranteed AUROC, and mean confidences alike."""
        rows = []
        for method, found in self.measured.items():
            inside, clean, worst = self.scores(method)
            for name in self.ood_sets:
                pairs = list(zip(inside, clean[name], worst[name], strict=True))
                row: dict[str, Any] = {"method": self.title(method), "OOD set": name}
                row["AUROC"] = f"{np.mean([auroc(a, b) for a, b, _ in pairs]):.3f}"
                row["attacked AUROC"] = f"{np.mean([auroc(a, c) for a, _, c in pairs]):.3f}"
                bound = found.get(f"certified/{name}")
                if bound is not None:
                    log_p = np.log(scipy.special.expit(inside.astype(np.float64)))
                    row["guaranteed AUROC"] = (
                        f"{np.mean([guaranteed_auroc(a, b) for a, b in zip(log_p, bound, strict=True)]):.3f}"
                    )
                row["MMC"] = f"{scipy.special.expit(clean[name]).mean():.3f}"
                row["attacked MMC"] = f"{scipy.special.expit(worst[name]).mean():.3f}"
                if bound is not None:
                    row["certified MMC"] = f"{np.exp(bound).mean():.3f}"
                rows.append(row)
        return rows

    def counterfactual_table(self) -> list[dict[str, Any]]:
        """Tabulate the counterfactuals: one row per start, method and radius."""
        rows = []
        for start in self.starts:
            for method, found in self.measured.items():
                p, logits = (
                    self.target_probability(method, start),
                    found[f"counterfactual_logits/{start}"],
                )
                predicted = logits.argmax(axis=-1) == found[f"target/{start}"][:, :, None]
                image = found[f"counterfactual/{start}"].astype(np.float32)
                distance = np.sqrt(np.square(image - image[:, :, :1]).sum(axis=(-3, -2, -1)))
                agreement, frechet = (found.get(f"{name}/{start}") for name in ("agreement", "frechet"))
                for i, radius in enumerate(self.cfg.counterfactual_radii):
                    row = {
                        "start": start,
                        "method": self.title(method),
                        "radius": f"{radius:g}",
                        "probability": with_range(p[..., i].mean(axis=1)),
                        "valid": f"{(predicted & (p > 0.9))[..., i].mean():.2f}",
                        "distance": f"{distance[..., i].mean():.2f}",
                    }
                    if agreement is not None and frechet is not None:
                        row["agreement"] = f"{agreement[..., i].mean():.2f}"
                        row["Frechet"] = with_range(frechet[:, i], ".1f")
                    rows.append(row)
        return rows


class Criterion(NamedTuple):
    """What a number is expected to be on every seed: at least or at most a bound."""

    text: str
    found: np.ndarray  # (seeds,)
    bound: float
    at_least: bool = True

    def row(self) -> dict[str, Any]:
        """Compare it with the bound: one row of a table."""
        holds = self.found >= self.bound if self.at_least else self.found <= self.bound
        return {
            "criterion": self.text,
            "expected": f"at {'least' if self.at_least else 'most'} {self.bound:g}",
            "found, by seed": ", ".join(f"{v:.3f}" for v in self.found),
            "result": "holds" if holds.all() else f"fails on {int((~holds).sum())} of {len(holds)}",
        }


def at_bound(
    text: str, values: Arrays, method: str, bound: float, *, at_least: bool = True
) -> list[Criterion]:
    """Expect a number of a method to be at least or at most a bound; nothing where it was not measured."""
    return [Criterion(text, values[method], bound, at_least)] if method in values else []


def above(text: str, values: Arrays, one: str, other: str, bound: float) -> list[Criterion]:
    """Expect a number of one method to be above another's by a bound; nothing where one was not measured."""
    if one not in values or other not in values:
        return []
    sign = "+" if bound >= 0 else "-"
    text = f"{text}: {TITLES[one]} at least {TITLES[other]} {sign} {abs(bound):g}"
    return [Criterion(text, values[one] - values[other], bound)]


def criteria(it: Results) -> list[Criterion]:
    """State the criteria for RATIO, which were fixed beforehand."""
    worst, robust = it.auroc(worst_case=True), it.robust_accuracy()
    near = it.mean_target_probability(it.ood_starts, it.ood_eps)
    text = f"probability of counterfactuals from OOD images at l2 {it.ood_eps:g}"
    return [
        *at_bound("worst-case AUROC of RATIO", worst, "ratio", 0.80),
        *above("worst-case AUROC", worst, "ratio", "plain", 0.05),
        *above("worst-case AUROC", worst, "ratio", "oe", 0.05),
        *above("worst-case AUROC", worst, "ratio", "at", 0.05),
        *above("robust accuracy", robust, "ratio", "at", -0.05),
        *at_bound(f"{text}: RATIO", near, "ratio", 0.4, at_least=False),
        *at_bound(f"{text}: AT", near, "at", 0.8),
    ]


def orderings(it: Results) -> list[Criterion]:
    """State the orderings of methods that were seen in an earlier, smaller experiment."""
    worst, clean = it.auroc(worst_case=True), it.auroc(worst_case=False)
    robust, confidence = it.robust_accuracy(), it.id_confidence()
    near = it.mean_target_probability(it.ood_starts, it.ood_eps)
    far = it.mean_target_probability(["test"], 2 * it.ood_eps)
    near_text = f"probability of counterfactuals from OOD images at l2 {it.ood_eps:g}"
    far_text = f"probability of counterfactuals from ID images at l2 {2 * it.ood_eps:g}"
    return [
        *above("worst-case AUROC", worst, "ratio", "oe", 0.04),
        *above("worst-case AUROC", worst, "ratio", "at", 0.25),
        *above("worst-case AUROC", worst, "ratio", "acet", -0.01),
        *above("worst-case AUROC", worst, "at", "plain", 0.08),
        *above("clean AUROC", clean, "oe", "at", 0.01),
        *above("clean AUROC", clean, "acet", "at", 0.01),
        *above("clean AUROC", clean, "ratio", "at", 0.01),
        *above("robust accuracy", robust, "ratio", "oe", 0.10),
        *above("robust accuracy", robust, "ratio", "acet", 0.04),
        *above("robust accuracy", robust, "ratio", "at", -0.06),
        *above("accuracy", it.accuracy(), "ratio", "at", -0.03),
        *above("mean confidence on ID images", confidence, "at", "oe", 0.05),
        *above("mean confidence on ID images", confidence, "oe", "ratio", 0.05),
        *at_bound(f"{near_text}: RATIO", near, "ratio", 0.35, at_least=False),
        *at_bound(f"{near_text}: AT", near, "at", 0.9),
        *at_bound(f"{far_text}: RATIO", far, "ratio", 0.65),
        *at_bound(f"{far_text}: AT", far, "at", 0.9),
    ]


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Compute the log odds of the largest probability, (..., k) -> (...)."""
    flat = msp_margin(jnp.asarray(logits.reshape(-1, logits.shape[-1])))
    return np.asarray(flat, np.float64).reshape(logits.shape[:-1])


def correct(found: Arrays) -> np.ndarray:
    """Find the test images that are classified correctly, (seeds, n)."""
    return found["logits/test"].argmax(axis=-1) == found["label/test"]


def mean(values: np.ndarray, resamples: int) -> Estimate:
    """Estimate a mean over networks and images."""
    return bootstrap(lambda v: float(v.mean()), values, nested=True, resamples=resamples)


def with_interval(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def with_range(values: Any, form: str = ".3f") -> str:
    """Write the mean of a few networks with the least and the largest."""
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{values.mean():{form}} ({values.min():{form}}-{values.max():{form}})"
