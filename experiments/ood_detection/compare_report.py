"""The report of ood_detection.compare: what was expected of six trainings, what was found, and all numbers."""

import numpy as np

from experiments.ood_detection.compare_results import NAMES, Results
from experiments.ood_detection.config import CompareConfig
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report


def build(cfg: CompareConfig, results: Results) -> Report:
    """Build the report."""
    eps, holds = results.radii[-1], [c["holds"] == "yes" for c in results.claims()]
    report = Report("OOD detection under attack: six trainings on digits", cfg)
    report.text(
        "Digits 0 to 5 are ID. Everything else must score low, also when an adversary moves every pixel by up "
        f"to {eps:g}. {sum(holds)} of {len(holds)} expectations hold. Numbers are means over {cfg.seeds} seeds "
        "with 95 % bootstrap intervals over networks and images."
    )
    report.table(results.claims(), caption="What was expected before the run, and what was found.")
    report.section("At the largest radius")
    report.table(
        results.main_rows(),
        caption=f"AUROC of the margin of the likeliest class, mean over {len(results.sets)} OOD sets; attack "
        f"at {eps:g}.",
    )
    for side, says in (("both", "ID and OOD images"), ("out", "OOD images alone")):
        drawn = {}
        for m, name in NAMES.items():
            line = [results.auroc("far", m, eps, r, side) for r in (0.0, *results.radii)]
            drawn[name] = tuple(np.array([getattr(e, p) for e in line]) for p in ("value", "low", "high"))
        report.picture(
            figures.curves(
                np.array([0.0, *results.radii]), drawn, xlabel="linf radius of the attack", ylabel="AUROC",
                limits=(-0.02, 1.02),
            ),
            caption=f"AUROC over the radius with {says} attacked, for networks trained at {eps:g}.",
            name=f"auroc_{side}",
        )  # fmt: skip
    report.picture(figures.roc(rocs(results)), caption="ROC of seed 0, all OOD sets together.", name="roc")
    report.table(
        results.radius_rows(), caption="AUROC with both sides attacked, trained and attacked at each radius."
    )
    report.section("Near OOD images only")
    report.table(
        results.near_rows(),
        columns=["attack", *NAMES.values()],
        caption=f"Trained with 6 and 7 as OOD images, tested on 8 and 9, radius {results.near_eps:g}. With near OOD "
        "images only, their term buys little or nothing over plain adversarial training (ADV). The rows show how much "
        "too good a detector looks under the surrogates of the papers.",
    )
    report.section("OOD images under attack")
    for method in ("standard", "aloe"):
        it = results.arrays("far", method, eps)
        before, after = (it[n][0].reshape(-1, 8, 8, 1) for n in ("shown", "shown_raised"))
        raised = it["raised"][0, -1][:, 0]
        captions = [f"{a:.1f} → {b:.1f}" for a, b in zip(it["outside"][0][:, 0], raised, strict=True)]
        report.picture(
            image_grids.attacked(before, after, captions=captions, columns=results.sets),
            caption=f"{NAMES[method]}: one OOD image of each set, attacked within {eps:g} so that it passes for ID. "
            f"Below: margin before and after; 95 % of clean ID images exceed {np.quantile(it['inside'][0], 0.05):.1f}.",
            name=f"attacked_{method}",
        )
    report.scope(
        attacked=["the margin of the likeliest class, which ranks as MSP; ID and OOD images; the classes"],
        attacks=[
            f"APGD on the score, linf up to {eps:g}, {cfg.evaluation_steps} steps, {cfg.evaluation_restarts} restarts, "
            "best point over all smaller radii",
            f"PGD, {cfg.evaluation_steps} steps of 2.5 eps / {cfg.evaluation_steps} and one random start, on the "
            "score, on cross-entropy to uniform and on entropy; for the classes on cross-entropy",
        ],
        not_attacked=["targeted classes, black-box", "other norms", "corruptions"],
    )
    return report


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
