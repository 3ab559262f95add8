"""The reports on RATIO: the main table, the criteria, and figures of curves, counterfactuals and calibration."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from experiments.ratio.config import HARDEST, Config, Measured
from experiments.ratio.networks import Sets
from experiments.ratio.results import Criterion, Results, correct, criteria, orderings
from experiments.shared import report_pieces
from robustjax import runtime
from robustjax.analysis import calibration
from robustjax.ood.metrics import auroc
from robustjax.runtime import Report
from robustjax.runtime.image_grids import grid
from robustjax.runtime.subplots import Line, Subplot, subplot_grid

IMAGES_SHOWN = 3  # per method and start
METHODS_SHOWN = ("plain", "at", "ratio")  # where only some methods fit


class Figure(NamedTuple):
    """A figure, the name of its file and its caption."""

    picture: bytes
    name: str
    caption: str


class About(NamedTuple):
    """What a report says of the networks in it.

    Attributes:
      title: of the report.
      networks: which they are, and how they were trained.
      attacked: the same in a few words.
      evaluator: of the network that evaluates counterfactuals; "" without one.
    """

    title: str
    networks: str
    attacked: str
    evaluator: str


def of_methods(cfg: Config, sets: Sets, it: Results) -> About:
    """Describe the networks of ratio.compare."""
    ood = sets.ood
    assert ood is not None
    return About(
        "RATIO and its baselines",
        "Plain training, outlier exposure (OE), ACET, adversarial training (AT), TRADES and RATIO were trained on the "
        f"same {sets.train.info.count:,} images of {cfg.dataset} and the same {ood.info.count:,} OOD images "
        f"({ood.info.name}), {cfg.seeds} network{'s' if cfg.seeds > 1 else ''} each, and evaluated on other "
        f"OOD sets: {', '.join(sets.test_ood_sets)}.",
        f"{cfg.model}, {', '.join(it.title(m) for m in it.measured)}, {cfg.seeds} seeds",
        f"an adversarially trained {cfg.evaluation_model} of another seed",
    )


def page(it: Results, sets: Sets, about: About) -> Report:
    """Write the report."""
    cfg = it.cfg
    attack, ood_ball = f"{_suite_in_words(cfg)}, l2 {it.eps:g}", f"l2 {it.ood_eps:g}"
    sheet = Report(about.title, cfg)
    sheet.text(
        "A network should classify in-distribution (ID) images correctly and have low confidence on "
        "out-of-distribution (OOD) images, both also under attack. " + about.networks
    )
    sheet.text(report_pieces.images(sets.valid, sets.test, *sets.test_ood_sets.values()))
    sheet.section("Main results")
    rows = it.summary_table()
    _say(rows)
    sheet.table(
        rows,
        caption=f"Accuracy on {sets.test.info.count} test images. Robust: accuracy under the worst of {attack}. "
        f"AUROC by the largest probability, averaged over the OOD sets; at worst within {ood_ball} of every OOD image, "
        "the largest of five searches: an upper bound. MMC: mean of the largest probability. In brackets 95 % "
        "bootstrap intervals over networks and images; for ECE, least and largest of the networks.",
    )
    groups = (
        ("Criteria for RATIO, on every seed.", criteria(it)),
        (
            "Orderings seen on every seed of an earlier experiment of this kind, with weaker attacks.",
            orderings(it),
        ),
    )
    if any(group for _, group in groups):
        sheet.section("Criteria")
    for caption, group in groups:
        _criteria_table(sheet, group, caption)
    sheet.section("Every OOD set")
    sheet.table(
        it.ood_set_table(),
        caption="The true worst case lies between what interval bounds guarantee for the ball and what the attacks "
        "reach. Mean over networks.",
    )
    for figure in curves(it):
        sheet.picture(figure.picture, name=figure.name, caption=figure.caption)
    sheet.section("Counterfactuals")
    sheet.text(
        "From each start the probability of the target class is maximised within l2 balls of rising radius. The target "
        "of a test image is the class after its own, that of an OOD image the class that each network predicts at the "
        "start. The first images of each set and the first network are shown. Under each image is the probability of "
        "the target."
    )
    for figure in (*counterfactuals(it), hardest_images(it), all_classes(it), other_norms(it)):
        sheet.picture(figure.picture, name=figure.name, caption=figure.caption)
    sheet.table(
        it.counterfactual_table(),
        caption="Valid: the target class with more than 0.9. At radius 0 are the starts themselves. Distance: mean l2 "
        "distance from the start." + _agreement(it, sets, about),
    )
    sheet.section("Calibration")
    figure = reliability(it)
    sheet.picture(figure.picture, name=figure.name, caption=figure.caption)
    sheet.scope(
        attacked=[about.attacked],
        attacks=[
            f"accuracy: {attack}",
            f"confidence: APGD from {cfg.confidence_restarts} random starts ({cfg.confidence_steps} steps), at every "
            f"class ({cfg.class_steps} steps), from flat grey, and on the divergence from uniform, {ood_ball}",
        ],
        not_attacked=[
            "other norms",
            *(["FAB, Square"] if cfg.suite == "short" else []),
            "ID images, to lower their score, beside OOD images",
        ],
    )
    return sheet


def curves(it: Results) -> Iterator[Figure]:
    """Draw worst-case AUROC and confidences over radii."""
    count, radii = it.cfg.curve_images, it.cfg.radii
    by_set: dict[str, dict[str, Line]] = {"mean over OOD sets": {}} | {name: {} for name in it.ood_sets}
    ood_confidence: dict[str, Line] = {}
    for method, found in it.measured.items():
        inside, _, _ = it.scores(method)
        areas = {
            name: np.array(
                [
                    [auroc(scores, at_radius) for at_radius in curve.T]
                    for scores, curve in zip(inside, found[f"confidence_curve/{name}"], strict=True)
                ]
            )
            for name in it.ood_sets
        }
        for name, values in ({"mean over OOD sets": np.mean(list(areas.values()), axis=0)} | areas).items():
            by_set[name][it.title(method)] = _line(radii, values)
        p = [scipy.special.expit(found[f"confidence_curve/{n}"]).mean(axis=1) for n in it.ood_sets]
        ood_confidence[it.title(method)] = _line(radii, np.mean(p, axis=0))
    yield Figure(
        subplot_grid(
            [Subplot(name, lines, "l2 radius", "worst-case AUROC", (0, 1)) for name, lines in by_set.items()]
        ),
        "auroc_over_radii",
        f"AUROC against the points of highest confidence found around {count} images of each OOD set, over the radius. "
        "Every radius starts from the last one's result, so that no curve can rise. Shades: least and largest of the "
        "networks.",
    )
    true, other = (
        {
            it.title(m): _line(radii, found[f"class_curve/{which}"].mean(axis=1))
            for m, found in it.measured.items()
        }
        for which in ("true", "other")
    )
    yield Figure(
        subplot_grid(
            [
                Subplot("OOD images", ood_confidence, "l2 radius", "mean confidence", (0, 1)),
                Subplot("ID images, true class", true, "l2 radius", "mean probability", (0, 1)),
                Subplot("ID images, other class", other, "l2 radius", "mean probability", (0, 1)),
            ]
        ),
        "confidence_over_radii",
        f"Confidence over the radius: maximised around OOD images; around {count} test images at the points where the "
        "lead of another class is largest.",
    )


def counterfactuals(it: Results) -> Iterator[Figure]:
    """Draw counterfactuals of all methods side by side, a figure per start."""
    radii = it.cfg.counterfactual_radii
    shown = [0, *range(max(1, len(radii) - 3), len(radii))]
    count = min(IMAGES_SHOWN, it.counterfactuals_per_start)
    for start in it.starts:
        rows, captions = [], []
        for method, found in it.measured.items():
            images = found[f"counterfactual/{start}"][0, :count].astype(np.float32)
            p = it.target_probability(method, start)[0, :count]
            target = [it.classes[int(k)] for k in found[f"target/{start}"][0, :count]]
            rows.append([image for one in images for image in one[shown]])
            captions.append([f"{k}: {v:.2f}" for k, one in zip(target, p, strict=True) for v in one[shown]])
        columns = [f"l2 {radii[i]:g}" if radii[i] else "start" for i in shown] * count
        yield Figure(
            grid(rows, rows=[it.title(m) for m in it.measured], columns=columns, captions=captions),
            f"counterfactuals_{start.replace('/', '_')}",
            f"Counterfactuals from the first {count} images of {start}, method by method, over the radius; below each, "
            "the target class and its probability.",
        )


def hardest_images(it: Results) -> Figure:
    """Draw the images that each network gets most wrong, turned into their own class and into the one it prefers."""
    radii, rows, names, captions = it.cfg.counterfactual_radii, [], [], []
    for method in _methods_shown(it):
        found = it.measured[method]
        target = found[f"target/{HARDEST}"][0].reshape(-1, 2)  # own class, other class
        p = scipy.special.softmax(found[f"counterfactual_logits/{HARDEST}"][0].astype(np.float64), axis=-1)
        for i, (own, other) in enumerate(target[:IMAGES_SHOWN]):
            for row, towards in ((2 * i, own), (2 * i + 1, other)):
                rows.append(list(found[f"counterfactual/{HARDEST}"][0, row].astype(np.float32)))
                names.append(f"{it.title(method)} → {it.classes[towards]}")
                captions.append([f"{q[own]:.2f} / {q[other]:.2f}" for q in p[row]])
    return Figure(
        grid(rows, rows=names, columns=[f"l2 {r:g}" if r else "start" for r in radii], captions=captions),
        "hardest",
        "The test images whose own class is furthest below another, as each network sees them: those that it gets "
        "wrong, where there are some. In turn towards their own class and towards that other, over the radius; below "
        "each, the probabilities of its own class and of the other.",
    )


def all_classes(it: Results) -> Figure:
    """Draw the first two OOD images turned into every class."""
    radii, classes = it.cfg.counterfactual_radii, len(it.classes)
    at = len(radii) - (2 if len(radii) > 2 else 1)
    rows, names, captions = [], [], []
    for i in range(2):
        for method in _methods_shown(it):
            here = slice(i * classes, (i + 1) * classes)
            images = it.measured[method]["counterfactual/all"][0, here].astype(np.float32)
            rows.append([images[0, 0], *images[:, at]])
            names.append(it.title(method))
            captions.append(["", *(f"{v:.2f}" for v in it.target_probability(method, "all")[0, here, at])])
    return Figure(
        grid(rows, rows=names, columns=["start", *it.classes], captions=captions),
        "all_classes",
        f"The first two images of {it.ood_sets[0]} turned into every class, at l2 {radii[at]:g}.",
    )


def other_norms(it: Results) -> Figure:
    """Draw counterfactuals of the first two test images in balls of other norms."""
    rows, names, captions = [], [], []
    for i in range(2):
        for method in _methods_shown(it):
            found = it.measured[method]
            target = int(found["target/test"][0, i])
            images = [found["counterfactual/test"][0, i, 0], found["counterfactual/test"][0, i, -1]]
            p = [*it.target_probability(method, "test")[0, i, [0, -1]]]
            for norm in ("l1.5", "linf"):
                images.append(found[f"counterfactual/{norm}"][0, i, 1])
                logits = found[f"counterfactual_logits/{norm}"][0, i, 1].astype(np.float64)
                p.append(scipy.special.softmax(logits)[target])
            rows.append([image.astype(np.float32) for image in images])
            names.append(f"{it.title(method)} → {it.classes[target]}")
            captions.append([f"{v:.2f}" for v in p])
    return Figure(
        grid(rows, rows=names, columns=["start", "l2", "l1.5", "linf"], captions=captions),
        "norms",
        "The first two test images in balls of other norms, as large as the l2 ball of the largest radius in its "
        "diagonal direction.",
    )


def reliability(it: Results) -> Figure:
    """Draw accuracy over confidence, before and after the temperature."""
    before: dict[str, Line] = {"calibrated": Line([0, 1], [0, 1])}
    after = dict(before)
    for method, found in it.measured.items():
        best = it.temperatures(method)
        for lines, temperatures in ((before, [1.0] * len(best)), (after, best)):
            pairs = zip(found["logits/test"], temperatures, strict=True)
            p = [calibration.confidence(z, temperature=t) for z, t in pairs]
            bins = calibration.reliability(np.concatenate(p), correct(found).ravel(), bins=10)
            filled = bins.share > 0.01
            lines[it.title(method)] = Line(bins.confidence[filled], bins.accuracy[filled])
    return Figure(
        subplot_grid(
            [
                Subplot("as trained", before, "confidence", "accuracy", (0, 1.02)),
                Subplot("after temperature", after, "confidence", "accuracy", (0, 1.02)),
            ],
            across=2,
        ),
        "reliability",
        "Accuracy over confidence on test images, all networks of a method together; bins with less than 1 % of the "
        "images are left out. Temperatures were found on held-out images.",
    )


def _methods_shown(it: Results) -> list[str]:
    return [m for m in METHODS_SHOWN if m in it.measured] or list(it.measured)[:3]


def _line(x: tuple[float, ...], values: np.ndarray) -> Line:
    return Line(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _criteria_table(sheet: Report, group: list[Criterion], caption: str) -> None:
    rows = [criterion.row() for criterion in group]
    for row in rows:
        runtime.say(f"{row['result']:>14}: {row['criterion']}: {row['found, by seed']}, {row['expected']}")
    if rows:
        sheet.table(rows, caption=caption)


def _agreement(it: Results, sets: Sets, about: About) -> str:
    if not about.evaluator:
        return ""
    return (
        f" Agreement: the share that {about.evaluator} puts into the target class; features of that network also give "
        f"the Frechet distance to {min(sets.train.info.count, 5000):,} training images. With "
        f"{it.counterfactuals_per_start} images it is biased upwards and only compares within this table."
    )


def _suite_in_words(cfg: Measured) -> str:
    if cfg.suite == "standard":
        return "AutoAttack"
    return (
        f"APGD on cross-entropy ({cfg.apgd_steps} steps) and at 9 targets ({cfg.targeted_steps} each), a strong part "
        "of AutoAttack without FAB and Square"
    )


def _say(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        runtime.say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
