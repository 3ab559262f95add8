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

import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from experiments.benchmarks import peers
from experiments.benchmarks.train import chip
from experiments.shared import classifiers, command_line
from robustjax import runtime
from robustjax.catalog import models as model_names
from robustjax.data import subsets
from robustjax.smoothing import curves
from robustjax.smoothing.certify import Certificate, certificate, certify
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.votes import votes
from robustjax.types import Model, Params, State, frozen


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure certificates."""

    networks: tuple[str, ...] = ("convnet_small",)  # of random weights
    run: str | None = None  # a folder of classification.train, whose network is certified on its test images
    images: int = 100
    peer_images: int = 10  # of them, how many PyTorch certifies too; 0 for none
    sigma: float = 0.25
    selection_samples: int = 100
    samples: int = 100_000
    alpha: float = 0.001
    batch_size: int = 100  # samples per forward pass
    dtype: str = "float32"  # what the networks compute in; AMP on the other side
    compiled: bool = False  # also measure torch.compile
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)  # for the accuracy of a trained network
    seed: int = 0
    data_dir: str | None = None
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Refuse what cannot be meant."""
        if min(self.images, self.selection_samples, self.samples, self.batch_size) < 1:
            raise ValueError("--images --selection-samples --samples --batch-size: must be at least 1")
        if not 0 <= self.peer_images <= self.images:
            raise ValueError(f"--peer-images is {self.peer_images}, must be in [0, {self.images}]")
        if self.run is None and (unknown := set(self.networks) - set(SHAPES)):
            raise ValueError(f"--networks has {sorted(unknown)}, must be of {', '.join(SHAPES)}")


_CIFAR = ("resnet18",)
PRESETS = {
    "mnist": Config(),
    "cifar10": Config(networks=_CIFAR, images=4, peer_images=2, samples=2000, batch_size=100),
    "full": Config(networks=("convnet_small", *_CIFAR), batch_size=2000, dtype="bfloat16", compiled=True),
    "smoke": Config(images=2, peer_images=1, selection_samples=8, samples=16, batch_size=8),
}
SHAPES = {"convnet_small": (28, 28, 1), "convnet": (28, 28, 1), "resnet18": (32, 32, 3)}


class Subject(NamedTuple):
    """What is certified."""

    name: str
    model: Model
    params: Params
    state: State
    constants: Any  # mean and std inside the model, or None
    images: np.ndarray
    labels: np.ndarray | None


def subjects(cfg: Config) -> list[Subject]:
    """Read the network of a run folder, or draw the weights of those named."""
    if cfg.run is not None:
        it = classifiers.trained(cfg.run, data_dir=cfg.data_dir)
        test = subsets.first(it.test, cfg.images)
        images = test.image.astype(np.float32) / 255
        constants = model_names.NORMALISATIONS.get(it.config["dataset"])
        return [Subject(it.config["model"], it.model, it.params, it.state, constants, images, test.label)]
    drawn = []
    for name in cfg.networks:
        shape = SHAPES[name]
        model = model_names.classifier(name, dataset="none", classes=10, shape=shape, dtype=cfg.dtype)
        images = np.random.default_rng(cfg.seed).random((cfg.images, *shape), np.float32)
        drawn.append(Subject(name, model, *model.init(jax.random.key(cfg.seed)), None, images, None))
    return drawn


def ours(it: Subject, cfg: Config) -> tuple[Callable[[int, int], Certificate], float]:
    """Build the certificates of images i to j, compiled, and tell how long compiling took."""
    classes = 10 if it.labels is None else int(it.labels.max()) + 1
    mesh = runtime.data_mesh()
    count = votes(
        frozen(it.model, it.params, it.state),
        in_pixels(cfg.sigma),
        classes=classes,
        chunk_size=cfg.batch_size,
    )
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    over = jax.shard_map(count, mesh=mesh, in_specs=(rows, rows, everywhere), out_specs=rows)
    settings: Any = {"sigma": cfg.sigma, "alpha": cfg.alpha}
    keys = jax.random.split(jax.random.key(cfg.seed), cfg.images)

    def some(first: int, last: int, run: Any) -> Certificate:
        found = []
        for start in range(first, last, mesh.size):
            at = np.minimum(np.arange(start, start + mesh.size), last - 1)  # full, the last one repeated
            x = jax.device_put(it.images[at], runtime.over_data(mesh))
            found.append([part[: last - start] for part in run(keys[at], x)])
        return Certificate(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    began = time.perf_counter()
    some(
        0, 1, certify(over, selection_samples=1, samples=1, **settings)
    )  # compiles what every number of samples runs
    compiling = time.perf_counter() - began
    return partial(
        some, run=certify(over, selection_samples=cfg.selection_samples, samples=cfg.samples, **settings)
    ), compiling


def theirs(it: Subject, cfg: Config, form: peers.Form) -> Callable[[int, int], Certificate]:
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


def measure(it: Subject, cfg: Config) -> list[dict[str, Any]]:
    """Certify all images, in turns with PyTorch."""
    mine, compiling = ours(it, cfg)
    sides = {"ours": mine}
    if cfg.peer_images and find_spec("torch") and it.name in peers.NETWORKS:
        net = peers.network(it.name, it.params, it.state, it.constants)
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


def main(cfg: Config) -> int:
    """Measure, print a table, append a line."""
    runtime.one_device_per_core()
    versions = {p: version(p) for p in ("jax", "flax", "torch") if find_spec(p)}
    print(
        f"{cfg.samples} samples after {cfg.selection_samples}, sigma {cfg.sigma:g}, "
        f"{cfg.batch_size} at once, {cfg.dtype}"
    )
    print(f"{chip()}, {versions}")
    print(
        f"{'network':14s} {'contender':10s} {'images':>6s} {'s/image':>9s} {'min':>9s} {'max':>9s} "
        f"{'per min':>9s} {'samples/s':>9s} {'x ours':>7s}  labels as ours, certified at radii"
    )
    results = []
    for it in subjects(cfg):
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
    if cfg.out:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"date": now, "chip": chip(), "versions": versions, "config": dataclasses.asdict(cfg)}
        with open(cfg.out, "a") as file:
            file.write(json.dumps({**about, "results": results}) + "\n")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
