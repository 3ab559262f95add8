"""The tables and the report of ood_to_id.evaluate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ood_to_id.config import EvaluateConfig
from experiments.ood_to_id.evaluation import Comparison, Evaluation, Target
from robustjax.analysis.intervals import proportion
from robustjax.attacks import masking_checks
from robustjax.data import subsets
from robustjax.evaluation.defence_results import DefenceResults
from robustjax.evaluation.headline import by_attack, by_threat_model, percent
from robustjax.ood.gates import with_reject
from robustjax.ood.translate import route_table
from robustjax.runtime.bar_charts import bars
from robustjax.runtime.image_grids import attacked
from robustjax.runtime.report import Report

THREAT_MODELS = {
    "TM0": "TM0 static: attacks on f alone, replayed",
    "TM1": "TM1 queries",
    "TM2": "TM2 f and T known, gate unknown",
    "TM3": "TM3 ADAPTIVE: worst case of everything",
    "TM4": "TM4 transfer from another training",
}
GROUPED = (
    "no robust accuracy: one decision for ten images, by a threshold from test images, is for comparison only"
)


# --- tables ---------------------------------------------------------------------------------------------


def main_rows(found: DefenceResults) -> list[dict[str, Any]]:
    """Tabulate accuracies by threat model, false alarms and IDAR."""
    rows = {"clean accuracy of f": found.plain.argmax(axis=1) == found.label}
    rows |= {"clean accuracy of the defence": ~found.clean_wrong, "clean images routed": found.routed}
    table = [{"quantity": name, "found %": percent(proportion(hits))} for name, hits in rows.items()]
    models = by_threat_model(found)
    table += [{"quantity": THREAT_MODELS[m], "found %": percent(e)} for m, e in models.items()]
    undetected = proportion(found.in_distribution())
    table.append({"quantity": "IDAR: fooled with the gate passing", "found %": percent(undetected)})
    return [row | {"paper": "n/a"} for row in table]


def route_rows(found: DefenceResults) -> list[dict[str, Any]]:
    """Split the clean accuracy by route."""
    table = route_table(found.label, found.plain, found.through, found.routed)
    return [{name: f"{value:.4g}" for name, value in table.items()}]


def reject_rows(found: DefenceResults) -> list[dict[str, Any]]:
    """Tabulate a classifier that refuses, instead of translating, whatever the gate stops: f on the rest.

    Points that an attack found undetected by the gate come before all others, so they are its points here as well; of
    the worst case an adversary takes any of them.
    """
    accepted, right = ~found.routed, found.plain.argmax(axis=1) == found.label
    cells = {"clean": (right, ~accepted)}
    for i, name in enumerate(found.attacks):
        cells[name] = (~found.wrong[i], ~(found.score[i] >= 0))
    rows = []
    for name, (hits, rejected) in cells.items():
        table = with_reject(hits, rejected)
        rows.append(
            {
                "images": name, "accuracy of accepted %": f"{100 * table['accepted_accuracy']:.1f}",
                "rejected %": f"{100 * table['rejection_rate']:.1f}",
                "accepted and wrong %": percent(proportion(~hits & ~rejected)),
            }
        )  # fmt: skip
    lost = percent(proportion(found.in_distribution()))
    worst = {"images": "worst case", "accuracy of accepted %": "-", "rejected %": "-"}
    return [*rows, worst | {"accepted and wrong %": lost}]


def facts(cfg: EvaluateConfig, it: Evaluation | Comparison) -> dict[str, Any]:
    """Collect everything that is tabulated, as plain data."""
    images = {"images": images_in_words(cfg, it.target), "indices": it.target.numbers.tolist()}
    if isinstance(it, Comparison):
        return images | {"headline": GROUPED, "eps": it.target.eps, "grouped": it.rows}
    return images | {
        "headline": it.headline.says,
        "eps": it.target.eps,
        "accuracy at radius 1": it.at_one,
        "main": {mode: main_rows(one) for mode, one in it.found.items()},
        "attacks": {mode: by_attack(one) for mode, one in it.found.items()},
        "routes": {mode: route_rows(one) for mode, one in it.found.items()},
        "abstaining": {mode: reject_rows(one) for mode, one in it.found.items()},
        "flags": masking_checks.rows(it.flags),
        "controls": it.controls,
        "submissions": it.submissions,
    }


def images_in_words(cfg: EvaluateConfig, target: Target) -> str:
    """Say which test images are attacked."""
    name = cfg.dataset or f"{cfg.run}'s data set"
    return subsets.batch_in_words(target.test, target.sets.test, name)


def lines(it: Evaluation | Comparison) -> list[str]:
    """Say on a terminal what was found."""
    if isinstance(it, Comparison):
        return [*map(_in_line, it.rows), GROUPED]
    main = [
        f"{mode}: {row['quantity']}: {row['found %']}"
        for mode, one in it.found.items()
        for row in main_rows(one)
    ]
    repeated = [row for rows in it.submissions.values() for row in rows]
    voted = [voting(mode, rows) for mode, rows in it.submissions.items()]
    return [*main, *map(_in_line, [*it.controls, *repeated]), *voted, it.headline.says]


def voting(mode: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Say what several submissions to a random translator leave in the worst case: with retries, and by majority."""
    _, one, every, votes = rows[-1].items()
    return (
        f"{mode}: of the points that serve best against each image, {one[0].removesuffix(' %')}: {one[1]} %; "
        f"{every[0].removesuffix(' %')}, which is what an adversary who may retry leaves: {every[1]} %; "
        f"{votes[0].removesuffix(' %')}, if the defence answers by vote: {votes[1]} %"
    )


def _in_line(row: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in row.items())


# --- reports --------------------------------------------------------------------------------------------


def evaluation_report(cfg: EvaluateConfig, it: Evaluation) -> Report:
    """Write the report of an evaluation."""
    report, says = Report("A translation defence under attacks that know it", cfg), it.headline.says
    report.text(says[:1].upper() + says[1:] + ".")
    for mode, rows in it.submissions.items():
        said = voting(mode, rows)
        report.text(said[:1].upper() + said[1:] + ".")
    report.text(f"Images: {images_in_words(cfg, it.target)}.")
    for mode, found in it.found.items():
        report.table(
            main_rows(found),
            caption=f"By what the adversary knows; translator: {mode}; linf {it.target.eps:.4g}.",
        )
        names = [a for a, m in zip(found.attacks, found.models, strict=True) if m in ("TM0", "TM3")]
        left = [proportion(found.robust(name)) for name in names]
        series = {"accuracy left": [(100 * e.value, 100 * e.low, 100 * e.high) for e in left]}
        report.picture(
            bars([" ".join(name.split()[:2]) for name in names], series, ylabel="accuracy %"),
            caption="What single attacks left: on f alone first, then those that know the defence.",
            name=f"attacks_{mode[:5].strip()}",
        )
        report.table(
            by_attack(found),
            caption="What every attack left, classified by the defence itself.",
        )
        report.table(route_rows(found), caption="Clean images by route.")
        if rows := it.submissions.get(mode):
            report.table(
                rows, caption="Points submitted several times, with new draws of the translator each time."
            )
        report.table(
            reject_rows(found),
            caption="The same gate as a reason to refuse: f answers what passes, the rest is rejected.",
        )
        _show_points(report, mode, found, np.asarray(it.target.test.image))
    report.text(
        f"At radius 1, where every image is allowed, {100 * it.at_one:.1f} % are right under A1, A3 and A4."
    )
    report.table(it.controls, caption="PGD on f, noise of the same size, and natural shifts.")
    report.table(
        masking_checks.rows(it.flags),
        caption="Signs that gradients are masked; f after T is checked on 64 images.",
    )
    report.scope(
        attacked=["the hard defence: classifier, gate with its threshold, and translator together"],
        attacks=[
            f"A1 to A6 with {cfg.steps} steps on four losses, {cfg.restarts} starts of cross-entropy and of selective "
            f"PGD, {cfg.targets} targets; the best point by the hard defence at every iterate",
            f"A7: Square with {cfg.queries} queries, SPSA with {cfg.estimates} steps",
        ],
        not_attacked=["other norms", "decision-based attacks"],
    )  # fmt: skip
    return report


def _show_points(report: Report, mode: str, found: DefenceResults, clean: np.ndarray) -> None:
    count = min(8, found.x.shape[1])
    for name in ("A1 through translator", "A3 gate bypass"):
        if name not in found.attacks:
            continue
        i = found.attacks.index(name)
        fate = np.where(
            found.wrong[i], np.where(found.unseen[i], "wrong, undetected", "wrong"), "right"
        ).tolist()
        report.picture(
            attacked(clean[:count], found.x[i][:count], captions=fate[:count]),
            caption=f"{name}: images, the adversarial ones, and the difference.",
            name=f"{mode[:5].strip()}_{name[:2]}",
        )


def comparison_report(cfg: EvaluateConfig, it: Comparison) -> Report:
    """Write the report of a gate that decides for ten images at once."""
    report = Report("A gate that decides for ten images at once: for comparison only", cfg)
    report.text(f"{GROUPED[:1].upper()}{GROUPED[1:]}.")
    report.table(
        it.rows,
        caption="The same score and threshold, asked image by image and by the mean of ten. Ten attacked images "
        "together look unlike ten clean ones; one among nine clean ones goes where they go.",
    )
    report.scope(
        attacked=["f, and the gate image by image"],
        attacks=[f"PGD-40 on f; A3 with {cfg.steps} steps"],
        not_attacked=["anything that makes this a defence"],
    )
    return report
