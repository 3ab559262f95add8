"""What the page of perturbation_sets.certify says."""

from typing import Any

import numpy as np

from robustjax.runtime import image_grids
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Panel, panels
from robustjax.smoothing.certify import Certificate
from robustjax.smoothing.curves import certified_accuracy


def page(
    cfg: Any,
    numbers: dict[str, Any],
    classes: tuple[str, ...],
    image: np.ndarray,
    label: np.ndarray,
    found: Certificate,
) -> Report:
    """Write everything down."""
    pixels = label.ndim == 3
    report = Report("Certificates of a smoothed network", cfg)
    what = "all pixels of an image at once" if pixels else "each image"
    report.text(
        f"{numbers['subject']}. The class is chosen by {cfg.n0:,} noisy copies and its probability bounded by "
        f"{cfg.n:,} others; for {what} the certificate is wrong with probability {cfg.alpha:g} at most."
    )
    report.text(
        f"Accuracy without noise {100 * numbers['accuracy without noise']:.1f} %; abstains on "
        f"{100 * numbers['abstains']:.1f} %; average certified radius {numbers['average certified radius']:.4f}."
        + (f" {numbers['copies per image']:,.0f} copies per image." if "copies per image" in numbers else "")
    )
    attacked = numbers["attacked"]
    report.table(
        [
            {"radius": f"{r:.3f}", "certified %": f"{100 * share:.1f}"}
            | ({} if attacked is None else {"attacked %": f"{100 * attacked[i]:.1f}"})
            for i, (r, share) in enumerate(zip(numbers["radii"], numbers["certified"], strict=True))
        ],
        caption="Share that is right with at least this radius. Attacked: accuracy of the smoothed network under PGD "
        "on its soft version, by fresh votes; what is certified must lie below."
        if attacked is not None
        else "Share that is right with at least this radius.",
    )
    known = label != 255 if pixels else np.ones(len(label), bool)
    flat, grid = Certificate(*(a[known] for a in found)), np.linspace(0, numbers["radii"][-1] * 1.02, 120)
    lines = {"certified": Line(grid, 100 * certified_accuracy(flat, label[known], grid))}
    if attacked is not None:
        lines["attacked"] = Line(numbers["radii"], 100 * np.asarray(attacked))
    report.picture(
        panels([Panel("Over the radius", lines, "radius", "%", (0, 102))], across=1, height=2.6),
        caption="Certified accuracy.",
    )
    if pixels:
        shown = np.where(found.label < 0, 0, found.label)[:6]
        most = max(1, len(classes) - 1)
        maps = [
            np.repeat(m[..., None], 3, axis=-1).clip(0, 1)
            for m in (shown / most, found.radius[:6] / grid[-1])
        ]
        names = ["image", "class", "radius"]
        report.picture(
            image_grids.grid([image[:6], *maps], rows=names), caption="Bright where the radius is large."
        )
        return report
    order = np.argsort(found.radius, kind="stable")
    rows = [order[:8], order[::-1][:8]]
    captions = [
        [f"{'none' if found.label[i] < 0 else classes[found.label[i]]}, {found.radius[i]:.2f}" for i in row]
        for row in rows
    ]
    report.picture(
        image_grids.grid([image[row] for row in rows], rows=["smallest", "largest"], captions=captions),
        caption="Images of the smallest and the largest radii, with the class that is certified.",
    )
    return report
