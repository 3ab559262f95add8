"""The report of classification.attack: accuracy after each attack, gradient-masking checks, attacked images."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.classification.config import AttackConfig
from experiments.shared import report_pieces
from robustjax.attacks import masking_checks
from robustjax.attacks.case import Case
from robustjax.catalog import known_checkpoints
from robustjax.data import Split
from robustjax.evaluation.results import BROKEN, Results
from robustjax.runtime import figures, image_grids, result_files
from robustjax.runtime.report import Report
from robustjax.types import Network


def write_report(
    cfg: AttackConfig,
    network: Network,
    test: Split,
    curve: list[Results],
    cases: Sequence[Case],
    flags: tuple[masking_checks.Flag, ...],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write report.html."""
    report, names = curve[-1], test.info.classes
    page = Report(f"{network.title} under attack", cfg)
    (norm, eps), known = cfg.ball(), cfg.source.entry_of()
    robust = report.accuracy()[-1][1]
    page.text(
        f"Robust accuracy {100 * robust.value:.1f} % ({100 * robust.low:.1f} to {100 * robust.high:.1f}) in "
        f"{norm} at radius {eps:.4g}: the share of {len(report.label)} test images of {test.info.name} that "
        "no attack misclassified."
    )
    if known:
        page.table(beside_published(known, report, norm, eps), caption=known.published())
    page.text(report_pieces.images(test))
    page.table(
        result_files.rows(report),
        caption="Accuracy after each attack, worst case over those so far; exact 95 % binomial intervals. Each "
        + (
            "attack ran on all images classified correctly."
            if cfg.every
            else "attack ran on the images still robust."
        ),
    )
    if cfg.radii > 1:
        ends = [one.accuracy()[-1][1] for one in curve]
        clean = curve[0].accuracy()[0][1]
        columns = ([100 * getattr(e, n) for e in (clean, *ends)] for n in ("value", "low", "high"))
        line = tuple(np.array(column) for column in columns)
        picture = figures.curves(
            np.array([0.0, *cfg.grid()]),
            {"accuracy under attack": line},
            xlabel=f"{norm} radius",
            ylabel="accuracy, %",
            limits=(0, 102),
        )
        page.picture(picture, caption="Accuracy over the radius, with 95 % intervals.", name="curve")

    page.section("Gradient-masking checks")
    raised = [flag for flag in flags if flag.raised]
    page.text(
        f"{len(raised)} of {len(flags)} checks raise a flag; a robustness number with flags is an upper bound that "
        "another attack may well lower."
        if raised
        else f"None of {len(flags)} checks raises a flag."
    )
    if flags:
        page.table(masking_checks.rows(flags))

    page.section("Attacked images")
    for number, attack in enumerate(report.attacks):
        rows = np.flatnonzero(report.broken_by == number)[:8]
        if len(rows):
            captions = [f"{names[report.label[i]]} → {names[report.prediction[i]]}" for i in rows]
            drawn = image_grids.attacked(
                test.image[rows].astype(np.float32) / 255, report.x[rows], captions=captions
            )
            broken = int((report.outcome[number] == BROKEN).sum())
            page.picture(
                drawn,
                caption=f"The first {len(rows)} of {broken} images that {attack} misclassified.",
                name=f"broken_{attack}",
            )
    near = np.flatnonzero(report.robust)
    near = near[np.argsort(-report.value[near], kind="stable")][:8]
    if len(near):
        captions = [f"{names[report.label[i]]}, margin {-report.value[i]:.2g}" for i in near]
        drawn = image_grids.attacked(
            test.image[near].astype(np.float32) / 255, report.x[near], captions=captions
        )
        page.picture(
            drawn,
            caption="The robust images that came nearest to misclassification: strongest points found and how far "
            "the logit of the label leads there.",
            name="nearest",
        )
    notes = [f" ({case.note})" if case.note else "" for case in cases]
    page.scope(
        attacked=[f"{network.title}, {len(test.label)} test images: {json.dumps(network.about)}"],
        attacks=[
            f"{case.name}: {case.solver.length} iterations, {case.runs} run{'s' * (case.runs > 1)} per image{note}"
            for case, note in zip(cases, notes, strict=True)
        ],
        not_attacked=[
            "other norms and larger radii",
            "anything adaptive to a defence that transforms, detects or rejects inputs",
            *([] if any(case.black_box for case in cases) else ["without gradients"]),
        ],
    )
    return page.write(out / "report.html")


def beside_published(
    known: known_checkpoints.Known, report: Results, norm: str, eps: float
) -> list[dict[str, Any]]:
    """Tabulate measured beside published accuracy, in percent; robust accuracy at norm and radius of the board only."""
    ends = report.accuracy()
    rows = [("clean", ends[0][1], known.clean)]
    if norm == known.threat and known.eps is not None and np.isclose(eps, known.eps):
        rows.append(("robust", ends[-1][1], known.robust))
    return [
        {
            "accuracy": name,
            "measured %": 100 * found.value,
            "95 % interval": f"{100 * found.low:.1f} to {100 * found.high:.1f}",
            "published %": published,
        }
        for name, found, published in rows
    ]
