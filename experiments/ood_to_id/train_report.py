"""The report of ood_to_id.train."""

import numpy as np

from experiments.ood_to_id.config import TrainConfig
from experiments.ood_to_id.training import Trained
from robustjax import runtime
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report

INTRODUCTION = (
    "T leads OOD images back to ID images; f is the classifier it works for. Attacks in this report are made on f "
    "alone and know nothing of T: accuracies under them say that T undoes what it was trained on, and nothing about "
    "an adversary who knows it. The system is reconstructed from the abstract of arXiv:2202.08944 and the papers of "
    "its parts; that paper's tables were not available."
)


def training_report(cfg: TrainConfig, trained: Trained) -> Report:
    """Write the report of a training."""
    until, report = trained.until, Report(f"A translator ({cfg.kind}) for {cfg.dataset}", cfg)
    report.text(INTRODUCTION)
    if until is not None:
        report.text(
            f"Images are mixed with noise up to time {until:g}, the best of those tried on validation images."
        )
    report.text(f"Images: {trained.images}.")
    report.table(
        trained.rows,
        caption=f"{cfg.evaluation_images} test images at most; distances are mean absolute differences of "
        "pixels from the clean image, before and after T.",
    )
    report.section("Before and after")
    for name, (clean, perturbed, back) in trained.pictures.items():
        report.picture(strip(clean, perturbed, back), caption=name)
    if measured := runtime.read_metrics(
        trained.folder
    ):  # none where the networks and the translator were given
        report.section("Training")
        names = dict.fromkeys(name for line in measured for name in line)
        drawn = [name for name in names if name not in ("step", "classifier_risk")]
        report.picture(
            figures.training(measured, names=drawn),
            caption="Metrics over the updates; one stage after the other.",
            name="training",
        )
    report.scope(
        attacked=[f"the classifier alone, on test images of {cfg.dataset}"],
        attacks=[f"PGD, {cfg.evaluation_steps} steps, linf {cfg.recipe.eps:.3g}, on the cross-entropy"],
        not_attacked=["the translator and the gate: anybody who knows them", "other norms and radii"],
    )
    return report


def strip(clean: np.ndarray, perturbed: np.ndarray, back: np.ndarray) -> bytes:
    """Show images, perturbed ones, what T makes of those, and what T changed and missed, amplified."""
    largest = max(float(np.abs(back - perturbed).max()), float(np.abs(back - clean).max()), 0.01)
    gain = round(0.5 / largest, 1)
    rows = [clean, perturbed, back]
    rows += [np.clip(0.5 + gain * difference, 0, 1) for difference in (back - perturbed, back - clean)]
    names = ["clean", "before T", "after T", f"changed ×{gain:g}", f"missed ×{gain:g}"]  # noqa: RUF001
    return image_grids.grid(rows, rows=names)
