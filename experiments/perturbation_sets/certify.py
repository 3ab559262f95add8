"""Certify a smoothed network, image by image: in pixels, or in the latents of a learned set.

    python -m experiments.perturbation_sets.certify digits --runs runs/smoothed --out runs/certified
    python -m experiments.perturbation_sets.certify mnist --runs runs/mnist --sigma 0.25 --out runs/certified_mnist
    python -m experiments.perturbation_sets.certify mnist --runs runs/a runs/b runs/c --up-to 0.5

--runs are folders of classification.train, to be certified in pixels, or of train_classifier, in latents; of several,
logits are averaged. A class is chosen by --selection-samples samples of the noise and its probability bounded by
--samples others; --up-to RADIUS stops an image as soon as that radius is reached or out of reach. Segmenters get a
certificate per pixel. --predict names images that arrive perturbed: the smoothed network predicts them by the votes of
--predict-samples samples, or abstains; no certificate covers them. Started again with the same --out, images that are
done are not done again. Images are shared among all devices. The folder gets certificates.npz, certificates.json and
report.html.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import report
from experiments.perturbation_sets.config import CERTIFY_PRESETS as PRESETS
from experiments.perturbation_sets.config import CertifyConfig
from experiments.perturbation_sets.losses import inputs_of, reference_images
from experiments.perturbation_sets.networks import as_images, open_classifier, radius_of, sigma_of
from experiments.perturbation_sets.predictions import Smoothed, counter, predicted, summary
from experiments.shared import classifiers, command_line
from robustjax import binomial, data, runtime
from robustjax.data import subsets
from robustjax.perturbations.learned import learned
from robustjax.runtime import strict_json
from robustjax.runtime.snapshot import in_bytes
from robustjax.smoothing import curves
from robustjax.smoothing.certify import Certificate, certify
from robustjax.smoothing.ensembles import ensemble
from robustjax.smoothing.latent_attack import attack_smoothed
from robustjax.smoothing.noise import in_parameters, in_pixels
from robustjax.smoothing.segmenters import certify_pixels
from robustjax.smoothing.sequential import certify_up_to
from robustjax.types import Batch, LogitsFn, Model, Params, State, frozen

Arrays = dict[str, np.ndarray]
MAY_DIFFER = ("out", "data_dir", "images", "save_every", "attack", "predict")


def main(cfg: CertifyConfig) -> int:
    """Certify some images at a time, then write the report."""
    mesh = runtime.data_mesh()
    smoothed = open_smoothed(cfg, mesh)
    kinds = smoothed.kinds(cfg.predict)
    total, size = len(smoothed.label), -(-cfg.save_every // mesh.size) * mesh.size

    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        # --- certificates ---
        certify_images = certifier(cfg, smoothed, mesh)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(cfg.seed), i))(jnp.arange(total))
        starts, chosen = range(0, total, size), smoothed.info.subset
        # The beginning of the official order is that of the whole split, too; a stratified subset has another order.
        rule = f"{chosen.rule}_" if chosen and chosen.rule == subsets.STRATIFIED else ""
        cells: list[Arrays] = []
        bar = runtime.progress(starts, total=len(starts), label=f"certify {total} images, {size} at a time")
        for _, first in bar:
            rows = slice(first, first + size)
            cells.append(
                run.cached(
                    f"cells/{rule}{first}_{min(first + size, total)}",
                    lambda rows=rows: certify_images(keys[rows], smoothed.image[rows]),
                )
            )
            certified = np.concatenate([(cell["radius"] > 0).reshape(-1) for cell in cells])
            bar.show({"certified": float(certified.mean())})
        found = {name: np.concatenate([cell[name] for cell in cells]) for name in cells[0]}
        whole = Certificate(found["label"], found["radius"], found["lower_bound"])

        # --- accuracy without noise, and under attack ---
        logits = [np.asarray(smoothed.logits_fn(smoothed.image[i : i + 100])) for i in range(0, total, 100)]
        plain = np.concatenate(logits).argmax(axis=-1) == smoothed.label
        largest = float(binomial.radius(np.asarray(cfg.alpha ** (1 / cfg.samples)), smoothed.sigma))
        radii = np.linspace(0, largest, 9)
        known = smoothed.label != 255 if smoothed.pixelwise else np.ones(total, bool)
        flat = Certificate(*(a[known] for a in whole))
        attacked = None
        if cfg.attack and smoothed.space is not None and not smoothed.pixelwise:
            right = attack_smoothed(
                keys[0],
                smoothed.logits_fn,
                smoothed.space,
                Batch(smoothed.image, jnp.asarray(smoothed.label)),
                sigma=smoothed.sigma,
                radii=radii[1:],
                classes=len(smoothed.info.classes),
            )
            attacked = right.mean(axis=1)

        # --- predictions of images that arrive perturbed ---
        perturbed = {
            kind: run.cached(
                f"predictions/{rule}{total}_{kind}",
                lambda kind=kind: predicted(cfg, smoothed, mesh, keys, kind),
            )
            for kind in kinds
        }

        # --- results ---
        settings = ("selection_samples", "samples", "alpha", "up_to", "images", "skip")
        numbers = {
            "network": smoothed.title,
            "sigma": smoothed.sigma,
            "settings": {name: getattr(cfg, name) for name in settings},
            "accuracy without noise": float(plain[known].mean()),
            "average certified radius": curves.average_radius(flat, smoothed.label[known]),
            "abstains": float((flat.label < 0).mean()),
            "radii": radii.tolist(),
            "certified": curves.certified_accuracy(flat, smoothed.label[known], radii).tolist(),
            "attacked": None if attacked is None else attacked.tolist(),
            "predicted": summary(perturbed, smoothed.label),
        }
        if "samples" in found:
            numbers["samples per image"] = float(found["samples"].mean())
        strict_json.write(run.folder / "certificates.json", numbers, indent=2)
        runtime.write_whole(run.folder / "certificates.npz", in_bytes(found | {"true": smoothed.label}))
        print(in_words(numbers))
        page = report.certificates(
            cfg, numbers, smoothed.info.classes, np.asarray(smoothed.image), smoothed.label, whole
        )
        page.text(f"Images: {subsets.in_words(smoothed.info)}.")
        runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def open_smoothed(cfg: CertifyConfig, mesh: Mesh) -> Smoothed:
    """Open the runs, all of one kind and on the same images.

    Raises:
      ValueError: in one line, if they are not.
    """
    made_by = "classification.train or perturbation_sets.train_classifier"
    opened = runtime.open_run(cfg.runs[0], made_by=made_by)
    return _in_latents(cfg, mesh) if "set" in opened.config else _in_pixels(cfg, mesh)


def _in_pixels(cfg: CertifyConfig, mesh: Mesh) -> Smoothed:
    if cfg.sigma is None:
        raise ValueError("--sigma is missing, must be given for runs of classification.train")
    opened = [classifiers.open_classifier(folder, data_dir=cfg.data_dir) for folder in cfg.runs]
    nets, test = [network for network, _ in opened], opened[0][1]
    if len({net.about["dataset"] for net in nets}) > 1:
        raise ValueError("--runs were trained on different data sets, must be one")
    test = _chosen(cfg, test)
    return Smoothed(
        f"{', '.join(cfg.runs)}, noise {cfg.sigma:g} in pixels",
        _ensemble(mesh, [(net.model, net.params, net.state) for net in nets]),
        in_pixels(cfg.sigma),
        cfg.sigma,
        test.info,
        jnp.asarray(test.image, jnp.float32) / 255,
        test.label,
        None,
        jnp.asarray(test.image, jnp.float32) / 255,
        None,
    )


def _in_latents(cfg: CertifyConfig, mesh: Mesh) -> Smoothed:
    nets = [open_classifier(folder, data_dir=cfg.data_dir) for folder in cfg.runs]
    made, learned_set = nets[0].config, nets[0].learned_set
    if len({net.config.set for net in nets}) > 1:
        raise ValueError("--runs were trained on different sets, must be one")
    radius = radius_of(made, learned_set)
    sigma = cfg.sigma or sigma_of(made, radius)
    weights = runtime.place((learned_set.params, learned_set.state), mesh)
    space = learned(learned_set.model, *weights, radius=radius)
    test = _chosen(cfg, learned_set.splits[2])
    return Smoothed(
        f"{', '.join(cfg.runs)}, noise {sigma:.3g} in the latents of {made.set}",
        _ensemble(mesh, [(net.network.model, net.network.params, net.network.state) for net in nets]),
        in_parameters(space, sigma),
        sigma,
        test.info,
        reference_images(learned_set, test),
        np.asarray(test.label),
        space,
        as_images(test),
        inputs_of(learned_set).real,
    )


def _ensemble(mesh: Mesh, nets: Sequence[tuple[Model, Params, State]]) -> LogitsFn:
    return ensemble(*(frozen(model, *runtime.place((params, state), mesh)) for model, params, state in nets))


def _chosen(cfg: CertifyConfig, test: data.Split) -> data.Split:
    """Take every so many-th test image in official order, as published certificates do, and of those a subset."""
    if cfg.skip > 1:
        rows, total = np.arange(0, len(test.label), cfg.skip), len(test.label)
        test = subsets.of_rows(test, rows, data.Subset(f"every {cfg.skip}th in official order", total))
    return subsets.subset(test, cfg.images)


def certifier(cfg: CertifyConfig, smoothed: Smoothed, mesh: Mesh) -> Callable[[jax.Array, jax.Array], Arrays]:
    """Build (keys, images) -> arrays of certificates."""
    count = counter(smoothed, mesh, chunk_size=min(cfg.chunk_size, cfg.samples))
    shared: Any = {"sigma": smoothed.sigma, "selection_samples": cfg.selection_samples, "alpha": cfg.alpha}
    if smoothed.pixelwise:
        per_pixel = certify_pixels(count, samples=cfg.samples, **shared)
        return lambda keys, x: per_pixel(keys, x)._asdict()
    if cfg.up_to is not None:
        phases = sorted({min(cfg.samples, most) for most in (100, 1000, 10_000, 100_000, cfg.samples)})
        sequential = certify_up_to(count, radius=cfg.up_to, phases=phases, **shared)

        def stepwise(keys: jax.Array, x: jax.Array) -> Arrays:
            found = sequential(keys, x)
            return {**found.certificate._asdict(), "samples": found.samples}

        return stepwise
    per_image = certify(count, samples=cfg.samples, **shared)
    return lambda keys, x: per_image(keys, x)._asdict()


def in_words(numbers: dict[str, Any]) -> str:
    """Say in a few lines what came out."""
    lines = [
        numbers["network"],
        f"accuracy without noise {100 * numbers['accuracy without noise']:.1f} %, abstains on "
        f"{100 * numbers['abstains']:.1f} %, average certified radius {numbers['average certified radius']:.4f}",
    ]
    attacked = numbers["attacked"] or [None] * len(numbers["radii"])
    for r, share, under in zip(numbers["radii"], numbers["certified"], attacked, strict=True):
        more = "" if under is None else f"  attacked {100 * under:5.1f} %"
        lines.append(f"radius {r:.3f}  certified {100 * share:5.1f} %{more}")
    for row in numbers["predicted"]:
        lines.append(
            f"{row['images']}: right {row['right %']} %, abstains {row['abstains %']} %, "
            f"without noise {row['right without noise %']} %"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
