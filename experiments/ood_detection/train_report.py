"""The report of ood_detection.train: how training went, and some OOD images under attack."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.ood_detection.config import TrainConfig
from experiments.ood_detection.validation import Attacked
from robustjax.catalog import ood_losses
from robustjax.data.sources import Split
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report


def write(
    cfg: TrainConfig,
    train: Split,
    ood: Split,
    shown: Attacked,
    measured: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Write the report of a run."""
    last = {name: value for line in measured for name, value in line.items()}
    report = Report(f"{cfg.loss} training of {cfg.model} on {cfg.dataset} and OOD images", cfg)
    report.text(
        f"{train.info.count} ID images of {train.info.name} beside {ood.info.count} OOD images of "
        f"{ood.info.name}; training attacks {ood_losses.method(cfg.loss).attacked}. "
        f"{train.info.note} {ood.info.note}".strip()
    )
    rows = [
        {"measured on validation images": says, "value": last[name]}
        for name, says in {
            "valid_accuracy": "accuracy",
            "valid_robust": f"accuracy under attack, {cfg.evaluation.norm} {cfg.evaluation.eps:.4g}",
            "valid_auroc": "AUROC of the method's own score",
            "valid_auroc_both": "AUROC with ID and OOD images under attack",
        }.items()
        if name in last
    ]
    report.table(
        rows,
        caption="OOD images are other images of the sets trained on: quote numbers of ood_detection.evaluate on "
        "other sets.",
    )
    report.section("OOD images under attack")
    captions = [f"{a:.2g} → {b:.2g}" for a, b in zip(shown.clean_score, shown.attacked_score, strict=True)]
    report.picture(
        image_grids.attacked(shown.clean, shown.attacked, captions=captions),
        caption=f"OOD images of {cfg.ood_sets[0]}, attacked so that they pass for ID. Below: score before and after.",
        name="attacked",
    )
    report.section("Training")
    names = [n for n in dict.fromkeys(itertools.chain(*measured)) if n != "step"]
    report.picture(
        figures.training(measured, names=names), caption="Measured during training.", name="training"
    )
    attack = cfg.evaluation
    report.scope(
        attacked=[f"{cfg.model}, ID and OOD validation images, the score of {cfg.loss} and the classes"],
        attacks=[
            f"classes: {attack.in_words()}",
            f"score: PGD, {attack.norm} {attack.eps:.4g}, {attack.steps} steps of {attack.step:g} eps",
        ],
        not_attacked=["other OOD sets", "other scores", "corruptions", "larger radii", "black-box"],
    )
    return report.write(f"{cfg.out}/report.html")
