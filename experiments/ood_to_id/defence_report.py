"""The report of ood_to_id.defence: the adaptive number first, the static one beside it, and why."""

from collections.abc import Iterator

import numpy as np

from experiments.ood_to_id.config import DefenceConfig
from experiments.ood_to_id.defence_results import DETECTOR, FAMILIES, Results
from robustjax.analysis.intervals import proportion
from robustjax.evaluation.defence_results import SHOWN
from robustjax.evaluation.translation import SHARES
from robustjax.runtime import figures
from robustjax.runtime.bar_charts import bars
from robustjax.runtime.image_grids import grid
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Subplot, subplot_grid

COUNT = 8  # images in a picture
GAIN = 2.0  # of differences
Drawn = tuple[bytes, str, str]  # picture, name, caption


def defence_report(cfg: DefenceConfig, it: Results) -> Report:
    """Write the report."""
    holds, eps = [c["holds"] == "yes" for c in it.claims()], cfg.recipe.eps
    report = Report("Translating OOD images back to ID images, under attacks that know of it", cfg)
    report.text("\n".join(f"Seed {s}: {head.says}." for s, head in enumerate(it.headlines)))
    report.text(
        f"linf radius {eps:g}, {len(it.found['adaptive'][0].label)} test images, {cfg.seeds} trainings. "
        f"{sum(holds)} of {len(holds)} checks hold. Intervals are Clopper-Pearson, 95 %, over all seeds and images "
        "together; all seeds have the same test images, so that they are a little too narrow. The system is "
        "reconstructed from the abstract of arXiv:2202.08944 and from its components: the paper's tables were not "
        "available to us, the column `paper` is empty for that reason, and our numbers are our own."
    )
    report.table(it.main_rows(), caption="Accuracy of the defence, by what the adversary knows.")
    _draw(report, _bars(it))
    report.table(
        it.claims(), caption="What was expected before the run, and what was found in the worst seed."
    )
    report.section("What translation does")
    for picture in _pictures(it):
        _draw(report, picture)
    report.table(
        it.route_rows(),
        caption="Accuracy by route, all seeds together. A missed detection is not translated.",
    )
    report.section("Are adversarial images OOD?")
    report.text(
        "Scores of attacks stand beside those of noise that moves every pixel as far and that the classifier does not "
        "mind. Where noise is detected as well, the detector sees the size of a change; where images that fool the "
        "classifier can be made to pass the gate (IDAR), being OOD is not what fools it."
    )
    report.table(
        it.detection_rows(), caption=f"Detectors on attacks and noise at {eps:g}, means over the seeds."
    )
    for picture in _detection(it):
        _draw(report, picture)
    report.table(it.cause_rows(), caption=f"How often f errs on what {DETECTOR} calls OOD, and on the rest.")
    report.section("Attacks")
    report.table(
        it.sweep_rows(),
        caption=f"A1, A3 and A4 over the radius, {it.cfg.sweep_images} test images of each seed; all images and "
        f"attacks at {it.cfg.recipe.eps:g}. At 1 every image is allowed, and none may be robust.",
    )
    report.table(
        it.attack_rows(), caption="Seed 0: what every attack left, classified by the defence itself."
    )
    report.table(
        it.attack_rows("swapped"),
        caption=f"Seed 0 behind another gate, Mahalanobis distances of f's features; {it.cfg.sweep_images} images.",
    )
    report.table(
        it.attack_rows("baseline"),
        caption="Seed 0: the classifier trained against PGD, no gate, no translator.",
    )
    report.table(
        it.flag_rows(), caption="Signs that gradients are masked, seed 0. f after T is checked on 64 images."
    )
    report.section("Natural shifts")
    report.table(
        it.natural_rows(),
        caption="Darker by a factor, sharper by a factor. T was trained on attacked images, or on these and on "
        "images darker by 0.3 or sharper by 3.",
    )
    report.scope(
        attacked=["the hard defence: classifier, gate with its threshold, and translator together"],
        attacks=[
            f"A1 to A6 by APGD or PGD with {cfg.steps} steps (selective and orthogonal PGD "
            f"{cfg.steps + cfg.steps // 2}), on cross-entropy, margin, DLR and targeted DLR ({cfg.targets} targets), "
            f"{cfg.restarts} starts of cross-entropy and selective PGD, one of the others; the best point by the hard "
            "defence, at every iterate",
            f"A7: Square with {cfg.queries} queries, SPSA with {cfg.estimates} estimates; transfer from the other seed",
        ],
        not_attacked=["other norms", "decision-based attacks", "corruptions beyond darker and sharper"],
    )  # fmt: skip
    return report


def _draw(report: Report, drawn: Drawn) -> None:
    picture, name, caption = drawn
    report.picture(picture, caption=caption, name=name)


def _bars(it: Results) -> Drawn:
    def bar(hits: np.ndarray) -> tuple[float, float, float]:
        found = proportion(hits.ravel())
        return 100 * found.value, 100 * found.low, 100 * found.high

    clean_robust = np.stack([~one.clean_wrong for one in it.found["baseline"]])
    nothing = (np.nan, np.nan, np.nan)
    f, defence, robust = "f alone", "f behind gate and translator", "f trained against PGD"
    return (
        bars(
            ["clean", "static: attacks on f (TM0)", "queries (TM1)", "adaptive (TM3)"],
            {
                f: [bar(it.right("clean", 0)), bar(it.right("PGD 1 eps", 0)), nothing, nothing],
                defence: [
                    bar(it.right("clean", 1)), bar(it.robust("adaptive", "TM0")), bar(it.robust("adaptive", "TM1")),
                    bar(it.robust("adaptive")),
                ],
                robust: [
                    bar(clean_robust), bar(it.robust("baseline", "TM0")), bar(it.robust("baseline", "TM1")),
                    bar(it.robust("baseline")),
                ],
            },
            ylabel="accuracy %",
        ),
        "static_and_adaptive",
        "Static and adaptive. Attacks on f alone say nothing about an adversary who knows the defence; for the "
        "classifier trained against PGD, f is the defence, and its static and adaptive numbers are nearly the same.",
    )  # fmt: skip


def _pictures(it: Results) -> Iterator[Drawn]:
    cell, count = it.parts["detection_0"], min(COUNT, SHOWN, len(it.parts["detection_0"]["clean/shown"]))
    clean, made, back, own = (
        cell[name][:count]
        for name in ("clean/shown", "PGD 1 eps/shown", "PGD 1 eps/translated", "clean/translated")
    )

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.clip(0.5 + GAIN * (a - b) / 2, 0, 1)

    rows = [clean, own, made, back, difference(made, clean), difference(back, clean)]
    names = ["image", "its translation", "PGD on f", "its translation", "PGD - image", "translation - image"]
    yield (
        grid(rows, rows=names), "translation",
        f"Before and after translation, seed 0. Differences are around mid-grey, times {GAIN:g}.",
    )  # fmt: skip
    found = it.found["adaptive"][0]
    rows, names, captions = [clean], ["image"], [[str(k) for k in found.label[:count]]]

    def outcome(wrong: bool, undetected: bool) -> str:
        return ("undetected" if undetected else "translated") if wrong else "right"

    shown = ("A1 through translator", "A3 gate bypass", "A4 soft gate")
    for name in (one for one in shown if one in found.attacks):
        i = found.attacks.index(name)
        rows += [found.x[i][:count], difference(found.x[i][:count], clean)]
        names += [name, "difference"]
        outcomes = [
            outcome(*one) for one in zip(found.wrong[i][:count], found.unseen[i][:count], strict=True)
        ]
        captions += [outcomes, []]
    yield (
        grid(rows, rows=names, captions=captions), "adaptive_points",
        "Points of adaptive attacks, seed 0: the class below the image, then whether the defence errs "
        "untranslated (undetected by its gate) or after translation.",
    )  # fmt: skip


def _detection(it: Results) -> Iterator[Drawn]:
    cell = it.parts["detection_0"]
    inside, lines = cell[f"clean/score/{DETECTOR}"], {}
    for family in (*FAMILIES[:1], "PGD 0.5 eps", *FAMILIES[2:5]):
        outside = cell[f"{family}/score/{DETECTOR}"]
        at = np.unique(np.concatenate([inside, outside]))[::-1]
        false, true = ((v.size - np.searchsorted(np.sort(v), at)) / v.size for v in (outside, inside))
        lines[family] = np.insert(false, 0, 0.0), np.insert(true, 0, 0.0)
    yield figures.roc(lines), "roc", f"ROC of the gate ({DETECTOR}), seed 0, for attacks and noise."
    radii = it.cfg.recipe.eps * np.array(SHARES)
    drawn, right = {}, {}
    for kind in ("PGD", "sign noise"):
        values = np.stack([it.auroc(f"{kind} {share:g} eps") for share in SHARES])
        drawn[kind] = Line(radii, values.mean(axis=1), values.min(axis=1), values.max(axis=1))
        hits = np.stack([it.right(f"{kind} {share:g} eps", 0).mean(axis=1) for share in SHARES])
        right[kind] = Line(radii, hits.mean(axis=1), hits.min(axis=1), hits.max(axis=1))
    pictures = [
        Subplot("detected", drawn, "linf radius", f"AUROC of {DETECTOR}", (0.4, 1.02)),
        Subplot("classified", right, "linf radius", "accuracy of f", (0, 1.02)),
    ]
    yield (
        subplot_grid(pictures), "over_radii",
        "Attacks and noise of the same size over the radius: how well the gate tells them from clean images, and the "
        "accuracy of f on them. Shades: least and largest of the seeds.",
    )  # fmt: skip
