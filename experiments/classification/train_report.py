"""The report of classification.train: test accuracy under attack, attacked images, metrics of training."""

import itertools

from experiments.classification.config import TrainConfig
from experiments.shared import report_pieces
from robustjax import data, runtime
from robustjax.analysis import curves
from robustjax.runtime import figures
from robustjax.runtime.report import Report


def write(cfg: TrainConfig, curve: curves.Curve, test: data.Split, *, updates: int, note: str) -> None:
    """Say the accuracy at each radius, and write report.html.

    Args:
      cfg: of the training.
      curve: of the chosen checkpoint on the test images.
      test: those images.
      updates: done at that checkpoint.
      note: about the training images.
    """
    attack = cfg.evaluation
    rows = report_pieces.accuracy_rows(curve)
    for row in rows:
        runtime.say(
            f"test  {attack.norm} {row['radius']:.4g}: {row['accuracy %']:.1f} % ({row['95 % interval']})"
        )
    report = Report(f"{cfg.loss} training of {cfg.model} on {cfg.dataset}", cfg)
    report.text(
        f"Checkpoint after {updates} updates, the best under attack on {cfg.dataset}'s validation images; "
        f"attacked on {test.info.count} test images. {note}".strip()
    )
    report.text(report_pieces.images(test))
    report.table(rows, caption=f"Test accuracy under attack: {attack.in_words()}")
    report.section("Attacked images")
    report.picture(
        report_pieces.attacked_images(test, curve),
        caption="The first test images, attacked at the full radius.",
        name="attacked",
    )
    report.section("Training")
    measured = runtime.read_metrics(cfg.out)
    names = [name for name in dict.fromkeys(itertools.chain(*measured)) if name != "step"]
    if "risk" in names and all(line.get("loss") == line.get("risk") for line in measured):
        names.remove("risk")  # it is the whole loss
    report.picture(
        figures.training(measured, names=names), caption="Metrics during training.", name="training"
    )
    report.scope(
        attacked=[f"{cfg.model} on {test.info.count} test images of {cfg.dataset}"],
        attacks=[f"{attack.in_words()}, at radius {attack.eps:.4g} and its half"],
        not_attacked=[
            "black-box and minimal-norm attacks",
            "other norms and larger radii",
            "gradient-masking checks",
        ],
    )
    runtime.say(f"report: {report.write(f'{cfg.out}/report.html')}")
