"""Measure certificates: seconds per image of randomised smoothing, beside the reference loop in PyTorch.

    python -m experiments.benchmarks.certify mnist
    python -m experiments.benchmarks.certify mnist --run runs/mnist --out certify.jsonl
    python -m experiments.benchmarks.certify cifar10 --dtype bfloat16

Every image gets --selection-samples samples of noise on its pixels to choose a class, and --samples others to bound its
probability. Both sides have the same weights, images, samples and batches, and take turns, a few images at a time, so
that a noisy machine disturbs both. Ours runs one image on each device, and on a CPU has one device on each core: a
small network does not keep several busy. PyTorch certifies --peer-images of the images only, which its seconds per
image are of; its loop is the published one, with the votes counted by one call instead of one by one. Weights come
from a run folder of classification.train, or are random: a certificate takes as long whatever its result.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from experiments.benchmarks import measured_on, peers
from experiments.benchmarks.config import CERTIFY_PRESETS as PRESETS
from experiments.benchmarks.config import SHAPES, CertifyConfig
from experiments.shared import classifiers, command_line
from robustjax import runtime
from robustjax.catalog import models
from robustjax.data import subsets
from robustjax.smoothing import curves
from robustjax.smoothing.certify import Certificate, certificate, certify
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.votes import votes
from robustjax.types import Network


class Certified(NamedTuple):
    """A network to certify, and the images to do it on.

    Attributes:
      name: of its architecture.
      constants: mean and std inside the model, or None.
      labels: of the images; None for drawn weights and images.
    """

    name: str
    network: Network
    constants: Mapping[str, Any] | None
    images: np.ndarray
    labels: np.ndarray | None


def networks(cfg: CertifyConfig) -> list[Certified]:
    """Read the network of a run folder, or draw the weights of those named."""
    if cfg.run is not None:
        network, test = classifiers.open_classifier(cfg.run, data_dir=cfg.data_dir)
        test = subsets.subset(test, cfg.images)
        images = test.image.astype(np.float32) / 255
        constants = models.NORMALISATIONS.get(network.about["dataset"])
        return [Certified(network.about["model"], network, constants, images, test.label)]
    drawn = []
    for name in cfg.networks:
        shape = SHAPES[name]
        model = models.classifier(name, dataset="none", classes=10, shape=shape, dtype=cfg.dtype)
        images = np.random.default_rng(cfg.seed).random((cfg.images, *shape), np.float32)
        network = Network(model, *model.init(jax.random.key(cfg.seed)), {"model": name})
        drawn.append(Certified(name, network, None, images, None))
    return drawn


def ours(it: Certified, cfg: CertifyConfig) -> tuple[Callable[[int, int], Certificate], float]:
    """Build the certificates of images i to j, compiled, and tell how long compiling took."""
    classes = 10 if it.labels is None else int(it.labels.max()) + 1
    mesh = runtime.data_mesh()
    count = votes(
        it.network.logits_fn,
        in_pixels(cfg.sigma),
        classes=classes,
        chunk_size=cfg.batch_size,
    )
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    over = jax.shard_map(count, mesh=mesh, in_specs=(rows, rows, everywhere), out_specs=rows)
    noisy = partial(certify, over, sigma=cfg.sigma, alpha=cfg.alpha)
    keys = jax.random.split(jax.random.key(cfg.seed), cfg.images)

    def some(first: int, last: int, run: Callable[..., Certificate]) -> Certificate:
        found = []
        for start in range(first, last, mesh.size):
            at = np.minimum(np.arange(start, start + mesh.size), last - 1)  # full, the last one repeated
            x = jax.device_put(it.images[at], runtime.over_data(mesh))
            found.append([part[: last - start] for part in run(keys[at], x)])
        return Certificate(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    began = time.perf_counter()
    some(0, 1, noisy(selection_samples=1, samples=1))  # compiles what every number of samples runs
    compiling = time.perf_counter() - began
    return partial(some, run=noisy(selection_samples=cfg.selection_samples, samples=cfg.samples)), compiling


def theirs(it: Certified, cfg: CertifyConfig, form: peers.Form) -> Callable[[int, int], Certificate]:
    """Build the same of PyTorch: one image after the other, a batch of samples at a time."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(it.images.transpose(0, 3, 1, 2))).to(form.place)

    def counts(image: Any, n: int) -> np.ndarray:
        total = np.zeros(1000, np.int64)
        while n > 0:
            size, n = min(n, cfg.batch_size), n - cfg.batch_size
            images = image.expand(size, *image.shape)
            won = form.logits(images + cfg.sigma * torch.randn(images.shape, device=form.place)).argmax(1)
            total += torch.bincount(won, minlength=len(total)).cpu().numpy()
        return total

    def some(first: int, last: int) -> Certificate:
        with torch.no_grad():
            chosen = [int(counts(x[i], cfg.selection_samples).argmax()) for i in range(first, last)]
            wins = [counts(x[i], cfg.samples)[c] for i, c in zip(range(first, last), chosen, strict=True)]
        return certificate(
            np.asarray(chosen), np.asarray(wins), cfg.samples, sigma=cfg.sigma, alpha=cfg.alpha
        )

    return some


def measure(it: Certified, cfg: CertifyConfig) -> list[dict[str, Any]]:
    """Certify all images, in turns with PyTorch."""
    mine, compiling = ours(it, cfg)
    sides = {"ours": mine}
    if cfg.peer_images and find_spec("torch") and it.name in peers.NETWORKS:
        net = peers.network(it.name, it.network.params, it.network.state, it.constants)
        for name, form in peers.forms(net, dtype=cfg.dtype, compiled=cfg.compiled).items():
            sides[name] = theirs(it, cfg, form)
            sides[name](0, 1) if name != "pytorch" else None  # compiles
    turns = cfg.peer_images if len(sides) > 1 else min(cfg.images, 50)
    edges = np.linspace(0, cfg.images, turns + 1).round().astype(int)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[Certificate]] = {name: [] for name in sides}
    bar = runtime.progress(range(turns), total=turns, label=f"certify {it.name}")
    for _, i in bar:
        for name, side in sides.items():
            first, last = (edges[i], edges[i + 1]) if name == "ours" else (edges[i], edges[i] + 1)
            began = time.perf_counter()
            found[name].append(side(int(first), int(last)))
            seconds[name].append((time.perf_counter() - began) / max(last - first, 1))
        bar.show({f"s/image {name}": statistics.median(s) for name, s in seconds.items()})
    whole = {
        name: Certificate(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()
    }
    seen = {name: edges[:-1] if name != "ours" else np.arange(cfg.images) for name in sides}
    rows = []
    for name, certificates in whole.items():
        per_image = statistics.median(seconds[name])
        same = whole["ours"].label[seen[name]] == certificates.label
        row = {
            "network": it.name,
            "contender": name,
            "images": len(certificates.label),
            "seconds_per_image": per_image,
            "spread": [min(seconds[name]), max(seconds[name])],
            "per_minute": 60 / per_image,
            "samples_per_s": (cfg.samples + cfg.selection_samples) / per_image,
            "compiling": compiling if name == "ours" else None,
            "same_label": float(same.mean()),
            "abstained": float((certificates.label < 0).mean()),
        }
        if it.labels is not None:
            row["accuracy"] = [
                float(a) for a in curves.certified_accuracy(certificates, it.labels[seen[name]], cfg.radii)
            ]
        rows.append(row)
    return rows


def main(cfg: CertifyConfig) -> int:
    """Measure, print a table, append a line."""
    runtime.one_device_per_core()
    packages = measured_on.versions("jax", "flax", "torch")
    print(
        f"{cfg.samples} samples after {cfg.selection_samples}, sigma {cfg.sigma:g}, "
        f"{cfg.batch_size} at once, {cfg.dtype}"
    )
    print(f"{measured_on.chip()}, {packages}")
    print(
        f"{'network':14s} {'contender':10s} {'images':>6s} {'s/image':>9s} {'min':>9s} {'max':>9s} "
        f"{'per min':>9s} {'samples/s':>9s} {'x ours':>7s}  labels as ours, certified at radii"
    )
    results = []
    for it in networks(cfg):
        rows = measure(it, cfg)
        results += rows
        for row in rows:
            low, high = row["spread"]
            radii = " ".join(
                f"{r:g}: {100 * a:.0f} %" for r, a in zip(cfg.radii, row.get("accuracy", ()), strict=False)
            )
            print(
                f"{row['network']:14s} {row['contender']:10s} {row['images']:6d} {row['seconds_per_image']:9.3f} "
                f"{low:9.3f} {high:9.3f} {row['per_minute']:9.2f} {row['samples_per_s']:9.0f} "
                f"{row['seconds_per_image'] / rows[0]['seconds_per_image']:7.2f}  "
                f"{100 * row['same_label']:.0f} %  {radii}"
            )
        print(f"{'':14s} compiling took {rows[0]['compiling']:.1f} s")
    measured_on.append(cfg.out, cfg, packages, results=results)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
