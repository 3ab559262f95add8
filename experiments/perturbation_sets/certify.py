"""Certify a smoothed network, image by image: in pixels, or in the latents of a learned set.

    python -m experiments.perturbation_sets.certify digits --runs runs/smoothed --out runs/certified
    python -m experiments.perturbation_sets.certify mnist --runs runs/mnist --sigma 0.25 --out runs/certified_mnist
    python -m experiments.perturbation_sets.certify mnist --runs runs/a runs/b runs/c --up-to 0.5

--runs are folders of classification.train, to be certified in pixels, or of train_classifier, in latents; of several,
logits are averaged. A class is chosen by --n0 noisy copies and its probability bounded by --n others; --up-to RADIUS
stops an image as soon as that radius is reached or out of reach. Segmenters get a certificate per pixel. Started again
with the same --out, images that are done are not done again. Images are shared among all devices. The folder gets
certificates.npz, certificates.json and report.html.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import certify_report, classifier_losses, classifier_runs, latent_attacks
from experiments.shared import classifiers, command_line
from robustjax import runtime
from robustjax.perturbations.learned import learned
from robustjax.perturbations.sets import PerturbationSet
from robustjax.runtime.snapshot import in_bytes
from robustjax.smoothing import binomial, curves
from robustjax.smoothing.certify import Certificate, certify
from robustjax.smoothing.ensembles import averaged
from robustjax.smoothing.noise import Noise, in_parameters, in_pixels
from robustjax.smoothing.segmenters import certify_pixels
from robustjax.smoothing.sequential import certify_up_to
from robustjax.smoothing.votes import over_devices, votes
from robustjax.types import Batch, LogitsFn, frozen

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Config:
    """Certify networks."""

    runs: tuple[str, ...] = ("runs/smoothed",)
    sigma: float | None = None  # of the noise, in pixels or latents; of train_classifier's runs as trained
    n0: int = 100
    n: int = 10_000
    alpha: float = (
        0.001  # a certificate is wrong with at most this probability; of segmenters all pixels together
    )
    up_to: float | None = None  # stop an image once this radius is certain, or out of reach
    images: int = 100
    every: int = 1  # of the test images, only every so many
    chunk_size: int = 500  # noisy copies per forward pass
    block: int = (
        5  # images, at least one per device, between two lines of progress, and what a killed run may lose
    )
    attack: bool = True  # in latents, also attack what is certified
    seed: int = 0
    out: str = "runs/certified"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name in ("n0", "n", "images", "every", "chunk_size", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be at least 1")
        if not self.runs:
            raise ValueError("--runs is empty, must name at least one folder")
        if not 0 < self.alpha < 1:
            raise ValueError(f"--alpha is {self.alpha:g}, must be in (0, 1)")
        if self.alpha ** (1 / self.n) < 0.5:
            raise ValueError(
                f"--n is {self.n}, must be at least log2(1 / alpha), or nothing can be certified"
            )
        for name in ("sigma", "up_to"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name):g}, must be above 0")


_CIFAR: dict[str, Any] = {"images": 500, "every": 20, "attack": False}
PRESETS = {
    "digits": Config(),
    "mnist": Config(runs=("runs/mnist",), sigma=0.25, n=100_000, chunk_size=1000, every=100),
    "cifar10_smoothing_084": Config(runs=("runs/cifar10_smoothing_084",), sigma=0.84, **_CIFAR),
    "cifar10_smoothing_122": Config(runs=("runs/cifar10_smoothing_122",), sigma=1.22, **_CIFAR),
    "cifar10_smoothing_319": Config(runs=("runs/cifar10_smoothing_319",), sigma=3.19, **_CIFAR),
    "mi_smoothing_690": Config(
        runs=("runs/mi_smoothing_690",), sigma=6.9, n=1000, chunk_size=10, attack=False
    ),
    "smoke": Config(n=20, n0=5, images=4, chunk_size=10, attack=False),
}
MAY_DIFFER = ("out", "data_dir", "images", "block", "attack")


class Subject(NamedTuple):
    """What is certified."""

    title: str
    logits_fn: LogitsFn
    noise: Noise
    sigma: float
    classes: tuple[str, ...]
    image: jax.Array
    label: np.ndarray
    space: PerturbationSet | None  # None in pixels

    @property
    def pixelwise(self) -> bool:
        """Say whether every pixel has a class."""
        return self.label.ndim == 3


def main(cfg: Config) -> int:
    """Certify block by block, then write the page."""
    mesh = runtime.data_mesh()
    it = opened(cfg, mesh)
    run_one = certifier(cfg, it, mesh)
    total, block = len(it.label), -(-cfg.block // mesh.size) * mesh.size
    cells: list[Arrays] = []
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        (run.folder / "cells").mkdir(exist_ok=True)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(cfg.seed), i))(jnp.arange(total))
        starts = range(0, total, block)
        bar = runtime.progress(starts, total=len(starts), label=f"certify {total} images, {block} at a time")
        for _, first in bar:
            path = run.folder / "cells" / f"{first}_{min(first + block, total)}.npz"
            if not path.exists():
                rows = slice(first, first + block)
                runtime.write_whole(path, in_bytes(run_one(keys[rows], it.image[rows])))
            with np.load(path) as arrays:
                cells.append(dict(arrays))
            bar.show(
                {"certified": float(np.concatenate([(c["radius"] > 0).reshape(-1) for c in cells]).mean())}
            )
        found = {name: np.concatenate([cell[name] for cell in cells]) for name in cells[0]}
        done = Certificate(found["label"], found["radius"], found["lower_bound"])
        logits = [np.asarray(it.logits_fn(it.image[i : i + 100])) for i in range(0, total, 100)]
        plain = np.concatenate(logits).argmax(axis=-1) == it.label
        largest = float(binomial.radius(np.asarray(cfg.alpha ** (1 / cfg.n)), it.sigma))
        radii = np.linspace(0, largest, 9)
        known = it.label != 255 if it.pixelwise else np.ones(total, bool)
        flat = Certificate(*(a[known] for a in done))
        attacked = None
        if cfg.attack and it.space is not None and not it.pixelwise:
            test = Batch(it.image, jnp.asarray(it.label))
            held = latent_attacks.smoothed(it.logits_fn, it.space, it.sigma, test, radii[1:], keys[0])
            attacked = held.mean(axis=1)
        numbers = {
            "subject": it.title,
            "sigma": it.sigma,
            "settings": {
                name: getattr(cfg, name) for name in ("n0", "n", "alpha", "up_to", "images", "every")
            },
            "accuracy without noise": float(plain[known].mean()),
            "average certified radius": curves.average_radius(flat, it.label[known]),
            "abstains": float((flat.label < 0).mean()),
            "radii": radii.tolist(),
            "certified": curves.certified_accuracy(flat, it.label[known], radii).tolist(),
            "attacked": None if attacked is None else attacked.tolist(),
        }
        if "copies" in found:
            numbers["copies per image"] = float(found["copies"].mean())
        runtime.write_whole(run.folder / "certificates.json", json.dumps(numbers, indent=2) + "\n")
        runtime.write_whole(run.folder / "certificates.npz", in_bytes(found | {"true": it.label}))
        print(told(numbers))
        images = np.asarray(it.image)
        place = certify_report.page(cfg, numbers, it.classes, images, it.label, done).write(
            run.folder / "report.html"
        )
    runtime.say(f"report: {place}")
    return 0


def opened(cfg: Config, mesh: Mesh) -> Subject:
    """Open the runs, all of one kind and on the same images.

    Raises:
      ValueError: in one line, if they are not.
    """
    first, *rest = cfg.runs
    try:
        found = classifiers.trained(first, data_dir=cfg.data_dir)
    except ValueError as error:
        try:
            return _latents(cfg, mesh)
        except ValueError as other:
            raise ValueError(f"{error}; {other}") from None
    if cfg.sigma is None:
        raise ValueError("--sigma is missing, must be given for runs of classification.train")
    nets = [found, *(classifiers.trained(folder, data_dir=cfg.data_dir) for folder in rest)]
    if len({net.config["dataset"] for net in nets}) > 1:
        raise ValueError("--runs were trained on different data sets, must be one")
    logits_fn = _on(mesh, nets)
    test, rows = found.test, _rows(cfg, len(found.test.label))
    image = jnp.asarray(np.asarray(test.image[rows]), jnp.float32) / 255
    title = f"{', '.join(cfg.runs)}, noise {cfg.sigma:g} in pixels"
    return Subject(
        title, logits_fn, in_pixels(cfg.sigma), cfg.sigma, test.info.classes, image, test.label[rows], None
    )


def _latents(cfg: Config, mesh: Mesh) -> Subject:
    nets = [classifier_runs.opened(folder, data_dir=cfg.data_dir) for folder in cfg.runs]
    it = nets[0]
    if len({net.config.set for net in nets}) > 1:
        raise ValueError("--runs were trained on different sets, must be one")
    radius = classifier_runs.radius_of(it.config, it.set)
    sigma = cfg.sigma or classifier_runs.sigma_of(it.config, radius)
    space = learned(it.set.model, *runtime.place((it.set.params, it.set.state), mesh), radius=radius)
    logits_fn = _on(mesh, nets)
    rows = _rows(cfg, len(it.test.label))
    part = dataclasses.replace(it.test, image=it.test.image[rows], label=it.test.label[rows])
    return Subject(
        f"{', '.join(cfg.runs)}, noise {sigma:.3g} in the latents of {it.config.set}",
        logits_fn,
        in_parameters(space, sigma),
        sigma,
        it.test.info.classes,
        classifier_losses.bare_images(it.set, part),
        np.asarray(part.label),
        space,
    )


def _on(mesh: Mesh, nets: Sequence[classifiers.Trained | classifier_runs.Trained]) -> LogitsFn:
    return averaged(*(frozen(net.model, *runtime.place((net.params, net.state), mesh)) for net in nets))


def _rows(cfg: Config, count: int) -> np.ndarray:
    return np.arange(0, count, cfg.every)[: cfg.images]


def certifier(cfg: Config, it: Subject, mesh: Mesh) -> Callable[[jax.Array, jax.Array], Arrays]:
    """Build (keys, images) -> arrays of certificates."""
    count = votes(it.logits_fn, it.noise, classes=len(it.classes), chunk_size=min(cfg.chunk_size, cfg.n))
    count = over_devices(count, mesh)
    shared: Any = {"sigma": it.sigma, "n0": cfg.n0, "alpha": cfg.alpha}
    if it.pixelwise:
        run = certify_pixels(count, n=cfg.n, **shared)
        return lambda keys, x: run(keys, x)._asdict()
    if cfg.up_to is not None:
        looks = sorted({min(cfg.n, most) for most in (100, 1000, 10_000, 100_000, cfg.n)})
        stepwise = certify_up_to(count, radius=cfg.up_to, looks=looks, **shared)

        def sequential(keys: jax.Array, x: jax.Array) -> Arrays:
            found = stepwise(keys, x)
            return {**found.certificate._asdict(), "copies": found.copies}

        return sequential
    whole = certify(count, n=cfg.n, **shared)
    return lambda keys, x: whole(keys, x)._asdict()


def told(numbers: dict[str, Any]) -> str:
    """Say in a few lines what came out."""
    lines = [
        numbers["subject"],
        f"accuracy without noise {100 * numbers['accuracy without noise']:.1f} %, abstains on "
        f"{100 * numbers['abstains']:.1f} %, average certified radius {numbers['average certified radius']:.4f}",
    ]
    attacked = numbers["attacked"] or [None] * len(numbers["radii"])
    for r, share, under in zip(numbers["radii"], numbers["certified"], attacked, strict=True):
        more = "" if under is None else f"  attacked {100 * under:5.1f} %"
        lines.append(f"radius {r:.3f}  certified {100 * share:5.1f} %{more}")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
