"""The page of ood_to_id.train."""

import pathlib
from typing import Any

import numpy as np

from robustjax import runtime
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report

STORY = (
    "T leads unusual images back to usual ones; f is the classifier it works for. Attacks on this page are made on f "
    "alone and know nothing of T: accuracies under them say that T undoes what it was trained on, and nothing about "
    "an adversary who knows it. The system is reconstructed from the abstract of arXiv:2202.08944 and the papers of "
    "its parts; that paper's tables were not available."
)


def report(
    cfg: Any, folder: pathlib.Path, rows: list[dict[str, Any]], pictures: Any, until: float | None
) -> Report:
    """Write the page a person reads."""
    page = Report(f"A translator ({cfg.kind}) for {cfg.dataset}", cfg)
    page.text(STORY)
    if until is not None:
        page.text(
            f"Images are mixed with noise up to time {until:g}, the best of those tried on validation images."
        )
    page.table(
        rows,
        caption=f"The first {cfg.judged} test images at most; distances are mean absolute differences of pixels from "
        "the clean image, before and after T.",
    )
    page.section("Before and after")
    for name, (clean, unusual, back) in pictures.items():
        page.picture(strip(clean, unusual, back), caption=name)
    page.section("Training")
    measured = runtime.read_metrics(folder)
    names = dict.fromkeys(name for line in measured for name in line)
    page.picture(
        figures.training(measured, names=[name for name in names if name not in ("step", "classifier_risk")]),
        caption="What was measured on the way; one stage after the other.",
        name="training",
    )
    page.scope(
        attacked=[f"the classifier alone, on test images of {cfg.dataset}"],
        attacks=[f"PGD, {cfg.judge_steps} steps, linf {cfg.recipe.eps:.3g}, on the cross-entropy"],
        not_attacked=["the translator and the gate: anybody who knows them", "other norms and radii"],
    )
    return page


def strip(clean: np.ndarray, unusual: np.ndarray, back: np.ndarray) -> bytes:
    """Show images, what became of them, what T makes of that, and what T changed and missed, amplified."""
    largest = max(float(np.abs(back - unusual).max()), float(np.abs(back - clean).max()), 0.01)
    gain = round(0.5 / largest, 1)
    rows = [clean, unusual, back]
    rows += [np.clip(0.5 + gain * difference, 0, 1) for difference in (back - unusual, back - clean)]
    names = ["clean", "before T", "after T", f"changed ×{gain:g}", f"missed ×{gain:g}"]  # noqa: RUF001
    return image_grids.grid(rows, rows=names)
