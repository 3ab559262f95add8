"""Settings and presets of the scripts of this topic."""

import dataclasses
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from experiments.shared import network_source
from experiments.shared.fields import (
    Count,
    CountOrNone,
    ImagesOrAll,
    NonNegative,
    Positive,
    PositiveRadius,
    Radius,
    Seed,
    Severities,
    Share,
)
from experiments.shared.settings import PGD, Cluster, Optimizer
from robustjax import checks
from robustjax.attacks.case import Case
from robustjax.bounds.enclosure import Method
from robustjax.catalog import attacks as known_attacks
from robustjax.catalog import losses
from robustjax.catalog.names import named
from robustjax.data import preprocessing
from robustjax.evaluation.corruptions import COMMON
from robustjax.numerics import AnyNorm, Norm
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.threats import Threat

MAY_DIFFER = ("out", "data_dir", "distributed", "cluster", "workers")  # when a run goes on


def _at(eps: float, *, steps: int = 10, step: float = 0.25) -> PGD:
    return PGD(eps=eps, steps=steps, step=step)


_ADAM = Optimizer(name="adam", rate=2e-3, weight_decay=0.0)


# --- train ---


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a classifier."""

    dataset: str = "digits"  # digits is embedded; others by name once prepared, see data.prepare
    size: Count | None = (
        None  # pixels a side that images are scaled and cropped to, where they differ in size
    )
    model: str = "convnet_small"  # of catalog.models (a wrong name lists all), or module:name of a function
    dtype: str = "float32"  # what the network computes in, or bfloat16; logits and losses stay float32
    remat: bool = False  # recompute what lies inside residual blocks: less memory, a third more time
    # draw weights so that intervals keep their width from layer to layer: for ibp, crown_ibp and sabr
    interval_weights: bool = False
    # standard, adversarial, half_adversarial, trades, trades_official, mart, fgsm_rs, n_fgsm, free, ibp, crown_ibp,
    # sabr, logitnorm, and for smoothing gaussian, stability, smoothadv, macer, consistency, smoothmix; or module:name
    # of a function; see catalog.losses
    loss: str = "adversarial"
    attack: PGD = PGD()  # the adversary of training
    warmup: Share = 0.0  # share of the run over which the training radius grows from 0 to --attack.eps
    beta: NonNegative = 6.0  # weight of the divergence in trades and mart
    awp: NonNegative = 0.0  # relative size of the adversarial weight perturbation, 0 for none
    smoothing: Share = 0.0  # label smoothing
    sigma: Positive = 0.25  # of the noise in gaussian, stability, smoothadv, macer, consistency and smoothmix
    replays: Count = 4  # how often `free` trains on each batch in a row
    updates: Count = 1000
    batch_size: Count = 128  # over all devices
    optimizer: Optimizer = Optimizer()
    ema: bool = False  # evaluate a moving average of the weights
    swa: Share = 0.0  # evaluate the even average of the weights over this last share of the run, 0 for none
    extra: str | None = (
        None  # images of pseudo-labels or a generator beside the labelled, such as cifar10_extra
    )
    extra_share: Share = 0.7  # of every batch, with --extra
    mix: Literal["none", "mixup", "cutmix"] = "none"  # train on pairs of images and their labels in shares
    mix_alpha: Positive = 1.0  # of the Beta distribution of the shares
    augment: tuple[str, ...] = ()  # of crop, flip, resized_crop, cutout, autoaugment_cifar10 and others
    # decode pictures of a set that holds them of several sizes, with --size, while they are needed; done anyway where
    # they would take more than 8 GiB. A first resized_crop then cuts windows out of the pictures as they are
    streamed: bool = False
    workers: CountOrNone | None = (
        None  # processes that decode such pictures; 0 for threads, by default one for each core but one
    )
    evaluation: PGD = PGD(steps=20, step=0.1)  # the adversary of validation and test
    validate_every: Count = 250  # updates between validations and checkpoints
    images: ImagesOrAll = 1000  # validation and test images to attack, None for all
    record_every: Count = 10
    seed: Seed = 0
    out: str = "runs/classifier"
    data_dir: str | None = None  # where prepared data are; $TFDS_DATA_DIR or ~/tensorflow_datasets
    keep: Count = 3  # checkpoints
    tensorboard: bool = False
    distributed: bool = False  # one of several processes; see --cluster
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Validate what several fields say together."""
        if self.smoothing and not losses.takes(self.loss, "smoothing"):
            raise ValueError(f"--smoothing is {self.smoothing:g}, must be 0 with --loss {self.loss}")
        if self.loss == "half_adversarial" and self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, must be even with --loss half_adversarial")
        if self.ema and self.swa:
            raise ValueError(f"--ema is set and --swa {self.swa:g}, must be one of them")
        if self.loss == "free" and (self.swa or self.extra or self.mix != "none"):
            raise ValueError("--loss is free, must be another one with --swa, --extra or --mix")
        if self.mix != "none" and self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, must be even with --mix {self.mix}")
        if self.mix != "none" and self.loss in losses.LOSSES and self.loss not in losses.TAKE_SOFT_LABELS:
            raise ValueError(
                f"--mix is {self.mix}, must be none with --loss {self.loss}, which takes no soft labels"
            )
        unattacked = ("logitnorm", "gaussian", "stability", "macer", "consistency")
        if self.awp and self.loss in ("standard", "free", "ibp", "crown_ibp", *unattacked):
            raise ValueError(
                f"--awp is {self.awp:g}, must be 0 with --loss {self.loss}, which attacks nothing first"
            )


_MNIST = TrainConfig(
    dataset="mnist",
    attack=_at(0.3),
    evaluation=_at(0.3, steps=40, step=0.05),
    warmup=0.2,
    updates=6000,
    optimizer=_ADAM,
    validate_every=1000,
    record_every=50,
)
TRAIN_PRESETS = {
    "digits": TrainConfig(
        attack=_at(0.2),
        evaluation=_at(0.2, steps=20, step=0.1),
        warmup=0.3,
        optimizer=_ADAM,
        images=None,
    ),
    "mnist": _MNIST,
    "fashion_mnist": dataclasses.replace(
        _MNIST, dataset="fashion_mnist", attack=_at(0.1), evaluation=_at(0.1, steps=40, step=0.05)
    ),
    "cifar10": TrainConfig(
        dataset="cifar10",
        model="resnet18",
        attack=_at(8 / 255),
        evaluation=_at(8 / 255, steps=20, step=0.1),
        updates=12000,
        optimizer=Optimizer(rate=0.2),
        ema=True,
        augment=("crop", "flip"),
        validate_every=1000,
        record_every=50,
    ),
    # For two cores without an accelerator: half an hour of one of them.
    "cifar10_small": TrainConfig(
        dataset="cifar10",
        model="resnet8",
        loss="n_fgsm",
        attack=_at(8 / 255),
        evaluation=_at(8 / 255, steps=20, step=0.1),
        updates=4000,
        optimizer=Optimizer(rate=0.2),
        ema=True,
        augment=("crop", "flip"),
        validate_every=1000,
        images=500,
        record_every=50,
    ),
    "smoke": TrainConfig(
        model="mlp",
        attack=_at(0.1, steps=2, step=0.5),
        evaluation=_at(0.1, steps=2, step=0.5),
        optimizer=_ADAM,
        updates=12,
        batch_size=32,
        validate_every=6,
        record_every=2,
        images=64,
    ),
}


# --- speedrun ---


@dataclasses.dataclass(frozen=True)
class SpeedrunConfig:
    """Train as fast as can be."""

    dataset: str = "cifar10"
    model: str = "resnet18"  # of catalog.models, or module:name of a function
    dtype: str = "bfloat16"  # what the network computes in; logits and losses stay float32
    loss: str = "n_fgsm"  # or fgsm_rs, adversarial (PGD with --attack.steps), and others of catalog.losses
    attack: PGD = PGD(eps=8 / 255, steps=2, step=0.5)  # one-step losses take only its norm and radius
    epochs: Count = 15
    batch_size: Count = 512  # over all devices
    optimizer: Optimizer = Optimizer(rate=0.2)
    smoothing: Share = 0.0  # of the labels
    ema: bool = True
    ema_decay: Share = 0.99
    augment: tuple[str, ...] = ("crop", "flip")
    evaluation: PGD = PGD(eps=8 / 255, steps=50, step=0.05, restarts=10)
    evaluate_every: Count = 5  # epochs; the last one is always evaluated
    images: ImagesOrAll = 1000  # validation and test images to attack, None for all
    target: Share = 0.45  # robust accuracy on validation images whose time is wanted
    seed: Seed = 0
    out: str = "runs/speedrun"
    data_dir: str | None = None
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Validate what several fields say together."""
        if self.loss == "free":
            raise ValueError("--loss is free, which classification.train has, must be another one here")
        if self.loss == "half_adversarial" and self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, must be even with --loss half_adversarial")
        if self.smoothing and not losses.takes(self.loss, "smoothing"):
            raise ValueError(f"--smoothing is {self.smoothing:g}, must be 0 with --loss {self.loss}")


_DIGITS = SpeedrunConfig(
    dataset="digits",
    model="mlp",
    dtype="float32",
    attack=_at(0.1, steps=2, step=0.5),
    evaluation=_at(0.1, steps=20, step=0.1),
    optimizer=dataclasses.replace(_ADAM, rate=3e-3),
    augment=(),
    epochs=30,
    batch_size=128,
)
SPEEDRUN_PRESETS = {
    "cifar10": SpeedrunConfig(),
    "cifar10_pgd": SpeedrunConfig(loss="adversarial", epochs=30),
    "digits": _DIGITS,
    "smoke": dataclasses.replace(
        _DIGITS,
        evaluation=_at(0.1, steps=2, step=0.5),
        epochs=3,
        batch_size=256,
        evaluate_every=2,
        images=64,
        target=0.2,
    ),
}


# --- quickstart ---


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Train and attack on the embedded digits."""

    eps: Radius = 0.2  # linf radius of training; images lie in [0, 1]
    updates: Count = 1000
    batch_size: Count = 128
    evaluation: PGD = PGD(eps=0.3, steps=50, step=0.05, restarts=2)
    radii: Count = 6  # points of the curve, evenly up to --evaluation.eps
    images: ImagesOrAll = None  # test images, None for all 359
    seed: Seed = 0
    out: str = "runs/quickstart"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse a radius that was meant for images in 0..255."""
        if self.eps > 1:
            raise ValueError(f"--eps is {self.eps:g}, must be at most 1 for images in [0, 1]; write 8/255")


QUICKSTART_PRESETS = {
    "digits": QuickstartConfig(),
    "smoke": QuickstartConfig(updates=10, radii=2, images=32, evaluation=_at(0.3, steps=2, step=0.5)),
}


# --- attack ---


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """Attack a classifier."""

    source: network_source.Source = network_source.Source()
    norm: AnyNorm | None = None  # by default that of --source.known, or linf
    eps: Radius | None = (
        None  # of images in [0, 1], in l0 in pixels; by default that of --source.known, or 0.3
    )
    radii: Count = 1  # points of a curve, evenly up to --eps
    suite: known_attacks.Suite = "standard"
    attacks: tuple[
        str, ...
    ] = ()  # of a custom suite: names of catalog.attacks (a wrong one lists all) or module:name
    steps: Count = 100  # of the attacks of a custom suite
    step: Positive = 0.1  # of pgd and spsa in a custom suite, as a share of eps
    restarts: Count = 1  # of the attacks of a custom suite
    queries: CountOrNone = 5000  # of square in a custom suite
    compat: Literal["official"] | None = None  # as the authors' code does it, bug-compatible
    every: bool = False  # run every attack on all images classified correctly, not only on those still robust
    given: str | None = None  # folder of an earlier report on the same images to go on from
    images: ImagesOrAll = 1000  # test images, None for all
    share: str | None = None  # 2/8 takes the second of eight parts of the images; merge_reports joins them
    batch_size: Count = 512  # rows on all devices together
    masking_checks: bool = True  # look for masked gradients, by small attacks on 64 images
    seed: Seed = 0
    out: str | None = (
        None  # where to write; by default a folder named by suite and radius in the run's folder
    )

    def check(self) -> None:
        """Validate what several fields say together."""
        self.source.require()
        norm, eps = self.ball()
        if norm == "linf" and eps > 1:
            raise ValueError(f"--eps is {eps:g}, must be at most 1 for images in [0, 1]; write 8/255")
        if self.suite == "fast" and norm not in ("linf", "l2"):
            raise ValueError(f"--suite is fast in {norm}, must be standard: fast is made for linf and l2")
        if norm == "l0" and (eps < 1 or eps != int(eps)):
            raise ValueError(f"--eps is {eps:g}, must be a whole number from 1 in l0: it counts pixels")
        if norm == "l0" and self.radii > eps:
            raise ValueError(f"--radii is {self.radii}, must be at most the {eps:g} pixels of --eps")
        if (self.suite == "custom") != bool(self.attacks):
            raise ValueError("--attacks must be given with --suite custom, and only then")
        for name in self.attacks:
            named(known_attacks.ATTACKS, name, flag="--attacks")
        if not self.out and not self.source.run:
            raise ValueError("--out is missing, must be given unless a run folder is attacked")
        if self.radii > 1 and self.given:
            raise ValueError("--radii above 1 and --given cannot be combined, must be one of them")
        self.part()

    def ball(self) -> tuple[AnyNorm, float]:
        """Say norm and radius: those given, those of the board of a known checkpoint, or linf and 0.3.

        Raises:
          ValueError: if the radius is missing with a known checkpoint of another norm, or of a board of corruptions, or
            in l0.
        """
        known = self.source.entry_of()
        if self.norm == "l0" and self.eps is None:
            raise ValueError("--eps is missing, must be given in l0: how many pixels may change")
        if known is None:
            return self.norm or "linf", 0.3 if self.eps is None else self.eps
        norm: AnyNorm = self.norm or ("l2" if known.threat == "l2" else "linf")
        if self.eps is not None:
            return norm, self.eps
        if known.eps is None or norm != known.threat:
            raise ValueError(f"--eps is missing, must be given: {known.board} has no radius in {norm}")
        return norm, known.eps

    def cases(self, threat: Threat, classes: int) -> tuple[Case, ...]:
        """Build the suite."""
        settings = known_attacks.AttackSettings(
            self.steps, self.step, self.restarts, self.queries, self.compat
        )
        return known_attacks.suite(self.suite, threat, classes, attacks=self.attacks, settings=settings)

    def grid(self) -> np.ndarray:
        """List the radii of the curve."""
        norm, largest = self.ball()
        radii = np.linspace(0, largest, self.radii + 1)[1:]
        return np.round(radii) if norm == "l0" else radii

    def part(self) -> tuple[int, int]:
        """Read which part of the images is attacked: (number from 1, of how many)."""
        number, _, parts = (self.share or "1/1").partition("/")
        if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
            raise ValueError(f"--share is {self.share!r}, must be like 2/8: the second of eight parts")
        return int(number), int(parts)


ATTACK_PRESETS = {
    "standard": AttackConfig(),
    "plus": AttackConfig(suite="plus"),
    "rand": AttackConfig(suite="rand"),
    "fast": AttackConfig(suite="fast"),
    "pgd": AttackConfig(
        suite="custom", attacks=("pgd-ce", "pgd-margin", "pgd-dlr"), steps=100, step=0.03, restarts=10
    ),
    "curve": AttackConfig(suite="custom", attacks=("apgd-ce", "apgd-t"), radii=10),
    "smoke": AttackConfig(
        suite="custom",
        attacks=("pgd-margin", "apgd-t", "square"),
        eps=0.1,
        steps=3,
        step=0.5,
        queries=10,
        radii=2,
        images=40,
        batch_size=32,
        masking_checks=False,
    ),
}


# --- corruptions ---


@dataclasses.dataclass(frozen=True)
class CorruptionsConfig:
    """Measure a classifier on corrupted images."""

    source: network_source.Source = network_source.Source()
    # folder of corrupted test images: labels.npy and NAME.npy, as CIFAR-10-C and CIFAR-100-C, or a tree
    # NAME/severity/class/picture, as ImageNet-C and ImageNet-3DCC. By default the test images are corrupted here, with
    # the parameters of CIFAR-10-C
    files: str | None = None
    # of the pictures of a tree, by name; by default Res224 for images of 224 pixels a side, as in RobustBench
    preprocessing: str | None = None
    corruptions: tuple[str, ...] = ()  # names such as fog; by default all, or all that the folder must have
    held_out: bool = True  # by default also the four that CIFAR-10-C holds out, where they are there
    severities: Severities = (1, 2, 3, 4, 5)
    # network whose errors mCE is divided by: alexnet, alexnet_3dcc, the folder of an earlier report on the same images,
    # or none, for mean errors; by default the published one of the benchmark where there is one
    baseline: str | None = None
    images: ImagesOrAll = 1000  # test images, None for all
    batch_size: Count = 512  # images on all devices together
    seed: Seed = 0  # of the corruptions made here
    out: str | None = None  # where to write; by default the folder corruptions in the run's folder

    def check(self) -> None:
        """Validate what several fields say together."""
        self.source.require()
        checks.corruptions("--corruptions", self.corruptions or ("all",), self.severities)
        if not self.files:
            checks.corruptions("--corruptions", self.names(), self.severities, known=tuple(CORRUPTIONS))
        if self.preprocessing:
            preprocessing.preprocessing(self.preprocessing)
        if not self.out and not self.source.run:
            raise ValueError("--out is missing, must be given unless the network is that of a run folder")

    def names(self) -> tuple[str, ...]:
        """List the corruptions that are made here."""
        return self.corruptions or (tuple(CORRUPTIONS) if self.held_out else COMMON)


CORRUPTIONS_PRESETS = {
    "standard": CorruptionsConfig(),
    "robustbench": CorruptionsConfig(held_out=False, images=None),
    "smoke": CorruptionsConfig(
        corruptions=("gaussian_noise", "brightness"), severities=(1, 5), images=40, batch_size=32
    ),
}


# --- merge_reports ---


@dataclasses.dataclass(frozen=True)
class MergeConfig:
    """Join attack reports."""

    reports: tuple[str, ...] = ()  # folders with results.npz
    out: str = "runs/merged"


# --- frontier ---


@dataclasses.dataclass(frozen=True)
class FrontierConfig:
    """Compare attacked runs by their cost and robustness."""

    runs: tuple[str, ...] = ()  # folders of classification.train, attacked by classification.attack
    report: str = ""  # name of the report in RUN/attack, where a run has several
    out: str = "runs/frontier"


# --- certify ---


Split = Literal["activations", "inputs"]
BRANCH = "branch and bound"


@dataclasses.dataclass(frozen=True)
class CertifyConfig:
    """Certify a classifier by bounds, and attack it."""

    source: network_source.Source = network_source.Source()
    norm: Norm = "linf"
    eps: PositiveRadius = 0.1  # the largest, of images in [0, 1]
    radii: Count = 4  # evenly up to --eps
    methods: tuple[Method, ...] = ("ibp", "crown-ibp", "crown")  # from the cheapest to the tightest
    # certify the network as computed in float32, not that of real numbers, as other verifiers do
    outward: bool = True
    steps: Count = 100  # of APGD
    queries: Count = 1000  # of Square
    # seconds of branch and bound for each image that bounds and attacks leave undecided; 0 for none
    budget: NonNegative = 0.0
    split: Split = "activations"  # what it cuts: inputs where they are few numbers
    tighten: bool = False  # before the first cut, optimise the slopes behind the intervals of hidden layers
    domains: Annotated[int, Ge(2)] = 64  # sub-domains on the device together
    images: ImagesOrAll = 100  # test images, None for all
    batch_size: Count = 16  # images whose bounds are on the device together
    seed: Seed = 0
    out: str | None = None  # where to write; by default the folder certify in the run's folder

    def check(self) -> None:
        """Validate what several fields say together."""
        self.source.require()
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"--eps is {self.eps:g}, must be at most 1 for images in [0, 1]; write 8/255")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"--methods are {' '.join(self.methods) or 'none'}, must be different ones, at least one"
            )
        if self.source.stochastic:
            raise ValueError("--source.stochastic is set, must not be: bounds are of a fixed network")
        if not self.out and not self.source.run:
            raise ValueError("--out is missing, must be given unless the network is that of a run folder")

    def grid(self) -> np.ndarray:
        """List the radii."""
        return np.linspace(0, self.eps, self.radii + 1)[1:]

    def columns(self) -> tuple[str, ...]:
        """Name what certifies, in this order."""
        return (*self.methods, BRANCH) if self.budget else self.methods


CERTIFY_PRESETS = {
    "standard": CertifyConfig(),
    "smoke": CertifyConfig(eps=0.02, radii=2, methods=("ibp", "crown-ibp"), steps=3, queries=10, images=20),
}
