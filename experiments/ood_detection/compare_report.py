"""What the page of ood_detection.compare says: what was expected of six trainings, what was found, and all numbers."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np

from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.ood.metrics import auroc
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report

NAMES = {
    "standard": "MSP", "oe": "OE", "adversarial": "ADV", "aoe": "AOE", "acet": "ACET", "aloe": "ALOE",
}  # fmt: skip
UNATTACKED = ("standard", "oe")
BLIND = ("standard", "adversarial")  # see no outliers, so near ones change nothing


class Cell(NamedTuple):
    """One setting, trained with all seeds at once."""

    kind: Literal["far", "near"]  # of the outliers trained on
    method: str
    eps: float

    @property
    def name(self) -> str:
        """Name the file of the setting."""
        return f"{self.kind}_{self.method}_{self.eps:.4g}"


Arrays = Mapping[str, np.ndarray]


class Results:
    """What was measured of every setting, and how to look at it."""

    def __init__(
        self, cells: Mapping[Cell, Arrays], sets: tuple[str, ...], radii: tuple[float, ...], near: float,
        resamples: int,
    ) -> None:  # fmt: skip
        self.cells, self.sets, self.radii, self.near, self.resamples = cells, sets, radii, near, resamples
        self._scores = cache(self._pooled)
        self.auroc = cache(self._estimated)
        self.value = cache(lambda *asked: mean_auroc(*self._scores(*asked)))

    def arrays(self, kind: str, method: str, eps: float) -> Arrays:
        """Find the networks that a method gives at a radius."""
        kind = "far" if method in BLIND else kind
        return self.cells[Cell(kind, method, 0.0 if method in UNATTACKED else eps)]  # pyright: ignore

    def _pooled(
        self, kind: str, method: str, trained: float, attacked: float, side: str = "both", only: str | None = None,
        by: str = "score",
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Collect scores (s, n) and which set each belongs to, 0 for the data.

        Args:
          kind, method, trained: which networks.
          attacked: the radius of the attack; 0 for none.
          side: both, in or out.
          only: one set of outliers, or all.
          by: what the attack climbs: the score, adaptively ("score") or by one run of PGD as the protocol has it
            ("pgd"), or a surrogate ("uniform", "entropy", the latter on outliers), or "worst" for the worst of all of
            them for each image.
        """
        it = self.arrays(kind, method, trained)
        downs = {"score": ["lowered"], "pgd": ["lowered_pgd"], "uniform": ["lowered_uniform"]}
        downs["entropy"] = downs["uniform"]
        ups = {n: [f"raised_{n}"] for n in ("pgd", "uniform", "entropy")} | {"score": ["raised"]}
        down, up = (d.get(by) or [name for names in d.values() for name in names] for d in (downs, ups))
        at = self.radii.index(attacked) if attacked else None
        inside = it["inside"] if at is None or side == "out" else np.min([it[n][:, at] for n in down], 0)
        outside = it["outside"] if at is None or side == "in" else np.max([it[n][:, at] for n in up], 0)
        outside = outside if only is None else outside[:, [self.sets.index(only)]]
        seeds, sets, count = outside.shape
        scores = np.concatenate([inside, outside.reshape(seeds, -1)], axis=1)
        group = np.repeat(np.arange(sets + 1), [inside.shape[1], *[count] * sets])

        return scores, np.broadcast_to(group, scores.shape)

    def _estimated(self, *asked: Any) -> Estimate:
        """Estimate the AUROC, mean over seeds and sets of outliers; asked for as in `_pooled`."""
        return bootstrap(mean_auroc, *self._scores(*asked), nested=True, resamples=self.resamples)

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
                    "data attacked": f"{of(eps, 'in'):.3f}",
                    "outliers attacked": f"{of(eps, 'out'):.3f}",
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
        """Tabulate what near outliers alone do, by what the attack climbs."""
        e, only = self.near, self.sets[0]
        kinds = {
            "both sides, score": ("both", "score"),
            "both sides, score, one run of PGD": ("both", "pgd"),
            "both sides, CE to uniform": ("both", "uniform"),
            "both sides, worst of all": ("both", "worst"),
            "outliers, score": ("out", "score"),
            "outliers, entropy (ALOE)": ("out", "entropy"),
            "outliers, CE to uniform (ATOM)": ("out", "uniform"),
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
            for k, es in (("far", self.radii), ("near", (self.near,)))
            for e in es
            for m in NAMES
            for side in ("in", "out", "both")
            for by in ("pgd", "uniform", "entropy")
        )
        near = {m: self.value("near", m, self.near, self.near, "both", self.sets[0]) for m in NAMES}
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
            ("near outliers only: best outlier term less ADV", "at most 0.05", gain, gain <= 0.05),
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
    """Compute the least step of MSP, ADV, OE, the lower of AOE and ACET, ALOE; AOE and ACET are not told apart."""
    order = [b["standard"], b["adversarial"], b["oe"], min(b["aoe"], b["acet"]), b["aloe"]]
    return float(np.diff(order).min())


def mean_auroc(scores: np.ndarray, group: np.ndarray) -> float:
    """Average the AUROC over runs and sets: scores and groups are (s, n), group 0 the data."""
    sets = range(1, int(group.max()) + 1)
    return float(
        np.mean([auroc(s[g == 0], s[g == k]) for s, g in zip(scores, group, strict=True) for k in sets])
    )


def written(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def page(cfg: Any, results: Results) -> Report:
    """Write the page."""
    eps, holds = results.radii[-1], [c["holds"] == "yes" for c in results.claims()]
    page = Report("Outliers, attacked: six trainings on digits", cfg)
    page.text(
        "Digits 0 to 5 are data. Everything else must score low, also when an adversary moves every pixel by up "
        f"to {eps:g}. {sum(holds)} of {len(holds)} expectations hold. Numbers are means over {cfg.seeds} seeds "
        "with 95 % bootstrap intervals over networks and images."
    )
    page.table(results.claims(), caption="What was expected before the run, and what was found.")
    page.section("At the largest radius")
    page.table(
        results.main_rows(),
        caption=f"AUROC of the margin of the likeliest class, mean over {len(results.sets)} sets of outliers; attack "
        f"at {eps:g}.",
    )
    for side, says in (("both", "data and outliers"), ("out", "outliers alone")):
        drawn = {}
        for m, name in NAMES.items():
            line = [results.auroc("far", m, eps, r, side) for r in (0.0, *results.radii)]
            drawn[name] = tuple(np.array([getattr(e, p) for e in line]) for p in ("value", "low", "high"))
        page.picture(
            figures.curves(
                np.array([0.0, *results.radii]), drawn, xlabel="linf radius of the attack", ylabel="AUROC",
                limits=(-0.02, 1.02),
            ),
            caption=f"AUROC over the radius with {says} attacked, for networks trained at {eps:g}.",
            name=f"auroc_{side}",
        )  # fmt: skip
    page.picture(
        figures.roc(rocs(results)), caption="ROC of seed 0, outliers of all sets together.", name="roc"
    )
    page.table(
        results.radius_rows(), caption="AUROC with both sides attacked, trained and attacked at each radius."
    )
    page.section("Near outliers only")
    page.table(
        results.near_rows(),
        columns=["attack", *NAMES.values()],
        caption=f"Trained with 6 and 7 as outliers, judged on 8 and 9, radius {results.near:g}. With near outliers "
        "only, the outlier term buys little or nothing over plain adversarial training (ADV). The rows show how much "
        "the losses that papers climb flatter a detector.",
    )
    page.section("Outliers under attack")
    for method in ("standard", "aloe"):
        it = results.arrays("far", method, eps)
        before, after = (it[n][0].reshape(-1, 8, 8, 1) for n in ("shown", "shown_raised"))
        raised = it["raised"][0, -1][:, 0]
        captions = [f"{a:.1f} → {b:.1f}" for a, b in zip(it["outside"][0][:, 0], raised, strict=True)]
        page.picture(
            image_grids.attacked(before, after, captions=captions, columns=results.sets),
            caption=f"{NAMES[method]}: one outlier of each set, moved by up to {eps:g} so that it passes for a digit. "
            f"Below: margin before and after; 95 % of clean data are above {np.quantile(it['inside'][0], 0.05):.1f}.",
            name=f"attacked_{method}",
        )
    page.scope(
        attacked=[
            "the margin of the likeliest class, as adaptive score of MSP; data and outliers; the classes"
        ],
        attacks=[
            f"APGD on the score, linf up to {eps:g}, {cfg.judge_steps} steps, {cfg.judge_starts} random starts, "
            "best point over all smaller radii",
            f"PGD, {cfg.judge_steps} steps of 2.5 eps / {cfg.judge_steps} and one random start, on the score, on "
            "cross-entropy to uniform and on entropy; for the classes on cross-entropy",
        ],
        not_attacked=["targeted classes, black-box", "other norms", "corruptions"],
    )
    return page


def rocs(results: Results) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draw ROC curves of three trainings, clean and with both sides attacked."""
    lines = {}
    for method in ("standard", "oe", "aloe"):
        it = results.arrays("far", method, results.radii[-1])
        for says, a, b in (
            ("clean", it["inside"][0], it["outside"][0]), ("attacked", it["lowered"][0, -1], it["raised"][0, -1]),
        ):  # fmt: skip
            at = np.unique(np.concatenate([a, b.ravel()]))[::-1]
            false, true = ((v.size - np.searchsorted(np.sort(v), at)) / v.size for v in (b.ravel(), a))
            lines[f"{NAMES[method]}, {says}"] = np.insert(false, 0, 0.0), np.insert(true, 0, 0.0)
    return lines
