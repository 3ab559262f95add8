"""What the page of ood_detection.train says: how training went, and some outliers under attack."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustjax.data.sources import Split
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report

ATTACKED = {
    "standard": "nothing", "oe": "nothing", "ceda": "nothing", "ntom": "nothing", "sofl": "nothing",
    "ccu": "nothing", "adversarial": "data", "trades": "data", "aoe": "data", "acet": "outliers",
    "half_acet": "every other outlier", "atom": "every other outlier",
}  # fmt: skip


def write(
    cfg: Any,
    train: Split,
    outliers: Split,
    images: tuple[np.ndarray, np.ndarray],
    margins: tuple[np.ndarray, np.ndarray],
    measured: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Write the page of a run."""
    last = {name: value for line in measured for name, value in line.items()}
    page = Report(f"{cfg.loss} training of {cfg.model} on {cfg.dataset} and outliers", cfg)
    page.text(
        f"{train.info.count} images of {train.info.name} beside {outliers.info.count} outliers of "
        f"{outliers.info.name}; training attacks {ATTACKED.get(cfg.loss, 'data and outliers')}. "
        f"{train.info.note} {outliers.info.note}".strip()
    )
    rows = [
        {"measured on validation images": says, "value": last[name]}
        for name, says in {
            "valid_accuracy": "accuracy",
            "valid_robust": f"accuracy under attack, {cfg.judge.norm} {cfg.judge.eps:.4g}",
            "valid_auroc": "AUROC of the method's own score",
            "valid_auroc_both": "AUROC with data and outliers under attack",
        }.items()
        if name in last
    ]
    page.table(
        rows,
        caption="Outliers are of the sets trained on, other images: quote numbers of evaluate on other sets.",
    )
    page.section("Outliers under attack")
    captions = [f"{a:.2g} → {b:.2g}" for a, b in zip(*margins, strict=True)]
    page.picture(
        image_grids.attacked(*images, captions=captions),
        caption=f"Outliers of {cfg.outliers[0]}, moved so that they pass for data. Below: the score before and after.",
        name="attacked",
    )
    page.section("Training")
    names = [n for n in dict.fromkeys(itertools.chain(*measured)) if n != "step"]
    page.picture(
        figures.training(measured, names=names), caption="What was measured on the way.", name="training"
    )
    page.scope(
        attacked=[f"{cfg.model}, data and outliers of validation, the score of {cfg.loss} and the classes"],
        attacks=[
            f"classes: {cfg.judge.in_words()}",
            f"score: PGD, {cfg.judge.norm} {cfg.judge.eps:.4g}, {cfg.judge.steps} steps of {cfg.judge.step:g} eps",
        ],
        not_attacked=["outliers of other kinds", "other scores", "corruptions", "larger radii", "black-box"],
    )
    return page.write(f"{cfg.out}/report.html")
