"""The pictures of ratio.compare's page: curves, strips, grids and reliability diagrams."""

from collections.abc import Iterator

import numpy as np
import scipy.special

from experiments.ratio.results import TITLES, Results, right
from robustjax.analysis import calibration
from robustjax.ood.metrics import auroc
from robustjax.runtime.image_grids import grid
from robustjax.runtime.subplots import Line, Panel, panels

Drawn = tuple[bytes, str, str]  # picture, name, caption
SHOWN = 3  # images of each strip
SIDE_BY_SIDE = ("plain", "at", "ratio")  # where only some methods fit


def curves(it: Results) -> Iterator[Drawn]:
    """Draw worst-case AUC and confidences over radii."""
    count, radii = it.cfg.curve_images, it.cfg.radii
    by_set: dict[str, dict[str, Line]] = {"all sets, averaged": {}} | {name: {} for name in it.tested}
    sure: dict[str, Line] = {}
    for method, cell in it.cells.items():
        inside, _, _ = it.scores(method)
        found = {
            name: np.array(
                [[auroc(a, at) for at in c.T] for a, c in zip(inside, cell[f"curve/{name}"], strict=True)]
            )
            for name in it.tested
        }
        for name, values in ({"all sets, averaged": np.mean(list(found.values()), axis=0)} | found).items():
            by_set[name][TITLES[method]] = _line(radii, values)
        odds = np.mean([scipy.special.expit(cell[f"curve/{n}"]).mean(axis=1) for n in it.tested], axis=0)
        sure[TITLES[method]] = _line(radii, odds)
    drawings = [Panel(name, lines, "l2 radius", "worst-case AUC", (0, 1)) for name, lines in by_set.items()]
    yield (
        panels(drawings),
        "auc_over_radii",
        f"AUC against the surest points found around {count} outliers of each set, over the radius; every radius goes "
        "on from the last, so that no curve can rise. Shades: least and largest of the networks.",
    )
    own, other = (
        {TITLES[m]: _line(radii, cell[f"rivals/{part}"].mean(axis=1)) for m, cell in it.cells.items()}
        for part in ("own", "other")
    )
    drawings = [
        Panel("around outliers", sure, "l2 radius", "mean confidence", (0, 1)),
        Panel("around data, own", own, "l2 radius", "mean probability", (0, 1)),
        Panel("around data, rival", other, "l2 radius", "mean probability", (0, 1)),
    ]
    yield (
        panels(drawings),
        "confidence_over_radii",
        f"Confidence over the radius: pushed up around outliers; around {count} test images pushed towards the largest "
        "lead of another class.",
    )


def strips(it: Results) -> Iterator[Drawn]:
    """Draw counterfactuals side by side, every class from one start, and other norms."""
    radii = it.cfg.feature_radii
    shown = [0, *range(max(1, len(radii) - 3), len(radii))]
    for start in it.starts:
        count = min(SHOWN, it.starting)
        rows, captions = [], []
        for method, cell in it.cells.items():
            made, p = cell[f"features/{start}"][0, :count], it.probabilities(method, start)[0, :count]
            target = [it.classes[int(k)] for k in cell[f"target/{start}"][0, :count]]
            rows.append([image.astype(np.float32) for one in made for image in one[shown]])
            captions.append([f"{k}: {v:.2f}" for k, one in zip(target, p, strict=True) for v in one[shown]])
        columns = [f"l2 {radii[i]:g}" if radii[i] else "start" for i in shown] * count
        yield (
            grid(rows, rows=[TITLES[m] for m in it.cells], columns=columns, captions=captions),
            f"strip_{start.replace('/', '_')}",
            f"Counterfactuals from the first {count} images of {start}, method by method, over the radius; below each, "
            "the target class and its probability.",
        )
    at = len(it.cfg.feature_radii) - (2 if len(it.cfg.feature_radii) > 2 else 1)
    rows, names, captions = [], [], []
    count = len(it.classes)
    chosen = [m for m in SIDE_BY_SIDE if m in it.cells] or list(it.cells)[:3]
    for i in range(2):
        for method in chosen:
            cell, p = it.cells[method], it.probabilities(method, "all")[0]
            here = slice(i * count, (i + 1) * count)
            made = cell["features/all"][0, here].astype(np.float32)
            rows.append([made[0, 0], *made[:, at]])
            names.append(TITLES[method])
            captions.append(["", *(f"{v:.2f}" for v in p[here, at])])
    yield (
        grid(rows, rows=names, columns=["start", *it.classes], captions=captions),
        "all_classes",
        f"The first two outliers of {it.tested[0]} turned into every class, at l2 {it.cfg.feature_radii[at]:g}.",
    )
    rows, names, captions = [], [], []
    for i in range(2):
        for method in chosen:
            cell = it.cells[method]
            few = [cell["features/test"][0, i, 0], cell["features/test"][0, i, -1]]
            few += [cell[f"features/{norm}"][0, i, 1] for norm in ("l1.5", "linf")]
            p = [*it.probabilities(method, "test")[0, i, [0, -1]]]
            for norm in ("l1.5", "linf"):
                soft = scipy.special.softmax(cell[f"toward/{norm}"][0, i, 1].astype(np.float64))
                p.append(soft[int(cell["target/test"][0, i])])
            rows.append([image.astype(np.float32) for image in few])
            names.append(f"{TITLES[method]} → {it.classes[int(cell['target/test'][0, i])]}")
            captions.append([f"{v:.2f}" for v in p])
    yield (
        grid(rows, rows=names, columns=["start", "l2", "l1.5", "linf"], captions=captions),
        "norms",
        "The first two test images in balls of other norms, as large as the l2 ball of the largest radius in its "
        "diagonal direction.",
    )


def reliability(it: Results) -> tuple[bytes, str]:
    """Draw accuracy over confidence, before and after the temperature."""
    before: dict[str, Line] = {"as sure as right": Line([0, 1], [0, 1])}
    after = dict(before)
    for method, cell in it.cells.items():
        heat = it.temperatures(method)
        for lines, temperatures in ((before, [1.0] * len(heat)), (after, heat)):
            pairs = zip(cell["logits/test"], temperatures, strict=True)
            p = [calibration.confidence(z, temperature=t) for z, t in pairs]
            bins = calibration.reliability(np.concatenate(p), right(cell).ravel(), bins=10)
            filled = bins.share > 0.01
            lines[TITLES[method]] = Line(bins.confidence[filled], bins.accuracy[filled])
    drawings = [
        Panel("as trained", before, "confidence", "accuracy", (0, 1.02)),
        Panel("after temperature", after, "confidence", "accuracy", (0, 1.02)),
    ]
    return (
        panels(drawings, across=2),
        "Accuracy over confidence on test images, all networks of a method together; bins with less than 1 % of the "
        "images are left out. Temperatures were found on held-out images.",
    )


def _line(x: tuple[float, ...], values: np.ndarray) -> Line:
    return Line(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))
