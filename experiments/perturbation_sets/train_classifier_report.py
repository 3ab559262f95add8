"""What the page of perturbation_sets.train_classifier says."""

from typing import Any

import numpy as np

from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Panel, panels


def page(cfg: Any, it: Any, found: dict[str, np.ndarray], metrics: list[dict[str, Any]]) -> Report:
    """Write everything down."""
    pixels = found["label"].ndim == 3
    what, unit = ("segmenter", "share of right pixels") if pixels else ("classifier", "accuracy")
    report = Report(f"A {what} trained by {cfg.method} on the set of {cfg.set}", cfg)
    radii, robust = found["radii"], found["robust"]
    report.text(
        f"Attacks climb over the {it.model.dimension} latents of the set by PGD with {cfg.steps} steps from "
        f"{cfg.restarts} random start{'s' if cfg.restarts > 1 else ''}, and keep the worst point met."
        + ("" if pixels else " u = 0 and the encoding of a real perturbation are candidates too.")
    )
    rows = [
        {"on": "scenes under their first light" if pixels else "images as they are", unit: percent(found["clean"])},
        {"on": "all lights, on average" if pixels else "one real perturbation each", unit: percent(found["perturbed"])},
        {
            "on": "the worst light" if pixels else f"the worst of {cfg.observed} real ones",
            unit: percent(found["observed"]),
        },
    ]  # fmt: skip
    if "held_out" in found:
        rows.append({"on": "corruptions that no set is learned from", unit: percent(found["held_out"])})
    for r, one in zip(radii, robust, strict=True):
        rows.append({"on": f"attacked within {r:.2f}", unit: percent(one)})
    if "square" in found:
        rows.append({"on": f"within {radii[-1]:.2f}, without gradients", unit: percent(found["square"][-1])})
    report.table(rows, caption="On test images.")
    lines = {"attacked": Line(radii, 100 * robust.mean(axis=1))}
    for name in ("clean", "perturbed", "observed"):
        level = 100 * found[name].mean()
        lines[{"observed": "worst real ones"}.get(name, name)] = Line(radii[[0, -1]], [level, level])
    report.picture(
        panels([Panel("Over the radius", lines, "radius", f"{unit}, %", (0, 102))]),
        caption="Under attack inside the set, beside what real perturbations do.",
    )
    captions = [[], [], [] if pixels else [str(k) for k in found["said"]]]
    pictures = [found["image"], found["observed_image"][: len(found["image"])], found["worst"]]
    names = ["image", "worst observed", "worst imagined"]
    if pixels:
        classes = max(1, int(found["label"][found["label"] != 255].max(initial=1)))
        shades = [np.where(found["label"][:8] == 255, 0, found["label"][:8]), found["said"]]
        pictures += [np.repeat(a[..., None] / classes, 3, axis=-1).clip(0, 1) for a in shades]
        names += ["classes", "said of the last"]
    report.picture(
        image_grids.grid(pictures, rows=names, captions=captions),
        caption=f"The worst of real perturbations, and the worst that the attack found within {radii[-1]:.2f}.",
    )
    names = [name for name in ("loss", "accuracy", "robust_accuracy") if name in metrics[-1]]
    report.picture(figures.training(metrics, names=names), caption="Training.")
    return report


def percent(right: np.ndarray) -> str:
    """Write a share in percent."""
    return f"{100 * right.mean():.1f} %"
