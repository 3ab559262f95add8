"""The report of classification.corruptions: a heat map, means, mCE, and measured beside published accuracy."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.classification.config import CorruptionsConfig
from experiments.shared import report_pieces
from robustjax.analysis import corruption_error
from robustjax.analysis.corruption_error import Baseline
from robustjax.analysis.intervals import Estimate, proportion
from robustjax.attacks import masking_checks
from robustjax.catalog import known_checkpoints
from robustjax.catalog.known_checkpoints import Known
from robustjax.data import Split, corrupted_trees
from robustjax.evaluation.corruptions import COMMON, Cells, CorruptionResults
from robustjax.runtime import heat_maps, image_grids
from robustjax.runtime.report import Report
from robustjax.types import Flag, Network

SHOWN = 8  # corruptions whose images are drawn


def summary(
    results: CorruptionResults, baseline: Baseline | None, known: Known | None, *, files: str | None
) -> dict[str, Any]:
    """Collect the numbers of a report, in percent.

    The mean is over the fifteen corruptions of the benchmark where they are there, as RobustBench's is; mCE over those
    that the baseline has.
    """
    common = [name for name in COMMON if name in results.corruptions]
    extra = [name for name in results.corruptions if name not in COMMON]
    main = results.of(common) if common else results
    which = _which(len(common) or len(results.corruptions), bool(common), results.severities)
    normalised = main
    if baseline is not None:
        normalised = results.of([name for name in results.corruptions if name in baseline.error])
    by = f"divided by the errors of {baseline.name}" if baseline else "not normalised, a mean error"
    number = f"{len(normalised.corruptions)} corruptions, {by}"
    return {
        "clean": _line(proportion(results.clean == results.label), f"{len(results.label)} images"),
        "mean": _line(main.mean(), which),
        "held out": _line(results.of(extra).mean(), f"{len(extra)} others") if extra and common else None,
        "mCE": _line(normalised.mce(baseline), number),
        "relative mCE": _line(normalised.relative_mce(baseline), number),
        "published": published(known, results) if known and files else {},
        "cells": [
            {"corruption": name, "severity": float(severity), **_line(estimate)}
            for name, row in zip(results.corruptions, corruption_error.cells(results.right), strict=True)
            for severity, estimate in zip(results.severities, row, strict=True)
        ],
        "corruptions": [
            {"corruption": name, **_line(corruption_error.mean_accuracy(results.right[i]))}
            for i, name in enumerate(results.corruptions)
        ],
    }


def published(known: Known, results: CorruptionResults) -> dict[str, float]:
    """Look up what RobustBench states for these corruptions, by the names of `summary`, in percent.

    Nothing where some are missing, or for an entry of another board.
    """
    names = set(results.corruptions)
    if known.threat != "corruptions" or set(results.severities) != set(corruption_error.WHOLE):
        return {}
    more = known_checkpoints.on_corruptions().get(known.name) if known.dataset == "imagenet2012" else None
    if names >= set(COMMON):
        return {"mean": known.robust} | ({"mCE": more.mce} if more else {})
    if more and names == set(corrupted_trees.IMAGENET_3DCC):
        return {"mean": more.accuracy_3dcc, "mCE": more.mce_3dcc}
    return {}


def published_cells(known: Known | None) -> dict[tuple[str, int], float]:
    """Look up what RobustBench states for each corruption and severity, in percent; only of CIFAR-10-C."""
    if known is None or (known.dataset, known.threat) != ("cifar10", "corruptions"):
        return {}
    return known_checkpoints.cells().get(known.name, {})


def write_report(
    cfg: CorruptionsConfig,
    network: Network,
    test: Split,
    cells: Cells,
    results: CorruptionResults,
    told: dict[str, Any],
    flags: tuple[Flag, ...],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write report.html."""
    page = Report(f"{network.title} on corrupted images", cfg)
    known, mean = cfg.source.entry_of(), told["mean"]
    page.text(f"Mean accuracy {mean['%']:.1f} % ({mean['95 % interval']}) over {mean['of']}.")
    page.text(report_pieces.images(test))
    page.text(
        f"Corrupted images: files in {cfg.files}."
        if cfg.files
        else "Corrupted images: made here, by the corruptions of CIFAR-10-C, which are drawn anew: compare only with "
        "networks on the same ones."
    )
    names = ("clean", "mean", "held out", "mCE", "relative mCE")
    page.table(
        [{"": name, **told[name]} for name in names if told[name]],
        caption="Accuracy and error in percent. Intervals are at 95 %, over images: exact binomial ones for clean, "
        "bootstrap of each image's average over cells for the others.",
    )
    if known:
        stated = {"clean": known.clean, **told["published"]}
        page.table(
            [
                {"": name, "measured %": told[name]["%"], "published %": value}
                for name, value in stated.items()
            ],
            caption=f"{known.published()} It divides mCE by AlexNet's errors on its 5,000 images.",
        )

    page.section("Corruptions")
    columns = [f"severity {s:g}" for s in results.severities]
    drawn = np.concatenate([results.accuracy, results.accuracy.mean(axis=1, keepdims=True)], axis=1)
    page.picture(
        heat_maps.heat_map(100 * drawn, results.corruptions, [*columns, "mean"], label="accuracy, %"),
        caption=f"Accuracy in percent under each corruption and severity; clean {told['clean']['%']:.1f} %.",
        name="corruptions",
    )
    intervals = {(cell["corruption"], cell["severity"]): cell for cell in told["cells"]}
    stated = published_cells(known) if cfg.files else {}
    page.table(
        [
            {"corruption": line["corruption"], "mean": f"{line['%']:.1f} ({line['95 % interval']})"}
            | of_corruption(stated, line["corruption"], results.severities)
            | {
                column: "{%:.1f} ({95 % interval})".format(**intervals[line["corruption"], float(s)])
                for column, s in zip(columns, results.severities, strict=True)
            }
            for line in told["corruptions"]
        ],
        caption="Accuracy in percent with exact 95 % binomial intervals; means with bootstrap intervals over images.",
    )
    some = cells.corruptions[:SHOWN]
    last = len(cells.severities) - 1
    pictures = [cells.read(i * len(cells.severities) + last, 0, 1)[0] for i in range(len(some))]
    page.picture(
        image_grids.grid([np.stack([test.image[0], *pictures]) / 255], columns=["clean", *some]),
        caption=f"The first image, clean and at severity {cells.severities[last]:g}.",
        name="images",
    )
    page.section("Checks")
    page.table(masking_checks.rows(flags))
    return page.write(out / "report.html")


def of_corruption(
    stated: Mapping[tuple[str, int], float], name: str, severities: np.ndarray
) -> dict[str, float]:
    """Average what is published for one corruption over the severities; nothing where some are not."""
    known = [stated[name, int(s)] for s in severities if (name, int(s)) in stated]
    return {"published mean": float(np.mean(known))} if len(known) == len(severities) else {}


def _line(estimate: Estimate, of: str = "") -> dict[str, Any]:
    ends = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    return {"%": 100 * estimate.value, "95 % interval": ends} | ({"of": of} if of else {})


def _which(count: int, common: bool, severities: np.ndarray) -> str:
    whole = common and count == len(COMMON)
    number = f"the {count} corruptions of the benchmark" if whole else f"{count} corruptions"
    levels = ", ".join(f"{s:g}" for s in severities)
    return f"{number} at severities {levels}"
