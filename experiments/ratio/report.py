"""What the page of ratio.compare says: one table, what was expected of it, and pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.ratio import pictures
from experiments.ratio.results import TITLES
from experiments.ratio.results import Results as Results
from robustjax import runtime
from robustjax.runtime.report import Report


class Claim(NamedTuple):
    """What is expected of a number on every seed: to lie above or below a bound."""

    text: str
    found: np.ndarray  # (seeds,)
    bound: float
    above: bool = True

    def row(self) -> dict[str, Any]:
        """Judge it: one row of a table."""
        right = self.found >= self.bound if self.above else self.found <= self.bound
        return {
            "claim": self.text,
            "expected": f"at {'least' if self.above else 'most'} {self.bound:g}",
            "found, by seed": ", ".join(f"{v:.3f}" for v in self.found),
            "verdict": "holds" if right.all() else f"fails on {int((~right).sum())} of {len(right)}",
        }


def claims(it: Results) -> tuple[list[Claim], list[Claim]]:
    """State the criteria for RATIO, and the orderings that were seen before in a small experiment of this kind."""
    worst, clean, robust = it.by_seed("wc_auc"), it.by_seed("auc"), it.by_seed("robust")
    accuracy, sure = it.by_seed("accuracy"), it.by_seed("mmc_in")
    at_outliers = {m: it.reached(it.outlier_starts, m, it.cfg.outlier_eps) for m in it.cells}
    at_data = {m: it.reached(["test"], m, 2 * it.cfg.outlier_eps) for m in it.cells}
    criteria: list[Claim] = []
    orderings: list[Claim] = []

    def alone(to: list[Claim], text: str, of: dict, method: str, bound: float, above: bool = True) -> None:
        if method in of and of[method] is not None:
            to.append(Claim(text, of[method], bound, above))

    def between(to: list[Claim], text: str, of: dict, one: str, other: str, bound: float) -> None:
        if one in of and other in of:
            sign = "+" if bound >= 0 else "-"
            to.append(
                Claim(
                    f"{text}: {TITLES[one]} at least {TITLES[other]} {sign} {abs(bound):g}",
                    of[one] - of[other],
                    bound,
                )
            )

    alone(criteria, "worst-case AUC of RATIO", worst, "ratio", 0.80)
    for other in ("plain", "oe", "at"):
        between(criteria, "worst-case AUC", worst, "ratio", other, 0.05)
    between(criteria, "robust accuracy", robust, "ratio", "at", -0.05)
    near = f"confidence of counterfactuals from outliers at l2 {it.cfg.outlier_eps:g}"
    alone(criteria, f"{near}: RATIO", at_outliers, "ratio", 0.4, False)
    alone(criteria, f"{near}: AT", at_outliers, "at", 0.8)
    for other, bound in (("oe", 0.04), ("at", 0.25), ("acet", -0.01)):
        between(orderings, "worst-case AUC", worst, "ratio", other, bound)
    between(orderings, "worst-case AUC", worst, "at", "plain", 0.08)
    for one in ("oe", "acet", "ratio"):
        between(orderings, "clean AUC", clean, one, "at", 0.01)
    for other, bound in (("oe", 0.10), ("acet", 0.04), ("at", -0.06)):
        between(orderings, "robust accuracy", robust, "ratio", other, bound)
    between(orderings, "accuracy", accuracy, "ratio", "at", -0.03)
    between(orderings, "mean confidence on data", sure, "at", "oe", 0.05)
    between(orderings, "mean confidence on data", sure, "oe", "ratio", 0.05)
    alone(orderings, f"{near}: RATIO", at_outliers, "ratio", 0.35, False)
    alone(orderings, f"{near}: AT", at_outliers, "at", 0.9)
    far = f"confidence of counterfactuals from data at l2 {2 * it.cfg.outlier_eps:g}"
    alone(orderings, f"{far}: RATIO", at_data, "ratio", 0.65)
    alone(orderings, f"{far}: AT", at_data, "at", 0.9)
    return criteria, orderings


def page(it: Results, sets: Any) -> Report:
    """Write the page a person reads."""
    cfg = it.cfg
    sheet = Report("Unsure far from the data: RATIO beside its baselines", cfg)
    sheet.text(
        "A network should be right near its data, also under attack, and unsure far from them, also under attack. "
        "Plain training, outlier exposure (OE), ACET, adversarial training (AT), TRADES and RATIO were trained on the "
        f"same {sets.train.info.count:,} images of {cfg.dataset} and the same {sets.outliers.info.count:,} outliers "
        f"({sets.outliers.info.name}), {cfg.seeds} network{'s' if cfg.seeds > 1 else ''} each, and judged on outliers "
        f"of other sets: {', '.join(sets.tested)}."
    )
    sheet.section("The table")
    rows = it.table()
    _say(rows)
    sheet.table(
        rows,
        caption=f"Accuracy on {sets.test.info.count} test images. Robust: the worst of {_suite(cfg)}, "
        f"l2 {cfg.eps:g}. AUC by the largest probability, averaged over the sets; at worst within "
        f"l2 {cfg.outlier_eps:g} of every outlier, the largest of four searches: an upper bound. In brackets 95 % "
        "bootstrap intervals over networks and images; for ECE, least and largest of the networks.",
    )
    sheet.section("What was expected, and what was found")
    for caption, group in zip(
        (
            "The criteria, on every seed.",
            "Orderings seen on every seed of an earlier experiment of this kind, with weaker attacks.",
        ),
        claims(it),
        strict=True,
    ):
        judged = [claim.row() for claim in group]
        for row in judged:
            runtime.say(f"{row['verdict']:>14}: {row['claim']}: {row['found, by seed']}, {row['expected']}")
        if judged:
            sheet.table(judged, caption=caption)
    sheet.section("Every set of outliers")
    sheet.table(
        it.per_set(),
        caption="Between certificate and attack: what interval bounds guarantee for the ball, the true worst case lies "
        "in between, what the attacks reach. Mean over networks.",
    )
    for picture, name, caption in pictures.curves(it):
        sheet.picture(picture, name=name, caption=caption)
    sheet.section("Counterfactuals")
    sheet.text(
        "From each start the probability of the target class is made as large as possible within l2 balls of rising "
        "radius. Test images aim at the class after their own, outliers at the class that each network sees in them "
        "at the start. Shown are the first images of each set, of the first network: nothing was chosen. Under each "
        "image is the probability of the target."
    )
    for picture, name, caption in pictures.strips(it):
        sheet.picture(picture, name=name, caption=caption)
    sheet.table(
        it.counterfactuals(),
        caption="Valid: the target class with more than 0.9. Judged: the share that an adversarially trained "
        f"{cfg.judge_model} of another seed puts into the target class; features of that network also give the Frechet "
        f"distance to {min(sets.train.info.count, 5000):,} training images. With {it.starting} images it is too large "
        "by far and compares only within this table. At radius 0 are the starts themselves. Moved: mean realised "
        "l2 distance.",
    )
    sheet.section("Calibration")
    picture, caption = pictures.reliability(it)
    sheet.picture(picture, name="reliability", caption=caption)
    sheet.scope(
        attacked=[f"{cfg.model}, {', '.join(TITLES[m] for m in it.cells)}, {cfg.seeds} seeds"],
        attacks=[
            f"accuracy: {_suite(cfg)}, l2 {cfg.eps:g}",
            f"confidence: APGD from {cfg.sure_starts} starts ({cfg.sure_steps} steps), at every class "
            f"({cfg.class_steps} steps), from flat grey, and on the divergence from uniform, l2 {cfg.outlier_eps:g}",
        ],
        not_attacked=[
            "other norms",
            *(["FAB, Square"] if cfg.suite == "short" else []),
            "data, to lower their score, beside outliers",
        ],
    )
    return sheet


def _suite(cfg: Any) -> str:
    if cfg.suite == "standard":
        return "AutoAttack's standard suite (APGD on cross-entropy, APGD and FAB at 9 targets, Square)"
    return (
        f"APGD on cross-entropy ({cfg.judge_steps} steps) and at 9 targets ({cfg.target_steps} each), a strong part of "
        "AutoAttack without FAB and Square"
    )


def _say(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    wide = [max(len(str(row[n])) for row in [*rows, {n: n for n in names}]) for n in names]
    line: Callable = lambda cells: "  ".join(str(c).ljust(w) for c, w in zip(cells, wide, strict=True))  # noqa: E731
    runtime.say(line(names))
    for row in rows:
        runtime.say(line([row[n] for n in names]))
