"""The page of classification.attack: accuracy after each attack, doubts, and the most telling attacked images."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments.classification.cases import listed
from experiments.shared import network_source
from robustjax.attacks import masking_checks
from robustjax.data import Split
from robustjax.evaluation.verdicts import BROKEN, Verdicts
from robustjax.runtime import figures, image_grids, result_files
from robustjax.runtime.report import Report
from robustjax.threats import Threat


def write_page(
    cfg: Any,
    it: network_source.Subject,
    test: Split,
    curve: list[Verdicts],
    flags: tuple[masking_checks.Flag, ...],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write the page a person reads."""
    report, names = curve[-1], test.info.classes
    page = Report(f"{it.title} under attack", cfg)
    robust = report.accuracy()[-1][1]
    page.text(
        f"Robust accuracy {100 * robust.value:.1f} % ({100 * robust.low:.1f} to {100 * robust.high:.1f}) in "
        f"{cfg.norm} at radius {cfg.eps:.4g}: the share of {len(report.label)} test images of {test.info.name} that "
        "no attack broke."
    )
    page.table(
        result_files.rows(report),
        caption="Accuracy after each attack, worst case over those so far; exact 95 % binomial intervals. Each "
        + (
            "attack ran on all images classified correctly."
            if cfg.every
            else "attack ran on what was still standing."
        ),
    )
    if cfg.radii > 1:
        ends = [v.accuracy()[-1][1] for v in curve]
        clean = curve[0].accuracy()[0][1]
        columns = ([100 * getattr(e, n) for e in (clean, *ends)] for n in ("value", "low", "high"))
        line = tuple(np.array(column) for column in columns)
        picture = figures.curves(
            np.array([0.0, *cfg.grid()]),
            {"accuracy under attack": line},
            xlabel=f"{cfg.norm} radius",
            ylabel="accuracy, %",
            limits=(0, 102),
        )
        page.picture(picture, caption="Accuracy over the radius, with 95 % intervals.", name="curve")

    page.section("Signs that the attacks cannot be believed")
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
                caption=f"The first {len(rows)} of {broken} images that {attack} broke.",
                name=f"broken_{attack}",
            )
    near = np.flatnonzero(report.standing)
    near = near[np.argsort(-report.value[near], kind="stable")][:8]
    if len(near):
        captions = [f"{names[report.label[i]]}, margin {-report.value[i]:.2g}" for i in near]
        drawn = image_grids.attacked(
            test.image[near].astype(np.float32) / 255, report.x[near], captions=captions
        )
        page.picture(
            drawn,
            caption="The images still standing that came nearest to breaking: strongest points found and how far "
            "the logit of the label leads there.",
            name="nearest",
        )
    trials = listed(Threat(cfg.norm, cfg.eps), classes=len(names), cfg=cfg)
    notes = [f" ({t.note})" if t.note else "" for t in trials]
    page.scope(
        attacked=[f"{it.title}, {len(test.label)} test images: {json.dumps(it.about)}"],
        attacks=[
            f"{t.name}: {t.solver.length} iterations, {t.runs} run{'s' if t.runs > 1 else ''} per image{note}"
            for t, note in zip(trials, notes, strict=True)
        ],
        not_attacked=[
            "other norms and larger radii",
            "anything adaptive to a defence that transforms, detects or rejects inputs",
            *([] if any(t.name == "square" for t in trials) else ["without gradients"]),
        ],
    )
    return page.write(out / "report.html")
