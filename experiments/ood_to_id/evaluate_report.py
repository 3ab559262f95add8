"""What the page of ood_to_id.evaluate says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustjax.analysis.intervals import proportion
from robustjax.attacks import masking_checks
from robustjax.attacks.flags import Flag
from robustjax.evaluation import headline
from robustjax.evaluation.headline import Headline, percent
from robustjax.evaluation.purifier import Assessment
from robustjax.ood.gates import with_reject
from robustjax.ood.translate import route_table
from robustjax.runtime.bar_charts import bars
from robustjax.runtime.image_grids import attacked
from robustjax.runtime.report import Report

WORDS = {
    "TM0": "TM0 static: attacks on f alone, replayed",
    "TM1": "TM1 queries",
    "TM2": "TM2 f and T known, gate unknown",
    "TM3": "TM3 ADAPTIVE: worst case of everything",
    "TM4": "TM4 transfer from a copy",
}

SIBLING = (
    "no robust accuracy: one decision for ten images, by a threshold from test images, is for comparison only"
)


def main_rows(found: Assessment) -> list[dict[str, Any]]:
    """Tabulate accuracies by threat model, false alarms and IDAR."""
    rows = {"clean accuracy of f": found.plain.argmax(axis=1) == found.label}
    rows |= {"clean accuracy of the defence": ~found.clean_wrong, "clean images routed": found.routed}
    table = [{"quantity": name, "found %": percent(proportion(hits))} for name, hits in rows.items()]
    models = headline.by_threat_model(found)
    table += [{"quantity": WORDS[m], "found %": percent(e)} for m, e in models.items()]
    seen = proportion(found.in_distribution())
    table.append({"quantity": "IDAR: fooled with the gate passing", "found %": percent(seen)})
    return [row | {"paper": "n/a"} for row in table]


def routes(found: Assessment) -> list[dict[str, Any]]:
    """Split the clean accuracy by route."""
    table = route_table(found.label, found.plain, found.through, found.routed)
    return [{name: f"{value:.4g}" for name, value in table.items()}]


def abstaining(found: Assessment) -> list[dict[str, Any]]:
    """Judge what refuses, instead of translating, whatever the gate stops: f on the rest.

    Points that an attack found unseen by the gate come before all others, so they are its points here as well; of
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


def facts(
    found: Mapping[str, Assessment], flags: Sequence[Flag], at_one: float, eps: float
) -> dict[str, Any]:
    """Collect everything that is tabulated, as plain data."""
    return {
        "eps": eps,
        "accuracy at radius 1": at_one,
        "main": {mode: main_rows(one) for mode, one in found.items()},
        "attacks": {mode: headline.by_attack(one) for mode, one in found.items()},
        "routes": {mode: routes(one) for mode, one in found.items()},
        "abstaining": {mode: abstaining(one) for mode, one in found.items()},
        "flags": masking_checks.rows(flags),
    }


def page(
    cfg: Any, found: Mapping[str, Assessment], head: Headline, flags: Sequence[Flag], told: Mapping[str, Any], test: Any
) -> Report:  # fmt: skip
    """Write the page."""
    page = Report("A translation defence under attacks that know it", cfg)
    page.text(head.says[:1].upper() + head.says[1:] + ".")
    for mode, one in found.items():
        page.table(
            main_rows(one),
            caption=f"By what the adversary knows; translator: {mode}; linf {told['eps']:.4g}.",
        )
        names = [a for a, m in zip(one.attacks, one.models, strict=True) if m in ("TM0", "TM3")]
        left = [proportion(one.robust(name)) for name in names]
        series = {"accuracy left": [(100 * e.value, 100 * e.low, 100 * e.high) for e in left]}
        short = [" ".join(name.split()[:2]) for name in names]
        caption = "What single attacks left: on f alone first, then those that know the defence."
        page.picture(
            bars(short, series, ylabel="accuracy %"), caption=caption, name=f"attacks_{mode[:5].strip()}"
        )
        page.table(headline.by_attack(one), caption="What every attack left, judged by the defence itself.")
        page.table(routes(one), caption="Clean images by route.")
        if rows := told["submissions"].get(mode):
            page.table(
                rows, caption="Points submitted several times, with new draws of the translator each time."
            )
        page.table(
            abstaining(one),
            caption="The same gate as a reason to refuse: f answers what passes, the rest is rejected.",
        )
        count = min(8, one.x.shape[1])
        clean = np.asarray(test.image[:count])
        shown = ("A1 through translator", "A3 gate bypass")
        for name in (each for each in shown if each in one.attacks):
            i = one.attacks.index(name)
            fate = np.where(
                one.wrong[i], np.where(one.unseen[i], "wrong, unseen", "wrong"), "resists"
            ).tolist()
            page.picture(
                attacked(clean, one.x[i][:count], captions=fate[:count]),
                caption=f"{name}: images, what the attack made of them, and the difference.",
                name=f"{mode[:5].strip()}_{name[:2]}",
            )  # fmt: skip
    page.text(
        f"At radius 1, where every image is allowed, {100 * told['accuracy at radius 1']:.1f} % resist A1, A3 and A4."
    )
    page.table(
        masking_checks.rows(flags),
        caption="Signs that gradients are masked; f after T is probed on 64 images.",
    )
    page.scope(
        attacked=["the hard defence: classifier, gate with its threshold, and translator together"],
        attacks=[
            f"A1 to A6 with {cfg.steps} steps on four losses, {cfg.restarts} starts of cross-entropy and of selective "
            f"PGD, {cfg.targets} targets; the best point by the hard defence at every iterate",
            f"A7: Square with {cfg.queries} queries, SPSA with {cfg.estimates} estimates",
        ],
        not_attacked=["other norms", "decision-based attacks"],
    )  # fmt: skip
    return page


def comparison(cfg: Any, rows: list[dict[str, Any]]) -> Report:
    """Write the page of a gate that decides for ten images at once."""
    page = Report("A gate that decides for ten images at once: for comparison only", cfg)
    page.text(f"{SIBLING[:1].upper()}{SIBLING[1:]}.")
    page.table(
        rows,
        caption="The same score and threshold, asked image by image and by the mean of ten. Ten attacked images "
        "together look unlike ten clean ones; one among nine clean ones goes where they go.",
    )
    page.scope(
        attacked=["f, and the gate image by image"],
        attacks=[f"PGD-40 on f; A3 with {cfg.steps} steps"],
        not_attacked=["anything that makes this a defence"],
    )
    return page
