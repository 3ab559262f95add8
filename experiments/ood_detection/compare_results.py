"""Results of ood_detection.compare: AUROC of six trainings under attack, and what was expected of them."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal

import numpy as np

from experiments.ood_detection.config import Setting
from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.ood.metrics import auroc

NAMES = {
    "standard": "MSP", "oe": "OE", "adversarial": "ADV", "aoe": "AOE", "acet": "ACET", "aloe": "ALOE",
}  # fmt: skip
UNATTACKED = ("standard", "oe")
WITHOUT_OOD = ("standard", "adversarial")  # see no OOD images, so near ones change nothing


Arrays = Mapping[str, np.ndarray]
OOD = Literal["far", "near"]  # OOD images trained on


class Results:
    """What was measured of every setting, and how to look at it."""

    def __init__(
        self,
        settings: Mapping[Setting, Arrays],
        sets: tuple[str, ...],
        radii: tuple[float, ...],
        near_eps: float,
        resamples: int,
    ) -> None:
        self.settings, self.sets, self.radii = settings, sets, radii
        self.near_eps, self.resamples = near_eps, resamples
        self._scores = cache(self._pooled)
        self.auroc = cache(self._estimated)
        self.value = cache(lambda *which: mean_auroc(*self._scores(*which)))

    def arrays(self, ood: OOD, method: str, eps: float) -> Arrays:
        """Find the networks that a method gives at a radius."""
        ood = "far" if method in WITHOUT_OOD else ood
        return self.settings[Setting(ood, method, 0.0 if method in UNATTACKED else eps)]

    def _pooled(
        self,
        ood: OOD,
        method: str,
        trained: float,
        attacked: float,
        side: str = "both",
        only: str | None = None,
        by: str = "score",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Collect scores (s, n) and which set each belongs to, 0 for ID.

        Args:
          ood, method, trained: which networks: OOD images trained on, method, and radius.
          attacked: the radius of the attack; 0 for none.
          side: what is attacked: "in", "out" (OOD images) or "both".
          only: one OOD set, or all.
          by: what the attack maximises: the score, adaptively ("score") or by one run of PGD as published ("pgd"), or
            a surrogate ("uniform", "entropy", the latter on OOD images), or "worst" for the worst of all of them for
            each image.
        """
        it = self.arrays(ood, method, trained)
        on_id = {"score": ["lowered"], "pgd": ["lowered_pgd"], "uniform": ["lowered_uniform"]}
        on_id["entropy"] = on_id["uniform"]
        on_ood = {n: [f"raised_{n}"] for n in ("pgd", "uniform", "entropy")} | {"score": ["raised"]}
        lowered, raised = (
            d.get(by) or [name for names in d.values() for name in names] for d in (on_id, on_ood)
        )
        at = self.radii.index(attacked) if attacked else None
        inside = it["inside"] if at is None or side == "out" else np.min([it[n][:, at] for n in lowered], 0)
        outside = it["outside"] if at is None or side == "in" else np.max([it[n][:, at] for n in raised], 0)
        outside = outside if only is None else outside[:, [self.sets.index(only)]]
        seeds, sets, count = outside.shape
        scores = np.concatenate([inside, outside.reshape(seeds, -1)], axis=1)
        group = np.repeat(np.arange(sets + 1), [inside.shape[1], *[count] * sets])

        return scores, np.broadcast_to(group, scores.shape)

    def _estimated(self, *which: Any) -> Estimate:
        """Estimate the AUROC, mean over seeds and OOD sets; arguments as of `_pooled`."""
        return bootstrap(mean_auroc, *self._scores(*which), nested=True, resamples=self.resamples)

    def right(self, method: str, trained: float, attacked: float) -> float:
        """Compute the accuracy, under attack at a radius; mean over seeds."""
        at = self.radii.index(attacked) + 1 if attacked else 0
        return float(self.arrays("far", method, trained)["right"][:, at].mean())

    # --- tables ---------------------------------------------------------------------------------------

    def main_rows(self) -> list[dict[str, Any]]:
        """Tabulate the largest radius: accuracy, AUROC by side, and by set with both sides attacked."""
        eps, rows = self.radii[-1], []
        for method, name in NAMES.items():
            of = partial(self.value, "far", method, eps)
            rows.append(
                {
                    "training": name,
                    "accuracy": f"{self.right(method, eps, 0):.3f}",
                    "under attack": f"{self.right(method, eps, eps):.3f}",
                    "AUROC clean": f"{of(0.0):.3f}",
                    "ID attacked": f"{of(eps, 'in'):.3f}",
                    "OOD attacked": f"{of(eps, 'out'):.3f}",
                    "both": written(self.auroc("far", method, eps, eps)),
                    "both, worst of all attacks": f"{of(eps, 'both', None, 'worst'):.3f}",
                    "both, one run of PGD": f"{of(eps, 'both', None, 'pgd'):.3f}",
                    **{f"both, {s}": f"{of(eps, 'both', s):.3f}" for s in self.sets},
                }
            )
        return rows

    def radius_rows(self) -> list[dict[str, Any]]:
        """Tabulate AUROC with both sides attacked, trained and attacked at each radius."""
        return [
            {"radius": f"{e:g}"} | {n: written(self.auroc("far", m, e, e)) for m, n in NAMES.items()}
            for e in self.radii
        ]

    def near_rows(self) -> list[dict[str, Any]]:
        """Tabulate trainings on near OOD images alone, by what the attack maximises."""
        e, only = self.near_eps, self.sets[0]
        kinds = {
            "both sides, score": ("both", "score"),
            "both sides, score, one run of PGD": ("both", "pgd"),
            "both sides, CE to uniform": ("both", "uniform"),
            "both sides, worst of all": ("both", "worst"),
            "OOD, score": ("out", "score"),
            "OOD, entropy (ALOE)": ("out", "entropy"),
            "OOD, CE to uniform (ATOM)": ("out", "uniform"),
        }
        return [
            {"attack": says}
            | {n: written(self.auroc("near", m, e, e, side, only, by)) for m, n in NAMES.items()}
            for says, (side, by) in kinds.items()
        ]

    # --- what was expected ----------------------------------------------------------------------------

    def claims(self) -> list[dict[str, Any]]:
        """Say of each pass criterion what was found and whether it holds."""
        eps = self.radii[-1]
        b, worst = (
            {m: self.value("far", m, eps, eps, "both", None, by) for m in NAMES} for by in ("pgd", "worst")
        )
        accuracy = min(self.right(m, eps, 0) for m in NAMES)
        noise = self.value("far", "aloe", eps, eps, "both", self.sets[2], "pgd")
        rise = max(
            later - sooner
            for m in NAMES
            for side in ("in", "out", "both")
            for sooner, later in zip(
                [self.value("far", m, eps, r, side) for r in (0.0, *self.radii)],
                [self.value("far", m, eps, r, side) for r in self.radii],
                strict=False,
            )
        )
        excess = max(
            self.value(k, m, e, e, side, None, "score") - self.value(k, m, e, e, side, None, by)
            for k, es in (("far", self.radii), ("near", (self.near_eps,)))
            for e in es
            for m in NAMES
            for side in ("in", "out", "both")
            for by in ("pgd", "uniform", "entropy")
        )
        near = {m: self.value("near", m, self.near_eps, self.near_eps, "both", self.sets[0]) for m in NAMES}
        gain = max(near[m] for m in ("oe", "aoe", "acet", "aloe")) - near["adversarial"]
        table = [
            ("accuracy of every network", "at least 0.98", accuracy, accuracy >= 0.98),
            ("MSP, both attacked, one run of PGD", "at most 0.03", b["standard"], b["standard"] <= 0.03),
            ("OE, the same", "0.2 to 0.42", b["oe"], 0.2 <= b["oe"] <= 0.42),
            ("ALOE, the same", "at least 0.55", b["aloe"], b["aloe"] >= 0.55),
            ("ALOE on uniform noise, the same", "at least 0.95", noise, noise >= 0.95),
            ("ALOE less the best of the others, the same", "at least 0.05", lead(b), lead(b) >= 0.05),
            ("the same, worst of all attacks", "at least 0.05", lead(worst), lead(worst) >= 0.05),
            ("MSP < ADV < OE < AOE and ACET < ALOE, one run of PGD: least gap", "above 0", gap(b), gap(b) > 0),
            ("the same, worst of all attacks", "above 0", gap(worst), gap(worst) > 0),
            (
                "accuracy of ALOE under attack", "at least 0.84", self.right("aloe", eps, eps),
                self.right("aloe", eps, eps) >= 0.84,
            ),
            ("largest rise of AUROC with the radius", "at most 0", rise, rise <= 1e-9),
            ("adaptive attack less any other", "at most 0.01", excess, excess <= 0.01),
            ("near OOD only: best training on OOD images less ADV", "at most 0.05", gain, gain <= 0.05),
        ]  # fmt: skip
        return [
            {"criterion": c, "expected": e, "found": f"{f:.3f}", "holds": "yes" if ok else "NO"}
            for c, e, f, ok in table
        ]

    def facts(self) -> dict[str, Any]:
        """Collect everything that is tabulated, as plain data."""
        return {
            "criteria": self.claims(),
            "largest_radius": self.main_rows(),
            "radii": self.radius_rows(),
            "near_only": self.near_rows(),
        }

    def lines(self) -> list[str]:
        """Say on a terminal whether each criterion holds."""
        return [f"{c['holds']:>3}  {c['criterion']}: {c['found']} ({c['expected']})" for c in self.claims()]


def lead(b: Mapping[str, float]) -> float:
    """Compute what ALOE is above the best of the others."""
    return b["aloe"] - max(v for m, v in b.items() if m != "aloe")


def gap(b: Mapping[str, float]) -> float:
    """Compute the least step of MSP, ADV, OE, the lower of AOE and ACET, ALOE; AOE and ACET are in no order."""
    order = [b["standard"], b["adversarial"], b["oe"], min(b["aoe"], b["acet"]), b["aloe"]]
    return float(np.diff(order).min())


def mean_auroc(scores: np.ndarray, group: np.ndarray) -> float:
    """Average the AUROC over runs and sets: scores and groups are (s, n), group 0 ID."""
    sets = range(1, int(group.max()) + 1)
    return float(
        np.mean([auroc(s[g == 0], s[g == k]) for s, g in zip(scores, group, strict=True) for k in sets])
    )


def written(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
