"""Train plain, OE, ACET, AT, TRADES and RATIO on the same data, and judge them in and out of distribution.

    python -m experiments.ratio.compare digits --out runs/ratio
    python -m experiments.ratio.compare mnist --methods plain at ratio --out runs/ratio_mnist

One command makes the table that the authors of RATIO (arXiv:2003.09461) published no driver for: accuracy, robust
accuracy, AUC and worst-case AUC against several sets of outliers, confidence, calibration, and the quality of
visual counterfactuals, each over several seeds with intervals. report.html also holds the pictures: curves over
radii, strips of counterfactuals side by side, every class from the same start, reliability diagrams.

Training outliers and test outliers are different sets. Every finished network keeps what was measured under
cells/: start again with the same --out and only what is missing is trained; within a network training goes on from
its checkpoint. More methods or seeds may join a folder later.
"""

import dataclasses
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from experiments.ratio import report as pages
from experiments.ratio.measure import Judge, Worker
from experiments.ratio.networks import Data
from experiments.shared import command_line
from experiments.shared.fields import Fraction
from experiments.shared.settings import Optimizer
from robustjax import data, runtime
from robustjax.catalog import augmentations, outlier_sets
from robustjax.data import subsets
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import stopping

Method = Literal[
    "plain", "oe", "ceda", "acet", "at", "trades", "ratio", "half_ratio", "trades_acet", "trades_ceda"
]
METHODS: tuple[Method, ...] = ("plain", "oe", "acet", "at", "trades", "ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train several methods on the same data and outliers, and measure them."""

    methods: tuple[Method, ...] = METHODS
    seeds: int = 3
    dataset: str = "digits"
    model: str = "tiny"
    # outliers to train on with the number of images of each, name=count; see catalog.outlier_sets
    outliers: tuple[str, ...] = ("photo/china=3000", "data/joined=2000", "data/permuted=1000")
    test_outliers: tuple[str, ...] = ("photo/flower", "data/inverted", "noise/uniform", "data/upside_down")
    outlier_images: int = 256  # to judge, of each set
    images: int = 1000  # test images to judge
    # --- training ---
    eps: Fraction = 0.5  # l2, around data
    outlier_eps: Fraction = 1.0  # l2, around outliers; 1 for the worst case that is judged, too
    step: Fraction = 0.1  # length of an attack step, on both sides
    steps: int = 10
    outlier_steps: int = 20
    ascent: Literal["pgd", "apgd"] = "pgd"
    growing: bool = (
        False  # from 1 step on data and 2 on outliers up to the numbers above, over half of training
    )
    surrogate: Literal["cross_entropy", "margin"] = "cross_entropy"  # what the attack on data climbs
    outlier_surrogate: Literal["kl_from_uniform", "log_confidence"] = (
        "kl_from_uniform"  # what the one on outliers climbs
    )
    beta: float = 6.0  # of TRADES
    halved: bool = True  # weigh data and outliers by 1/2 in OE and ACET, as RATIO does
    updates: int = 600
    batch_size: int = 128  # of data, and of outliers
    optimizer: Optimizer = Optimizer(rate=0.05, schedule="cosine")
    ema: bool = False
    augment: tuple[
        str, ...
    ] = ()  # of data and outliers: crop flip cutout cutout16 autoaugment_{cifar10,svhn}
    flat: Literal["sam", "asam"] | None = None  # look for flat minima
    rho: float = 0.05  # of the above; 1 is usual for asam
    extra: str | None = None  # pseudo-labelled images beside the labelled, such as cifar10_extra
    extra_share: float = 0.7  # of every batch of data
    save_every: int = 1000  # updates between checkpoints within a network
    # --- judging ---
    suite: Literal["short", "standard"] = "short"  # APGD as below, or AutoAttack's four attacks in full
    judge_steps: int = 100  # of APGD on cross-entropy
    target_steps: int = 30  # of APGD at each of nine targets
    sure_steps: int = 60  # of each search for confidence around outliers
    sure_starts: int = 3
    class_steps: int = 20  # of the same at each class
    radii: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the curves
    curve_images: int = 128
    curve_steps: int = 30
    feature_radii: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)  # of the counterfactuals
    feature_images: int = 128
    feature_steps: int = 50
    judge_model: str = (
        "mlp"  # the robust judge of counterfactuals, whose features also give Frechet distances
    )
    judge_batch: int = 128
    resamples: int = 300
    out: str = "runs/ratio"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        counts = (
            "seeds", "outlier_images", "images", "steps", "outlier_steps", "updates", "batch_size", "save_every",
            "judge_steps", "target_steps", "sure_steps", "sure_starts", "class_steps", "curve_images", "curve_steps",
            "feature_images", "feature_steps", "judge_batch", "resamples",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        self.training_outliers  # noqa: B018, read for its checks
        augmentations.augmentation(self.augment, self.dataset)
        if not self.rho > 0:
            raise ValueError(f"--rho is {self.rho:g}, must be above 0")
        if not 0 <= self.extra_share <= 1:
            raise ValueError(f"--extra-share is {self.extra_share:g}, must be in [0, 1]")
        for name in ("eps", "outlier_eps", "step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name):g}, must be above 0")
        for name in ("radii", "feature_radii"):
            radii = getattr(self, name)
            if len(radii) < 2 or radii[0] != 0 or sorted(set(radii)) != list(radii):
                raise ValueError(f"--{name.replace('_', '-')} is {radii}, must rise from 0")
        for name in ("methods", "test_outliers"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, must name each thing once"
                )
        trained = {outlier_sets.with_split(n, "train") for n, _ in self.training_outliers}
        for name in self.test_outliers:
            if outlier_sets.with_split(name, "test") in trained:
                raise ValueError(f"--test-outliers has {name!r}, must not be trained on")

    @property
    def training_outliers(self) -> list[tuple[str, int]]:
        """Read names and counts."""
        out = []
        for words in self.outliers:
            name, _, count = words.rpartition("=")
            if not name or not count.isdecimal() or int(count) < 1:
                raise ValueError(f"--outliers has {words!r}, must be name=count such as noise/acet=2000")
            out.append((name, int(count)))
        if not out:
            raise ValueError("--outliers is empty, must name at least one set")
        return out


_MNIST = Config(
    seeds=1,
    dataset="mnist",
    model="convnet_small",
    methods=("plain", "oe", "acet", "at", "ratio"),
    outliers=("notmnist:test=9000", "letters/28=3000", "noise/acet=3000"),
    test_outliers=("kmnist", "omniglot", "kannada_mnist", "dtd", "noise/uniform"),
    outlier_images=128,
    images=500,
    eps=1.0,
    outlier_eps=2.0,
    step=0.2,
    updates=1500,
    optimizer=Optimizer(name="adam", rate=2e-3, weight_decay=0.0),
    sure_steps=40,
    sure_starts=2,
    target_steps=20,
    judge_steps=50,
    class_steps=15,
    radii=(0.0, 1.0, 2.0, 3.0, 4.0),
    curve_images=48,
    curve_steps=20,
    feature_radii=(0.0, 1.0, 2.0, 4.0, 6.0),
    feature_images=96,
    feature_steps=30,
)
_CIFAR = Config(
    seeds=1,
    dataset="cifar10",
    model="wideresnet34_10",
    methods=("at", "ratio"),
    outliers=("tiny_imagenet:test=10000",),
    test_outliers=("cifar100", "dtd", "noise/uniform", "noise/low_frequency"),
    outlier_images=1024,
    updates=117_000,  # 300 epochs
    optimizer=Optimizer(rate=0.1, schedule="cosine"),
    ema=True,
    augment=("crop", "flip", "autoaugment_cifar10", "cutout16"),
    suite="standard",
    sure_steps=100,
    sure_starts=5,
    class_steps=100,
    target_steps=100,
    radii=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    feature_radii=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    feature_steps=200,
    judge_model="resnet18",
)
PRESETS = {
    "digits": Config(),
    "mnist": _MNIST,
    "fashion_mnist": dataclasses.replace(_MNIST, dataset="fashion_mnist"),
    "cifar10": dataclasses.replace(_CIFAR, model="resnet18", updates=11_700, optimizer=Optimizer()),
    "cifar10_paper": dataclasses.replace(
        _CIFAR,
        model="resnet50",
        updates=97_500,  # 250 epochs
        optimizer=Optimizer(schedule="piecewise"),
        ema=False,
        surrogate="margin",
        growing=True,
    ),
    "cifar10_released": _CIFAR,
    # The authors' run has no Nesterov momentum and one pass of BatchNorm statistics per half.
    "cifar10_asam": dataclasses.replace(_CIFAR, flat="asam", rho=1.0, updates=97_500),
    # AutoAugment did not help the authors with pseudo-labelled images.
    "cifar10_extra": dataclasses.replace(_CIFAR, extra="cifar10_extra", augment=("crop", "flip")),
    "cifar100": dataclasses.replace(
        _CIFAR,
        dataset="cifar100",
        test_outliers=("cifar10", "dtd", "noise/uniform", "noise/low_frequency"),
    ),
    "svhn": dataclasses.replace(
        _CIFAR,
        dataset="svhn_cropped",
        updates=171_000,  # 300 epochs
        augment=("crop", "autoaugment_svhn", "cutout16"),
        test_outliers=("cifar10", "cifar100", "noise/uniform", "noise/low_frequency"),
    ),
    "restricted_imagenet": dataclasses.replace(
        _CIFAR,
        dataset="restricted_imagenet",
        model="resnet50_imagenet",
        judge_model="resnet18_imagenet",
        outliers=("restricted_imagenet/others=400000",),
        test_outliers=("restricted_imagenet/others", "dtd", "noise/uniform", "noise/low_frequency"),
        eps=3.5,
        outlier_eps=7.0,
        step=0.7,
        updates=150_000,  # 75 epochs
        optimizer=Optimizer(schedule="piecewise"),
        ema=False,
        augment=("flip",),
        radii=(0.0, 3.5, 7.0, 10.5, 14.0),
        feature_radii=(0.0, 3.5, 7.0, 10.5, 14.0, 17.5, 21.0),
    ),
    "smoke": Config(
        methods=("at", "ratio"),
        seeds=1,
        model="mlp",
        outliers=("noise/acet=64",),
        test_outliers=("noise/uniform", "data/inverted"),
        outlier_images=12,
        images=24,
        updates=3,
        batch_size=16,
        steps=1,
        outlier_steps=1,
        judge_steps=2,
        target_steps=1,
        sure_steps=1,
        sure_starts=1,
        class_steps=1,
        radii=(0.0, 1.0),
        curve_images=12,
        curve_steps=1,
        feature_radii=(0.0, 1.0),
        feature_images=12,
        feature_steps=1,
        judge_batch=24,
        resamples=10,
    ),
}
MAY_DIFFER = ("out", "data_dir", "methods", "seeds", "resamples", "save_every")


def main(cfg: Config) -> int:
    """Train and measure what is missing, then tell."""
    sets = opened(cfg)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        worker = Worker(cfg, sets, run.folder)
        judge = Judge(cfg, sets, run.folder, worker)
        if not judge.ready(stop):
            runtime.say("stopped; the same command goes on with the judge")
            return stop.exit_code
        # Seed by seed: stopped early, --seeds 1 already makes a whole table.
        paths = {(m, s): run.folder / "cells" / f"{m}_{s}.npz" for s in range(cfg.seeds) for m in cfg.methods}
        for i, ((method, seed), path) in enumerate(paths.items()):
            if path.exists():
                continue
            runtime.say(f"network {i + 1} of {len(paths)}: {method}, seed {seed}")
            found = worker.measured(method, seed, stop)
            if found is None:
                runtime.say("stopped; the same command goes on with this network")
                return stop.exit_code
            runtime.write_whole(path, in_bytes(found))
    results = pages.Results(cfg, gathered(cfg, paths, judge), sets.train.info.classes)
    page = pages.page(results, sets)
    runtime.say(f"report: {page.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def opened(cfg: Config) -> Data:
    """Load data and outliers; held-out images, on which temperatures are found, are those of "validation"."""
    train, valid, test = (
        data.load(cfg.dataset, split, data_dir=cfg.data_dir) for split in ("train", "validation", "test")
    )
    more = data.load(cfg.extra, "train", data_dir=cfg.data_dir) if cfg.extra else None
    strange = outlier_sets.counted_mixture(dict(cfg.training_outliers), train, data_dir=cfg.data_dir)
    tested = {
        name: outlier_sets.load(name, test, split="test", count=cfg.outlier_images, data_dir=cfg.data_dir)
        for name in cfg.test_outliers
    }
    return Data(
        train, subsets.first(valid, cfg.images), subsets.first(test, cfg.images), strange, tested, more
    )


def gathered(cfg: Config, paths: dict[Any, pathlib.Path], judge: Judge) -> dict[str, dict[str, np.ndarray]]:
    """Stack what was measured over seeds, and let the judge look at the counterfactuals."""
    out = {}
    for method in cfg.methods:
        cells = []
        for seed in range(cfg.seeds):
            with np.load(paths[method, seed]) as file:
                cells.append({name: file[name] for name in file.files if not name.startswith("weights/")})
        stacked = {name: np.stack([cell[name] for cell in cells]) for name in cells[0]}
        out[method] = stacked | judge.looked(stacked)
    jax.clear_caches()
    return out


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
