"""The summary and the report of perturbation_sets.compare."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.perturbation_sets.compare_networks import METHODS, Arrays
from experiments.perturbation_sets.config import FAMILIES, RADII, TARGETS, CompareConfig
from robustjax.perturbations.quality import Quality
from robustjax.runtime import image_grids
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Subplot, subplot_grid
from robustjax.smoothing.certify import Certificate
from robustjax.smoothing.curves import certified_accuracy

TOLERANCE = 0.01
ERRORS = ("nearest", "encoded", "expected", "farthest", "reconstruction")


class Summary(NamedTuple):
    """Means over seeds; radii are those of the encodings, in the order of `RADII`."""

    eps: np.ndarray
    clean: dict[str, float]
    perturbed: dict[str, float]
    robust: dict[str, np.ndarray]  # at each radius
    certified: dict[str, np.ndarray]  # at 0 and each radius
    attacked: dict[str, np.ndarray]  # the smoothed classifier, unattacked and at each radius
    quality: list[dict[str, float]]
    gates: dict[str, bool]


def summarised(cells: Sequence[Arrays]) -> Summary:
    """Average over seeds, and say which of the expectations hold."""
    targets = [t for t in TARGETS if f"smoothed {t}/radius" in cells[0]]
    eps = np.mean([cell["eps"] for cell in cells], axis=0)
    robust = {m: np.mean([cell[f"{m}/robust"].mean(axis=1) for cell in cells], axis=0) for m in METHODS}
    certified = {
        t: np.mean([_certified(cell, t, np.append(0.0, cell["eps"])) for cell in cells], axis=0)
        for t in targets
    }
    attacked = {t: np.mean([_attacked(cell, t) for cell in cells], axis=0) for t in targets}
    quality = [
        {
            name: float(np.mean([cell[f"quality/{name}"][i].mean() for cell in cells]))
            for name in Quality._fields
        }
        for i in range(len(eps))
    ]
    last = quality[-1]
    square = max(
        float(cell[f"{m}/robust"][-1].mean() - cell[f"{m}/square"].mean()) for cell in cells for m in METHODS
    )
    gates = {
        "adversarial training beats plain training by 50 points at the largest radius": bool(
            robust["adversarial"][-1] - robust["plain"][-1] >= 0.5
        ),
        "adversarial >= augmented >= plain at every radius, within a point": bool(
            (robust["adversarial"] >= robust["augmented"] - TOLERANCE).all()
            and (robust["augmented"] >= robust["plain"] - TOLERANCE).all()
        ),
        "certified accuracy never exceeds attacked accuracy": all(
            bool((_certified(cell, t, np.append(0.0, cell["eps"])) <= _attacked(cell, t) + 1e-9).all())
            for cell in cells
            for t in targets
        ),
        "the attack without gradients beats the one with them by no more than a point": square <= TOLERANCE,
        "errors are ordered: nearest <= encoded, nearest <= expected <= farthest": bool(
            last["nearest"] <= last["encoded"] and last["nearest"] <= last["expected"] <= last["farthest"]
        ),
        "a larger ball holds nearer and farther images": bool(
            all(
                a["nearest"] >= b["nearest"] - 1e-5 and a["farthest"] <= b["farthest"] + 1e-5
                for a, b in itertools.pairwise(quality)
            )
        ),
    }
    return Summary(
        eps,
        {m: float(np.mean([cell[f"{m}/clean"].mean() for cell in cells])) for m in METHODS},
        {m: float(np.mean([cell[f"{m}/perturbed"].mean() for cell in cells])) for m in METHODS},
        robust,
        certified,
        attacked,
        quality,
        gates,
    )


def comparison(
    cfg: CompareConfig, found: Mapping[str, Sequence[Arrays]], summary: Mapping[str, Summary]
) -> Report:
    """Report the comparison, family by family."""
    report = Report("Perturbation sets learned from pairs", cfg)
    report.text(
        "A conditional autoencoder learns from pairs of an image and a perturbation of it, without a formula. Around "
        "every image it spans a ball of latents; its radius is the largest norm of an encoding of held-out pairs. The "
        "solvers of pixel attacks search that ball, networks are trained against them, and smoothing certifies "
        "them.\n"
        "Certificates speak of perturbations of a known clean image, not of images that arrive perturbed."
    )
    for family in FAMILIES:
        if family in found:
            _family(report, family, found[family], summary[family])
    return report


def _family(report: Report, family: str, cells: Sequence[Arrays], one: Summary) -> None:
    first, width = cells[0], cells[0]["strips"].shape[1]
    report.section(f"{family.capitalize()}: what was learned")
    report.picture(
        image_grids.grid(
            first["strips"],
            rows=[f"latent {k}" for k in first["latents"]],
            columns=[f"{u:.1f}" for u in np.linspace(-one.eps[-1], one.eps[-1], width)],
        ),
        caption="Along the four latents that the posterior uses most, from one end of the ball to the other.",
    )
    rows = []
    for i in range(3):
        rows.append([first["clean"][i], first["real"][i], *first["sampled"][i][:6]])
    report.picture(
        image_grids.grid(rows, columns=["image", "real", *["sampled"] * 6]),
        caption="An image, a real perturbation of it, and samples of the learned set.",
    )
    used = np.mean([(cell["divergence"] > 0.05).sum() for cell in cells])
    report.text(
        f"Latents in use (divergence above 0.05 nats), mean over seeds: {used:.1f} of {len(first['divergence'])}."
    )
    report.table(
        [
            {"radius": f"{which} {one.eps[i]:.2f}"} | {name: f"{one.quality[i][name]:.4f}" for name in ERRORS}
            for i, which in enumerate(RADII)
        ],
        caption="Errors to real perturbations of test images, mean squares per pixel: the nearest point found "
        "in the ball, the encoding, the average over the ball, the farthest point found, and a reconstruction.",
    )
    report.section(f"{family.capitalize()}: robustness")
    report.table(
        [
            {
                "training": m,
                "clean %": f"{100 * one.clean[m]:.1f}",
                "perturbed %": f"{100 * one.perturbed[m]:.1f}",
                **{f"{which} {one.eps[i]:.2f}": _spread(cells, m, i) for i, which in enumerate(RADII)},
            }
            for m in METHODS
        ],
        caption="Accuracy on test images: as they are, really perturbed, and under attack at the quartiles and "
        "the largest of the encodings' norms; mean over seeds and, in brackets, the lowest and highest.",
    )
    names = ("plain", "adversarial")
    report.picture(
        image_grids.grid(
            [first["clean"], *(first[f"{m}/worst"] for m in names)],
            rows=["image", *(f"worst for {m}" for m in names)],
            captions=[[], *([str(k) for k in first[f"{m}/predicted"]] for m in names)],
        ),
        caption="The worst that the attack found at the largest radius, and the class that the network predicts.",
    )
    lines = {m: Line(one.eps, 100 * one.robust[m]) for m in METHODS}
    grid = np.linspace(0.0, float(one.eps[-1]) * 1.05, 60)
    curves = {
        f"for {t}": Line(grid, 100 * np.mean([_certified(cell, t, grid) for cell in cells], axis=0))
        for t in one.certified
    }
    curves |= {f"{t}, attacked": Line(np.append(0.0, one.eps), 100 * v) for t, v in one.attacked.items()}
    errors = {n: Line(one.eps, [q[n] for q in one.quality]) for n in ("nearest", "expected", "farthest")}
    report.picture(
        subplot_grid(
            [
                Subplot("Under attack", lines, "radius", "accuracy %", (0, 100)),
                Subplot("Smoothed, certified", curves, "radius", "accuracy %", (0, 100)),
                Subplot("Errors to real ones", errors, "radius", "squared error", None),
            ]
        ),
        caption="Accuracy under attack; certified accuracy of smoothed networks and their accuracy under an attack on "
        "what is smoothed; how near and far the ball reaches.",
    )
    report.table([{"expected": what, "holds": "yes" if holds else "no"} for what, holds in one.gates.items()])


def _spread(cells: Sequence[Arrays], method: str, i: int) -> str:
    each = [100 * cell[f"{method}/robust"][i].mean() for cell in cells]
    return f"{np.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})"


def _certified(cell: Arrays, target: str, radii: np.ndarray) -> np.ndarray:
    name = f"smoothed {target}"
    found = Certificate(cell[f"{name}/label"], cell[f"{name}/radius"], np.zeros(0))
    return certified_accuracy(found, cell["label"], radii)


def _attacked(cell: Arrays, target: str) -> np.ndarray:
    return cell[f"smoothed {target}/robust"].mean(axis=1)
