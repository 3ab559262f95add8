"""Settings of ood_detection.train, .evaluate, .openood and .compare, and their presets."""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Interval

from experiments.shared import network_source
from experiments.shared.fields import (
    Count,
    ImagesOrAll,
    NonNegative,
    OpenShare,
    PositiveRadius,
    Seed,
    Share,
)
from experiments.shared.settings import PGD, Cluster, Optimizer, after_epochs
from robustjax.attacks import compose, pgd
from robustjax.catalog import ood_losses
from robustjax.catalog.openood import BENCHMARKS
from robustjax.catalog.score_attacks import score_attack
from robustjax.catalog.scores import GRIDS, detector, tunable
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.threats import Threat
from robustjax.types import Ascent, Number

# --- train --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a network on ID and OOD images."""

    dataset: str = "digits"  # the ID data
    ood_sets: tuple[str, ...] = ("letters", "noise/permuted", "noise/uniform")  # OOD sets to train on
    model: str = "mlp"  # as in classification.train
    dtype: str = "float32"
    loss: str = "aloe"  # a method by name (a wrong name lists all), or module:name
    weight: float | None = None  # of the term on OOD images; the published one of the method by default
    penalty: Literal[
        "published", "kl_from_uniform", "ce_to_uniform", "log_confidence", "negative_entropy", "logit_spread"
    ] = "published"  # what must be small on OOD images, where the method has a choice
    beta: float = 6.0  # of trades, trades_acet and trades_ceda
    ood_start: Share = 0.0  # share of the run before OOD images count; half in SOFL as published
    # begin the optimiser and its schedule anew there, each over its own part of the run, as published for SOFL
    ood_restart: bool = False
    id_attack: PGD = PGD()  # around ID images, in training
    ood_attack: PGD = PGD()  # around OOD images, in training
    keep_iterate: Literal["last", "best"] = "last"  # which point of a training attack is trained on
    attack_bn: Literal["running", "own_batch", "joint_batch"] = "running"  # BatchNorm statistics in attacks
    warmup: Share = 0.0  # share of the run over which both radii grow from 0
    mine_every: Count = (
        400  # updates between two choices of OOD images (ntom, atom): the papers take an epoch
    )
    # share of the least rejected OOD images that are left out then; of the others a quarter of all is chosen
    quantile: Annotated[float, Interval(ge=0, lt=0.75)] = 0.125
    updates: Count = 2000
    batch_size: Count = 64  # ID images, over all devices
    ood_batch_size: Count = 128
    optimizer: Optimizer = Optimizer(schedule="cosine", weight_decay=1e-4)
    ema: bool = False
    augment: tuple[
        str, ...
    ] = ()  # of crop, flip, cutout, projective and others; OOD images too, unless the next
    ood_augment: tuple[str, ...] | None = None  # of OOD images
    evaluation: PGD = PGD(steps=20, step=0.125)  # the attack of validation, on ID and OOD images
    validate_every: Count = 500
    images: ImagesOrAll = 500  # validation images, ID and OOD; None for all
    record_every: Count = 10
    seed: Seed = 0
    out: str = "runs/ood"
    data_dir: str | None = None
    keep: Count = 2  # checkpoints
    tensorboard: bool = False
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Validate what several fields say together."""
        method = ood_losses.method(self.loss)
        if not self.ood_sets:
            raise ValueError("--ood-sets is empty, must name at least one set of OOD images")
        if method.mines and len(self.ood_sets) == 1 and "noise/" in self.ood_sets[0]:
            raise ValueError(
                f"--ood-sets is noise alone, must be images to choose from with --loss {self.loss}"
            )
        if self.loss in ("half_acet", "atom") and self.ood_batch_size % 2:
            raise ValueError(f"--ood-batch-size is {self.ood_batch_size}, must be even for {self.loss}")
        if self.loss == "half_ratio" and self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, must be even for half_ratio")
        if self.ood_restart and not 0 < self.ood_start * self.updates <= self.updates - 1:
            raise ValueError(
                f"--ood-restart is given and --ood-start is {self.ood_start:g}, must leave updates before and after"
            )

    def id_ascent(self, scale: Number = 1.0) -> Ascent:
        """Build the training attack around ID images, its radius scaled."""
        return ascent(self.id_attack, self.id_attack.eps * scale, self.keep_iterate)

    def ood_ascent(self, scale: Number = 1.0) -> Ascent:
        """Build the training attack around OOD images, its radius scaled."""
        return ascent(self.ood_attack, self.ood_attack.eps * scale, self.keep_iterate)


def ascent(attack: PGD, eps: Number, keep: Literal["last", "best"] = "best") -> Ascent:
    """Build PGD on any objective at a radius."""
    once = pgd(Threat(attack.norm, eps), steps=attack.steps, step_size=attack.step * eps, keep=keep)
    return compose.restarts(once, attack.restarts) if attack.restarts > 1 else once


def _attacks(eps: float, steps: int, step: float) -> dict[str, Any]:
    attack = PGD(eps=eps, steps=steps, step=step)
    return {
        "id_attack": attack,
        "ood_attack": attack,
        "evaluation": PGD(eps=eps, steps=40, step=2.5 / 40),
    }


_ADAM = Optimizer(name="adam", rate=1e-3, schedule="cosine", weight_decay=0.0)
_CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "ood_sets": ("tiny_imagenet/outliers",),
    "augment": ("crop", "flip"),
    "validate_every": 2000,
    "record_every": 50,
}
_GREY: dict[str, Any] = {
    "ood_sets": ("letters/28", "noise/acet", "noise/permuted", "noise/uniform"),
    "model": "convnet_small",
    "updates": 4000,
    "optimizer": _ADAM,
    "warmup": 0.2,
    "validate_every": 1000,
    "record_every": 50,
}
_SMOKE: dict[str, Any] = _attacks(0.1, 1, 1.0) | {"evaluation": PGD(steps=1, step=1.0)}
_ATOM_OPTIMIZER = Optimizer(schedule="piecewise", drops=after_epochs(50, 75, 90, of=100), weight_decay=1e-4)
# Whole batches of 64 in an epoch of CIFAR, of which a tenth is held out, and of SVHN alike. ALOE's epochs of GTSRB have
# 430,000 images, made of 34,799.
_CIFAR_EPOCH, _SVHN_EPOCH, _GTSRB_EPOCH = 707, 1035, 6718
_ALOE: dict[str, Any] = _attacks(1 / 255, 2, 1.0) | {"model": "densenet100", "updates": 100 * _CIFAR_EPOCH}
_ATOM: dict[str, Any] = _attacks(8 / 255, 5, 0.25) | {
    "model": "densenet100",
    "loss": "atom",
    "keep_iterate": "best",
    "mine_every": _CIFAR_EPOCH,
    "updates": 100 * _CIFAR_EPOCH,
    "optimizer": _ATOM_OPTIMIZER,
}
# Many of CIFAR-100's classes are also Tiny ImageNet's.
_CIFAR100: dict[str, Any] = _CIFAR | {"dataset": "cifar100", "ood_sets": ("random_images",)}
TRAIN_PRESETS = {
    "digits": TrainConfig(**_attacks(0.15, 5, 0.5), warmup=0.1),
    "mnist": TrainConfig(dataset="mnist", **_GREY, **_attacks(0.1, 5, 0.5)),
    "fashion_mnist": TrainConfig(dataset="fashion_mnist", **_GREY, **_attacks(0.05, 5, 0.5)),
    "cifar10": TrainConfig(
        **_CIFAR,
        **_attacks(8 / 255, 5, 0.25),
        model="densenet40",
        updates=8000,
        keep_iterate="best",
        warmup=0.1,
    ),
    # For two cores without an accelerator: ALOE takes 40 CPU-minutes. ALOE is published at 1/255, ATOM at 8/255.
    "cifar10_small": TrainConfig(
        **_CIFAR,
        id_attack=PGD(eps=8 / 255, steps=2, step=0.75),
        ood_attack=PGD(eps=8 / 255, steps=2, step=0.75),
        evaluation=PGD(eps=8 / 255, steps=10, step=0.25),
        model="resnet8",
        updates=2000,
        batch_size=128,
        optimizer=Optimizer(rate=0.2),
        images=200,
    ),
    "cifar10_aloe": TrainConfig(**_CIFAR, **_ALOE),
    "cifar100_aloe": TrainConfig(**_CIFAR100, **_ALOE),
    "gtsrb_aloe": TrainConfig(
        **_CIFAR
        | _ALOE
        | {
            "dataset": "gtsrb/aloe",
            "augment": ("projective",),
            "ood_augment": ("crop", "flip"),
            "updates": 10 * _GTSRB_EPOCH,
        }
    ),
    "cifar10_atom": TrainConfig(**_CIFAR, **_ATOM),
    "cifar100_atom": TrainConfig(**_CIFAR100, **_ATOM),
    "svhn_atom": TrainConfig(
        **_CIFAR
        | _ATOM
        | {
            "dataset": "svhn_cropped",
            "augment": (),
            "ood_augment": ("crop", "flip"),
            "mine_every": _SVHN_EPOCH,
            "updates": 20 * _SVHN_EPOCH,
            "optimizer": dataclasses.replace(_ATOM_OPTIMIZER, drops=after_epochs(10, 15, 18, of=20)),
        }
    ),
    "smoke": TrainConfig(
        **_SMOKE,
        ood_sets=("letters",),
        updates=6,
        batch_size=16,
        ood_batch_size=16,
        validate_every=4,
        mine_every=3,
        record_every=2,
        images=32,
    ),
}

# --- evaluate -----------------------------------------------------------------------------------------

LINF_RADII = {"digits": (0.05, 0.1), "mnist": (0.1, 0.3), "fashion_mnist": (0.05, 0.1)}
OTHER_RADII = {"l2": (0.25, 0.5), "l1": (6.0, 12.0)}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate detectors and attack their scores."""

    runs: tuple[str, ...] = ()  # folders of ood_detection.train or classification.train, on the same ID data
    source: network_source.Source = network_source.Source()  # a checkpoint or a function instead
    ood_sets: tuple[str, ...] = ("letters", "noise/uniform")  # OOD sets to test on
    detectors: tuple[str, ...] = ("msp",)  # by name (a wrong name lists all), or module:name
    attacks: tuple[str, ...] = ("adaptive",)  # of adaptive, strong, aloe, atom, atd, or module:name
    norm: Literal["linf", "l2", "l1"] = "linf"
    radii: tuple[
        PositiveRadius, ...
    ] = ()  # those that papers take for the ID data and norm, if attacks are given
    steps: Count = 100  # of adaptive and strong
    restarts: Count = 1  # random starts of adaptive and strong
    corruption: bool = False  # the worst of all corruptions at 5 severities, on both sides
    corruption_names: tuple[str, ...] = tuple(CORRUPTIONS)  # the 19 of CIFAR-10-C
    composition: bool = False  # and the first attack around what they leave, at the largest radius
    masking_checks: bool = True  # look for masked gradients
    certify: bool = False  # interval bounds on MSP
    sigma: NonNegative = 0.0  # of the noise of smoothed scores; 0 for none
    smooth_radii: tuple[PositiveRadius, ...] = (
        0.25,
        0.5,
    )  # l2, of certificates and attacks of smoothed scores
    samples: Count = 1000  # noisy copies of every image
    images: ImagesOrAll = 500  # test images, ID and of each OOD set; None for all
    fit_images: Count = 2000  # training images that detectors are fitted to
    search: bool = False  # choose settings of detectors on validation images, from OpenOOD's grids
    # whose values are tried: OpenOOD's, chosen by AUROC; or ODIN's and Mahalanobis' of ALOE and ATOM, chosen by FPR
    grids: Literal["openood", "aloe"] = "openood"
    search_ood: str = ""  # OOD set to validate them on, which no OOD set of the test may share an image with
    search_images: Count = 1000  # validation images of each side
    id_rejected: OpenShare = 0.05  # share of ID images that thresholds may reject
    batch_size: Count = 250
    resamples: Count = 300  # of the bootstrap
    seed: Seed = 0
    out: str = "runs/eval_ood"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate what several fields say together."""
        named = self.source.run or self.source.checkpoint or self.source.function
        if bool(self.runs) == bool(named):
            raise ValueError("--runs and --source: exactly one must be given, the networks to evaluate")
        if named:
            self.source.require()
        if not self.ood_sets or not self.detectors:
            raise ValueError("--ood-sets and --detectors are empty, must name at least one each")
        for name in self.detectors:
            detector(name)
        if self.search != bool(self.search_ood):
            raise ValueError(
                "--search and --search-ood: must be given together, the OOD set to validate settings on"
            )
        if self.search and not any(tunable(name, self.grids) for name in self.detectors):
            known = ", ".join(GRIDS[self.grids])
            raise ValueError(f"--search is given, must be with one of the detectors {known}")
        self.check_attacks()
        if self.composition and not (self.corruption and self.attacks):
            raise ValueError("--composition needs --corruption and an attack")

    def check_attacks(self) -> None:
        """Validate attacks, norm and radii."""
        published = [name for name in self.attacks if score_attack(name).published]
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"--radii is {self.radii}, must rise from above 0")
        if self.norm == "linf" and self.radii and self.radii[-1] > 1:
            raise ValueError(f"--radii is {self.radii}, must be at most 1 for images in [0, 1]; write 8/255")
        if self.norm != "linf" and published:
            raise ValueError(f"--attacks {' and '.join(published)} are linf, --norm is {self.norm}")

    def with_radii_of(self, dataset: str) -> "EvaluateConfig":
        """Fill in the radii of the ID data where none are given."""
        if self.radii or not (self.attacks or self.certify):
            return self
        radii = LINF_RADII.get(dataset, (4 / 255, 8 / 255)) if self.norm == "linf" else OTHER_RADII[self.norm]
        return dataclasses.replace(self, radii=radii)

    def attack_case(self, attack: str, eps: float) -> str:
        """Name the case of an attack at a radius; also its folder."""
        return f"{file_name(attack)}_{eps:.4g}"

    def cases(self) -> list[str]:
        """List the cases in which images are attacked or corrupted."""
        found = [self.attack_case(attack, eps) for attack in self.attacks for eps in self.radii]
        found += ["corruption"] if self.corruption else []
        return found + ([f"composition_{self.radii[-1]:.4g}"] if self.composition else [])


def file_name(name: str) -> str:
    """Turn the name of a set or a detector into one of a file."""
    return name.replace("/", "_").replace(":", "_")


# The OOD sets that ALOE and ATOM average over.
SIX_SETS = ("lsun_crop", "lsun_resize", "isun", "dtd", "places365", "svhn_cropped/thousand")
_SIX = EvaluateConfig(
    ood_sets=SIX_SETS,
    detectors=("msp", "odin", "mahalanobis_layers"),
    attacks=("atom", "aloe", "adaptive"),
    radii=(1 / 255, 8 / 255),
    corruption=True,
    composition=True,
    images=None,
    search=True,
    grids="aloe",
    search_ood="tiny_imagenet/outliers",
)
EVALUATE_PRESETS = {
    "standard": EvaluateConfig(),
    "strong": EvaluateConfig(attacks=("strong",), restarts=5),
    "aloe": EvaluateConfig(attacks=("aloe", "adaptive"), radii=(1 / 255,)),
    "atom": EvaluateConfig(attacks=("atom", "adaptive"), radii=(8 / 255,), corruption=True, composition=True),
    "atd": EvaluateConfig(attacks=("atd", "adaptive"), radii=(8 / 255,)),
    "cifar10_small": EvaluateConfig(
        ood_sets=("cifar100", "dtd", "tiny_imagenet/outliers", "noise/uniform", "noise/low_frequency"),
        attacks=("aloe", "adaptive"),
        radii=(1 / 255, 8 / 255),
        steps=50,
        images=300,
    ),
    "six_sets": _SIX,
    "six_sets_own": dataclasses.replace(_SIX, detectors=("own",), search=False, search_ood=""),
    "six_sets_gtsrb": dataclasses.replace(_SIX, ood_sets=(*SIX_SETS[:-1], "cifar10")),
    "smoke": EvaluateConfig(
        ood_sets=("letters",),
        radii=(0.1,),
        steps=2,
        images=12,
        fit_images=40,
        batch_size=12,
        resamples=10,
        certify=True,
        sigma=0.2,
        smooth_radii=(0.1,),
        samples=40,
        corruption_names=("brightness", "contrast"),
        masking_checks=False,
    ),
}

# --- openood ------------------------------------------------------------------------------------------

OPENOOD_DETECTORS = (
    "msp", "max_logit", "energy", "temperature_scaling", "kl_matching", "gen", "odin", "mahalanobis",
    "relative_mahalanobis", "knn", "nnguide", "relation", "she", "vim", "fdbd", "nci", "gradnorm", "dice", "react",
    "vra", "ash_b", "scale", "adascale_a",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OpenoodConfig:
    """Evaluate detectors by OpenOOD's protocol, and attack them."""

    benchmark: Literal["cifar10", "cifar100", "imagenet200", "imagenet"] = "cifar10"
    root: str | None = (
        None  # OpenOOD's data folder, with benchmark_imglist, images_classic, images_largescale
    )
    # a folder of OpenOOD's score files instead of a network: BENCHMARK.npz and one .npz for each OOD set
    scores: str | None = None
    source: network_source.Source = network_source.Source()  # the network; its data set is the benchmark's
    sets: tuple[str, ...] = ()  # OOD sets of the benchmark, by default all
    full_spectrum: bool = False  # and numbers with covariate-shifted images as ID
    detectors: tuple[str, ...] = OPENOOD_DETECTORS  # by name or OpenOOD's, or module:name
    search: bool = True  # choose settings on the benchmark's validation images, as OpenOOD does
    attacks: tuple[str, ...] = ("adaptive",)  # beside the clean numbers; none with --attacks alone
    norm: Literal["linf", "l2", "l1"] = "linf"
    radii: tuple[PositiveRadius, ...] = (1 / 255, 8 / 255)
    steps: Count = 50  # of adaptive and strong
    restarts: Count = 1
    attack_images: Count = 100  # images of each set that are attacked
    masking_checks: bool = True
    images: ImagesOrAll = None  # of each set; None for all, as published numbers have
    fit_images: Count = 2000  # training images that detectors are fitted to; OpenOOD takes all
    batch_size: Count = 250
    resamples: Count = 300  # of the bootstrap
    seed: Seed = 0
    out: str = "runs/openood"

    def check(self) -> None:
        """Validate what several fields say together."""
        known = list(BENCHMARKS[self.benchmark].ood)
        if unknown := [name for name in self.sets if name not in known]:
            raise ValueError(
                f"--sets {unknown[0]}: no OOD set of {self.benchmark}, must be of {', '.join(known)}"
            )
        if self.scores is not None:
            return
        if self.root is None:
            raise ValueError(
                "--root and --scores are missing, one must be given: OpenOOD's data, or scores of it"
            )
        self.as_source().require()
        if not self.detectors:
            raise ValueError("--detectors is empty, must name at least one")
        for name in self.detectors:
            detector(name)
        self.evaluation(attacked=True).check_attacks()

    def ood_sets(self) -> tuple[str, ...]:
        """List the OOD sets, near ones first."""
        known = BENCHMARKS[self.benchmark].ood
        return tuple(name for name in known if not self.sets or name in self.sets)

    def as_source(self) -> network_source.Source:
        """Name the benchmark as the data set of the network."""
        return dataclasses.replace(self.source, dataset=self.source.dataset or self.benchmark)

    def evaluation(self, *, attacked: bool) -> "EvaluateConfig":
        """Say the same as settings of ood_detection.evaluate: clean scores, or attacks on them."""
        return EvaluateConfig(
            source=self.as_source(),
            ood_sets=self.ood_sets(),
            detectors=self.detectors,
            attacks=self.attacks if attacked else (),
            radii=self.radii if attacked else (),
            norm=self.norm,
            steps=self.steps,
            restarts=self.restarts,
            masking_checks=self.masking_checks,
            images=self.images,
            fit_images=self.fit_images,
            search=self.search,
            search_ood=self.benchmark if self.search else "",
            batch_size=self.batch_size,
            resamples=self.resamples,
            seed=self.seed,
            out=self.out,
        )


OPENOOD_PRESETS = {
    "cifar10": OpenoodConfig(),
    "cifar100": OpenoodConfig(benchmark="cifar100"),
    "imagenet200": OpenoodConfig(benchmark="imagenet200", batch_size=64, radii=(1 / 255, 4 / 255)),
    "imagenet": OpenoodConfig(benchmark="imagenet", batch_size=64, radii=(1 / 255, 4 / 255)),
    "smoke": OpenoodConfig(
        sets=("cifar100", "texture"),
        detectors=("msp", "vra"),
        radii=(8 / 255,),
        steps=2,
        attack_images=4,
        masking_checks=False,
        images=12,
        fit_images=20,
        batch_size=12,
        resamples=10,
    ),
}

# --- compare ------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One setting of the comparison, trained with all seeds at once."""

    ood: Literal["far", "near"]  # OOD images trained on: letters-like and noise, or the digits 6 and 7 alone
    method: str
    eps: float

    @property
    def name(self) -> str:
        """Name the file of the setting."""
        return f"{self.ood}_{self.method}_{self.eps:.4g}"


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Train six ways, over radii and seeds, and attack the score on both sides."""

    radii: tuple[PositiveRadius, ...] = (0.05, 0.10, 0.15)  # linf, of training and of the attacks
    near_eps: PositiveRadius = 0.10  # radius of the comparison with near OOD images only, one of --radii
    seeds: Count = 3
    updates: Count = 1500
    batch_size: Count = 64
    ood_batch_size: Count = 128
    weight: NonNegative = 0.5  # of the term on OOD images
    steps: Count = 5  # of the training attack, each of 2.5 eps / steps
    evaluation_steps: Count = 40  # of the attacks on the score
    evaluation_restarts: Count = 3  # of APGD on the score itself
    queries: Count = 200  # of Square on the score itself
    ood_images: Count = 300  # test images of each OOD set
    width: Count = 128  # of both hidden layers
    resamples: Count = 300  # of the bootstrap
    out: str = "runs/aloe"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate what several fields say together."""
        if not self.radii or list(self.radii) != sorted(set(self.radii)) or self.radii[-1] > 1:
            raise ValueError(f"--radii is {self.radii}, must rise from above 0 to at most 1")
        if self.near_eps not in self.radii:
            raise ValueError(f"--near-eps is {self.near_eps:g}, must be one of --radii {self.radii}")

    def settings(self) -> list[Setting]:
        """List what to train, each setting once; a training without attacks has radius 0."""
        found = [Setting("far", method, 0.0) for method in ("standard", "oe")]
        found += [
            Setting("far", method, eps)
            for eps in reversed(self.radii)
            for method in ("adversarial", "aoe", "acet", "aloe")
        ]
        found += [Setting("near", "oe", 0.0)]
        return found + [Setting("near", method, self.near_eps) for method in ("aoe", "acet", "aloe")]


COMPARE_PRESETS = {
    "digits": CompareConfig(),
    "smoke": CompareConfig(
        radii=(0.05, 0.1),
        seeds=2,
        updates=4,
        steps=1,
        evaluation_steps=2,
        evaluation_restarts=1,
        ood_images=20,
        width=8,
        resamples=10,
    ),
}
