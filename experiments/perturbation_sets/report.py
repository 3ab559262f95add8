"""The reports of train, evaluate, train_classifier and certify."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.perturbation_sets.config import (
    CertifyConfig,
    EvaluateConfig,
    TrainClassifierConfig,
    TrainConfig,
)
from robustjax import runtime
from robustjax.perturbations.quality import Norms, Quality
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Subplot, subplot_grid
from robustjax.smoothing.certify import Certificate
from robustjax.smoothing.curves import certified_accuracy

Arrays = Mapping[str, np.ndarray]
ERRORS = ("nearest", "encoded", "expected", "farthest", "reconstruction")


def training(
    cfg: TrainConfig,
    latents: int,
    encodings: Norms,
    measured: Quality,
    rows: Sequence[Sequence[np.ndarray]],
) -> Report:
    """Report a training of an autoencoder: radius, quality, example images, curves."""
    source = cfg.folder or f"{cfg.pairs} pairs of {cfg.dataset}"
    report = Report(f"A perturbation set learned from {source}", cfg)
    report.text(
        f"The radius is the largest norm among the encodings of {cfg.samples} perturbations of each of "
        f"{cfg.images or 'all'} validation images: {encodings.largest:.2f}, of {latents} latents."
    )
    report.table([{"encodings": name, "norm": value} for name, value in encodings._asdict().items()])
    report.table(
        [{"measured": name, "mean over test pairs": float(getattr(measured, name).mean())} for name in Quality._fields],
        caption="Errors per pixel: nearest and farthest that a search finds in the ball, at the encoding, on "
        "average over the ball, and of reconstructions; divergence of the posterior in nats; norm of encodings.",
    )  # fmt: skip
    report.picture(
        image_grids.grid(rows, columns=["image", "real", "encoded", *["sampled"] * 5]),
        caption="Test images, a real perturbation, what decoding its encoding gives, and samples of the set.",
    )
    report.picture(
        figures.training(runtime.read_metrics(cfg.out), names=("reconstruction", "kl")),
        caption="Training: error summed over pixels, divergence in nats.",
    )
    return report


def evaluation(
    cfg: EvaluateConfig,
    numbers: Mapping[str, Any],
    norms: np.ndarray,
    bounds: Arrays,
    examples: Arrays,
) -> Report:
    """Report an evaluation of a learned set over radii."""
    report = Report(f"The perturbation set of {numbers['run']}", cfg)
    rows = numbers["radii"]
    conformal = numbers["conformal radius, alpha 0.01"]
    report.text(
        f"{numbers['latents']} latents, trained for {numbers['updates']:,} updates. The norm of the encodings of "
        f"validation pairs is {np.median(norms):.2f} in the median and {norms.max():.2f} at most. "
        + (
            f"A ball of radius {conformal:.2f} holds the encoding of a new pair with probability 0.99 at least "
            "(conformal)."
            if conformal is not None
            else f"{len(norms)} pairs allow no radius that holds that of a new one with probability 0.99 (conformal)."
        )
    )
    report.section("Quality over the radius")
    report.table(
        [
            {"radius": f"{row['radius']:.2f}", "inside %": f"{100 * row['inside']:.1f}"}
            | {"covered %": f"{100 * row['covered']:.1f}"}
            | {name: f"{row[name]:.5f}" for name in ERRORS}
            for row in rows
        ],
        caption="Means over test pairs. Inside: the pair's encoding lies in the ball. Covered: a search in the ball "
        f"comes within {cfg.tolerance:g} of the real perturbation. Errors per pixel: nearest and farthest that a "
        "search finds, at the encoding, on average over the ball, and of a reconstruction.",
    )
    report.text(f"Divergence of the posterior from the prior: {rows[-1]['kl']:.2f} nats.")
    radii = [row["radius"] for row in rows]
    curve = {name: Line(radii, [row[name] for row in rows]) for name in ("nearest", "expected", "farthest")}
    shares = {name: Line(radii, [100 * row[name] for row in rows]) for name in ("inside", "covered")}
    at = np.linspace(0, norms.max(), 50)
    shares["encodings, validation"] = Line(at, [100 * (norms <= r).mean() for r in at])
    report.picture(
        subplot_grid(
            [
                Subplot("Errors to real perturbations", curve, "radius", "error per pixel"),
                Subplot("What the ball holds", shares, "radius", "% of pairs", (0, 102)),
            ],
            across=2,
        ),
        caption="Quality and coverage over the radius.",
    )
    if bounds:
        _theorems(report, cfg.excess, bounds)
    report.section("Images, at the largest radius")
    strips = examples["strips"]
    report.picture(
        image_grids.grid(
            strips,
            rows=[f"latent {k}" for k in examples["latents"]],
            columns=[f"{u:.1f}" for u in np.linspace(-radii[-1], radii[-1], strips.shape[1])],
        ),
        caption="Along the four latents that the posterior uses most, from one end of the ball to the other.",
    )
    table = [[examples[n][i] for n in ("clean", "real", "encoded")] for i in range(len(examples["clean"]))]
    report.picture(
        image_grids.grid(
            [[*row, *examples["sampled"][i]] for i, row in enumerate(table)],
            columns=["image", "real", "encoded", *["sampled"] * 5],
        ),
        caption="An image, a real perturbation, what decoding its encoding gives, and samples of the set.",
    )
    if "between" in examples:  # not in folders of earlier versions
        between = examples["between"]
        shares = np.linspace(0, 1, between.shape[1])
        report.picture(
            image_grids.grid(
                [
                    [a, *row, b]
                    for a, row, b in zip(examples["real"], between, examples["other"], strict=True)
                ],
                columns=["real", *(f"{share:.2g}" for share in shares), "another"],
            ),
            name="interpolation",
            caption="From one real perturbation of an image to another: what decoding points between their encodings "
            "gives.",
        )
    report.picture(
        image_grids.grid(
            [examples[n] for n in ("clean", "observed", "farthest")],
            rows=["image", "farthest real", "farthest in the set"],
        ),
        caption="Farthest from the image: of 24 real perturbations, and of all that a search finds in the set.",
    )
    return report


def _theorems(report: Report, excess: float, bounds: Arrays) -> None:
    report.section("What the training objective promises")
    first = bounds["nearest"] <= bounds["nearest_bound"]
    second = bounds["likelihood"] >= bounds["likelihood_bound"]
    rows = [
        {
            "theorem": f"a near point exists (giving up {excess:g})",
            "promised, median": f"error {np.median(bounds['nearest_bound']):.1f} "
            f"within {np.median(bounds['radius']):.1f}",
            "found, median": f"error {np.median(bounds['nearest']):.1f}",
            "holds for": f"{first.sum()} of {len(first)}",
        },
        {
            "theorem": "the set is likely, log-likelihood",
            "promised, median": f"at least {np.median(bounds['likelihood_bound']):.1f}",
            "found, median": f"{np.median(bounds['likelihood']):.1f}",
            "holds for": f"{second.sum()} of {len(second)}",
        },
    ]
    report.table(
        rows,
        caption="Squared errors in units of the likelihood's variance, summed over pixels. Expectations over the "
        "posterior are averages over 64 samples, the likelihood of the set over 256, which misses what is rare: it is "
        "a low estimate.",
    )


def classifier(
    cfg: TrainClassifierConfig, latents: int, found: Arrays, metrics: list[dict[str, Any]]
) -> Report:
    """Report a classifier or segmenter trained on a set: accuracy on real perturbations and under attack."""
    pixels = found["label"].ndim == 3
    what, unit = ("segmenter", "share of right pixels") if pixels else ("classifier", "accuracy")
    report = Report(f"A {what} trained by {cfg.method} on the set of {cfg.set}", cfg)
    radii, robust = found["radii"], found["robust"]
    report.text(
        f"Attacks search the {latents} latents of the set by PGD with {cfg.steps} steps from "
        f"{cfg.restarts} random start{'s' if cfg.restarts > 1 else ''}, and keep the worst point found."
        + ("" if pixels else " u = 0 and the encoding of a real perturbation are candidates too.")
    )
    rows = [
        {"on": "scenes under their first light" if pixels else "images as they are", unit: percent(found["clean"])},
        {"on": "all lights, on average" if pixels else "one real perturbation each", unit: percent(found["perturbed"])},
        {
            "on": "the worst light" if pixels else f"the worst of {cfg.real_samples} real perturbations",
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
        subplot_grid([Subplot("Over the radius", lines, "radius", f"{unit}, %", (0, 102))]),
        caption="Under attack inside the set, beside what real perturbations do.",
    )
    captions = [[], [], [] if pixels else [str(k) for k in found["predicted"]]]
    pictures = [found["image"], found["observed_image"][: len(found["image"])], found["worst"]]
    names = ["image", "worst real", "worst in the set"]
    if pixels:
        classes = max(1, int(found["label"][found["label"] != 255].max(initial=1)))
        maps = [np.where(found["label"][:8] == 255, 0, found["label"][:8]), found["predicted"]]
        pictures += [np.repeat(a[..., None] / classes, 3, axis=-1).clip(0, 1) for a in maps]
        names += ["classes", "predicted for the last"]
    report.picture(
        image_grids.grid(pictures, rows=names, captions=captions),
        caption=f"The worst of real perturbations, and the worst that the attack found within {radii[-1]:.2f}.",
    )
    names = [name for name in ("loss", "accuracy", "robust_accuracy") if name in metrics[-1]]
    report.picture(figures.training(metrics, names=names), caption="Training.")
    return report


def certificates(
    cfg: CertifyConfig,
    numbers: Mapping[str, Any],
    classes: tuple[str, ...],
    image: np.ndarray,
    label: np.ndarray,
    found: Certificate,
) -> Report:
    """Report certificates of a smoothed network."""
    pixels = label.ndim == 3
    report = Report("Certificates of a smoothed network", cfg)
    what = "all pixels of an image at once" if pixels else "each image"
    report.text(
        f"{numbers['network']}. The class is chosen by {cfg.selection_samples:,} samples of the noise and its "
        f"probability bounded by {cfg.samples:,} others; for {what} the certificate is wrong with probability "
        f"{cfg.alpha:g} at most."
    )
    used = (
        f" {numbers['samples per image']:,.0f} samples per image." if "samples per image" in numbers else ""
    )
    report.text(
        f"Accuracy without noise {100 * numbers['accuracy without noise']:.1f} %; abstains on "
        f"{100 * numbers['abstains']:.1f} %; average certified radius {numbers['average certified radius']:.4f}."
        + used
    )
    attacked = numbers["attacked"]
    report.table(
        [
            {"radius": f"{r:.3f}", "certified %": f"{100 * share:.1f}"}
            | ({} if attacked is None else {"attacked %": f"{100 * attacked[i]:.1f}"})
            for i, (r, share) in enumerate(zip(numbers["radii"], numbers["certified"], strict=True))
        ],
        caption="Share that is right with at least this radius. Attacked: accuracy of the smoothed network under PGD "
        "on its soft version, by votes of new samples; what is certified must lie below."
        if attacked is not None
        else "Share that is right with at least this radius.",
    )
    known = label != 255 if pixels else np.ones(len(label), bool)
    flat, grid = Certificate(*(a[known] for a in found)), np.linspace(0, numbers["radii"][-1] * 1.02, 120)
    lines = {"certified": Line(grid, 100 * certified_accuracy(flat, label[known], grid))}
    if attacked is not None:
        lines["attacked"] = Line(numbers["radii"], 100 * np.asarray(attacked))
    report.picture(
        subplot_grid([Subplot("Over the radius", lines, "radius", "%", (0, 102))], across=1, height=2.6),
        caption="Certified accuracy.",
    )
    if numbers["predicted"]:
        report.table(
            numbers["predicted"],
            caption=f"Images that arrive perturbed, predicted by the votes of {cfg.predict_samples} samples around "
            "them; the smoothed network abstains where the two classes of most votes could be equally likely. "
            "Certificates say nothing about these images: they hold around known clean ones. Severity 5.",
        )
    if pixels:
        chosen = np.where(found.label < 0, 0, found.label)[:6] / max(1, len(classes) - 1)
        maps = [
            np.repeat(one[..., None], 3, axis=-1).clip(0, 1) for one in (chosen, found.radius[:6] / grid[-1])
        ]
        report.picture(
            image_grids.grid([image[:6], *maps], rows=["image", "class", "radius"]),
            caption="Bright where the radius is large.",
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


def percent(right: np.ndarray) -> str:
    """Write a share in percent."""
    return f"{100 * right.mean():.1f} %"
