"""The settings of this topic's commands, one class each, and their presets."""

import dataclasses
import math
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge

from experiments.shared.fields import (
    Count,
    CountOrNone,
    Images,
    ImagesOrAll,
    NonNegative,
    OpenShare,
    Positive,
    PositiveShare,
    Seed,
)
from experiments.shared.settings import Cluster, Optimizer
from robustjax.catalog.learned_sets import AUTOENCODERS, PAIRS
from robustjax.catalog.names import named
from robustjax.data import subsets
from robustjax.losses.elbo import interpolated
from robustjax.models.cvae import Likelihood

Method = Literal[
    "plain", "real", "augmented", "adversarial", "stability", "smoothed", "smoothadv", "macer", "consistency",
    "smoothmix",
]  # fmt: skip
FAMILIES = ("lighting", "warps")  # of the comparison
RADII = ("quartile", "median", "upper", "largest")  # of the encodings' norms: where networks are attacked
TARGETS = ("median", "largest")  # radii for which the comparison trains a smoothed network


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a conditional autoencoder of perturbations."""

    dataset: str = "digits"
    folder: str | None = None  # of pairs of image files, instead of --dataset and --pairs
    # linf, rts, warps, lighting, corrupted, corrupted_twice, corrupted_or_clean, relit (scenes), or module:name; with
    # _fixed after a name of corruptions each image has one of each kind for good, as in arrays that are stored
    pairs: str = "lighting"
    limit: Count | None = None  # perturbations per image, drawn once; by default new ones at every step
    pad: Count | None = None  # crop out of a border of this width and flip, both images of a pair alike
    # dense, mnist_dense, mnist_conv, stn, rectangle, rectangle_small, scenes, scenes_small, or module:name
    model: str = "dense"
    likelihood: Likelihood = "gaussian"
    epochs: Count = 200
    share: PositiveShare = 1.0  # of the run that is made, all schedules shrunk with it
    batch_size: Count = 128  # over all devices
    rate_at: tuple[NonNegative, ...] = (0, 40, 200)  # epochs
    rate: tuple[NonNegative, ...] = (0, 2e-3, 0)  # of Adam at these epochs, linear in between
    beta_at: tuple[NonNegative, ...] = (0, 80)  # epochs
    beta: tuple[NonNegative, ...] = (0, 0.05)  # weight of the KL divergence at these epochs
    weight_decay: NonNegative = 0.0  # times a weight, added to its gradient of the mean over the batch
    init_from: str | None = None  # run folder whose parameters to start from, such as one of smaller images
    samples: Count = 5  # perturbations of each validation image, whose encodings choose the radius
    steps: Count = 50  # of the searches that measure quality
    images: ImagesOrAll = 1000  # validation and test images that are measured, None for all
    # images held out to choose the radius, by default a tenth of the training images; 1000 in the published runs on
    # MNIST and CIFAR-10; the others are trained on
    validation_images: Count | None = None
    save_every: Count = 1000  # updates
    seed: Seed = 1
    out: str = "runs/cvae"
    data_dir: str | None = None
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Validate the names and the schedules."""
        named(PAIRS, self.pairs, flag="--pairs")
        named(AUTOENCODERS, self.model, flag="--model")
        interpolated(self.rate_at, self.rate)
        interpolated(self.beta_at, self.beta)

    @property
    def pixelwise(self) -> bool:
        """Say whether every pixel of the images has a class: scenes under many lights."""
        return self.pairs == "relit"

    def updates(self, examples: int) -> tuple[int, float]:
        """Count the updates of the run, and those that make one epoch of the schedules."""
        epoch = self.share * max(1, examples // self.batch_size)
        return max(1, math.ceil(self.epochs * epoch - 1e-6)), epoch


_LINF = TrainConfig(
    dataset="mnist", likelihood="bernoulli", pairs="linf", model="mnist_dense", epochs=20,
    rate_at=(0, 10, 15, 20), rate=(0, 1e-3, 5e-4, 1e-4), beta_at=(0, 5, 20), beta=(0, 1e-3, 1e-2),
)  # fmt: skip
_RTS = TrainConfig(
    dataset="mnist", likelihood="bernoulli", pairs="rts", model="stn", epochs=100,
    rate_at=(0, 40, 100), rate=(0, 8e-4, 0), beta_at=(0, 10, 50), beta=(0, 0.01, 1),
)  # fmt: skip
_CIFAR = TrainConfig(
    dataset="cifar10", pairs="corrupted", model="rectangle", pad=4, epochs=1000,
    rate_at=(0, 400, 1000), rate=(0, 1e-3, 0), beta_at=(0, 40), beta=(0, 0.01),
)  # fmt: skip


def _scenes(level: int, **settings: Any) -> TrainConfig:
    """Configure the Multi-Illumination photographs at a level, starting from the next smaller one."""
    init_from = None if level == 5 else f"runs/cvae_mip{level + 1}"
    dataset, batch_size = f"multi_illumination/mip{level}", {5: 64, 4: 32, 3: 16}[level]
    # The published weight decay joins a sum over the batch, ours a mean.
    shared: dict[str, Any] = {"dataset": dataset, "batch_size": batch_size, "weight_decay": 5e-7 / batch_size}
    shared |= {
        "pad": {5: 10, 4: 20, 3: 40}[level], "init_from": init_from, "out": f"runs/cvae_mip{level}",
    }  # fmt: skip
    return TrainConfig(pairs="relit", model="scenes", images=None, samples=2, **shared, **settings)


TRAIN_PRESETS = {
    "digits": TrainConfig(),
    "lit_scenes": TrainConfig(
        dataset="lit_scenes",
        pairs="relit",
        model="scenes_small",
        pad=2,
        epochs=120,
        batch_size=32,
        rate_at=(0, 40, 120),
        beta_at=(0, 40),
        beta=(0, 0.1),
        images=40,
        out="runs/cvae_lit",
    ),
    "mnist_dense_linf": _LINF,
    "mnist_conv_linf": replace(_LINF, model="mnist_conv", rate=(1e-3, 1e-3, 5e-4, 1e-4)),
    "mnist_stn_rts": _RTS,
    "mnist_stn_rts_limited_1": replace(_RTS, limit=1),
    "mnist_stn_rts_limited_5": replace(_RTS, limit=5),
    "cifar10": _CIFAR,
    "cifar10_nooriginal": replace(_CIFAR, pairs="corrupted_twice", beta_at=(0, 400)),
    "cifar10_withoriginal": replace(_CIFAR, pairs="corrupted_or_clean", beta_at=(0, 400)),
    # For two cores without an accelerator: half an hour of one of them.
    "cifar10_small": replace(
        _CIFAR,
        model="rectangle_small",
        epochs=10,
        rate_at=(0, 4, 10),
        rate=(0, 2e-3, 0),
        beta_at=(0, 4),
        out="runs/cvae_cifar10_small",
    ),
    "mip5": _scenes(
        5, epochs=1000, rate_at=(0, 400, 1000), rate=(1e-4, 1e-3, 0), beta_at=(0, 400), beta=(0, 1)
    ),
    "mip4": _scenes(4, epochs=100, rate_at=(0, 40, 100), rate=(2.5e-5, 2.5e-4, 0), beta_at=(0,), beta=(1,)),
    "mip3": _scenes(3, epochs=25, rate_at=(0, 10, 25), rate=(2e-6, 2e-5, 0), beta_at=(0,), beta=(10,)),
    "smoke": TrainConfig(
        epochs=1, share=0.2, rate_at=(0, 1), rate=(1e-3, 1e-3), beta_at=(0, 1), steps=2, samples=1, images=16
    ),
}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a learned set over radii."""

    run: str = "runs/cvae"  # run folder of perturbation_sets.train
    pairs: str | None = (
        None  # a name as in perturbation_sets.train; by default those the set was learned from
    )
    radii: tuple[Positive, ...] = ()  # quartiles and the largest of the encodings' norms by default
    samples: Count = 5  # perturbations of each validation image, whose encodings give these norms
    steps: Count = 50  # of every search
    restarts: Count = 5  # of the search for the farthest image
    ball_samples: Count = 5  # latents per pair for the average error over the ball
    images: ImagesOrAll = 1000  # validation and test images, None for all
    excess: OpenShare = 0.1  # probability that the first theorem gives up
    tolerance: NonNegative = 0.01  # error per pixel up to which a perturbation counts as covered
    batch_size: Count = 128  # over all devices
    export: bool = False  # write the decoder as a program
    seed: Seed = 0
    out: str = "runs/cvae_evaluated"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate the pairs' name and the order of the radii."""
        if self.pairs is not None:
            named(PAIRS, self.pairs, flag="--pairs")
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"--radii is {self.radii}, must grow")


# As published, all sets of corruptions are evaluated on clean images and their corruptions.
_CORRUPTED = EvaluateConfig(
    run="runs/cvae_cifar10", pairs="corrupted", radii=(2.7, 3.9, 10.2, 28.0), images=None
)
_STN = EvaluateConfig(run="runs/cvae_mnist_rts", radii=(14.0,), images=None)
EVALUATE_PRESETS = {
    "digits": EvaluateConfig(),
    "mnist_dense_linf": EvaluateConfig(run="runs/cvae_mnist_dense", radii=(28.0,), images=None),
    "mnist_conv_linf": EvaluateConfig(run="runs/cvae_mnist_conv", radii=(29.0,), images=None),
    "mnist_stn_rts": _STN,
    "mnist_stn_rts_limited_1": replace(_STN, run="runs/cvae_mnist_rts_1"),
    "mnist_stn_rts_limited_5": replace(_STN, run="runs/cvae_mnist_rts_5"),
    "cifar10": _CORRUPTED,
    "cifar10_small": EvaluateConfig(run="runs/cvae_cifar10_small", pairs="corrupted", restarts=2, images=500),
    "cifar10_nooriginal": replace(_CORRUPTED, run="runs/cvae_cifar10_nooriginal"),
    "cifar10_withoriginal": replace(_CORRUPTED, run="runs/cvae_cifar10_withoriginal", radii=(34.0,)),
    "mip5": EvaluateConfig(run="runs/cvae_mip5", radii=(7.35, 8.81, 17.0), images=None, batch_size=16),
    "mip4": EvaluateConfig(run="runs/cvae_mip4", radii=(25.0,), images=None, batch_size=8),
    "mip3": EvaluateConfig(run="runs/cvae_mip3", radii=(21.0,), images=None, batch_size=4),
    "smoke": EvaluateConfig(
        samples=1, steps=2, restarts=1, ball_samples=1, images=8, batch_size=8, radii=(0.5, 1.0)
    ),
}


@dataclasses.dataclass(frozen=True)
class TrainClassifierConfig:
    """Train a classifier or segmenter on a learned set."""

    set: str = "runs/cvae"  # run folder of perturbation_sets.train
    model: str = "mlp"  # a classifier by name; for scenes with a class per pixel unet or unet_small
    method: Method = "adversarial"
    radius: Positive | None = None  # of the ball; by default the largest of the encodings' norms
    # of the noise in latents of smoothed, smoothadv, macer, consistency and smoothmix; by default so that no
    # certificate exceeds the radius
    sigma: Positive | None = None
    samples: Count | None = (
        None  # of noise per image: by default 16 in macer, else 2; consistency takes at least 2
    )
    # of the divergence in stability, 1 by default, and in consistency, 10; of the radius in macer, 3 / sigma as
    # published; of the mixtures in smoothmix, 1
    weight: Positive | None = None
    attack_radius: Positive = (
        1.0  # of the attack in smoothadv and the search in smoothmix, as a share of the radius
    )
    attack_steps: Count = 7  # of the training attack, each a fifth of the radius long
    # where the attack of adversarial training starts: as published a uniform share of the radius away in a random
    # direction, or uniform in the ball, for many latents near its surface
    attack_start: Literal["ball", "radius"] = "radius"
    truncate: bool = (
        False  # cut latents of augmented off at the radius; published ones are N(0, I), however long
    )
    first_light: bool = False  # plain training of scenes sees them under their first light only
    pad: Count | None = None  # crop out of a border of this width, and flip
    epochs: Count = 80
    batch_size: Count = 128  # over all devices
    optimizer: Optimizer = Optimizer(name="adam", rate=2e-3, weight_decay=0.0)
    # radii that networks are attacked at; by default the quartiles of the encodings' norms and the radius
    radii: tuple[Positive, ...] = ()
    steps: Count = 50  # of the evaluation attack, each a twentieth of the radius long
    restarts: Count = 5
    queries: CountOrNone = 500  # of the attack without gradients, 0 for none
    real_samples: Count = 50  # real perturbations per image, the worst of which is reported
    images: ImagesOrAll = 1000  # test images, None for all
    save_every: Count = 1000  # updates
    seed: Seed = 1
    out: str = "runs/learned"
    data_dir: str | None = None
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Validate the order of the radii."""
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"--radii is {self.radii}, must grow")


_WIDE = TrainClassifierConfig(
    set="runs/cvae_cifar10", model="wideresnet28_10", epochs=100, pad=4, images=None, radius=28.0,
    optimizer=Optimizer(rate=0.2), radii=(2.7, 3.9, 10.2, 28.0),
)  # fmt: skip
_UNET = TrainClassifierConfig(
    set="runs/cvae_mip5", model="unet", epochs=400, pad=10, images=None, radius=17.0,
    optimizer=Optimizer(name="adam", rate=0.01, weight_decay=0.0), queries=0,
    radii=(7.35, 8.81, 17.0),
)  # fmt: skip
CLASSIFIER_PRESETS = {
    "digits": TrainClassifierConfig(),
    "cifar10_small": TrainClassifierConfig(
        set="runs/cvae_cifar10_small",
        model="resnet8",
        attack_steps=4,
        pad=4,
        epochs=5,
        optimizer=Optimizer(rate=0.2),
        steps=20,
        restarts=1,
        queries=0,
        real_samples=20,
        images=500,
    ),
    "scenes": TrainClassifierConfig(
        set="runs/cvae_lit", model="unet_small", epochs=60, batch_size=32, restarts=2, queries=0
    ),
    "cifar10_sample_aug": replace(_WIDE, set="runs/cvae_cifar10_nooriginal", method="real"),
    "cifar10_cvae_aug": replace(_WIDE, method="augmented"),
    "cifar10_cvae_attack": _WIDE,
    "cifar10_cvae_smoothing_084": replace(_WIDE, method="smoothed", sigma=0.84),
    "cifar10_cvae_smoothing_122": replace(_WIDE, method="smoothed", sigma=1.22),
    "cifar10_cvae_smoothing_319": replace(_WIDE, method="smoothed", sigma=3.19),
    "mi_sample_first": replace(_UNET, method="plain", first_light=True),
    "mi_sample_aug": replace(_UNET, method="plain"),
    "mi_cvae_aug": replace(_UNET, method="augmented"),
    "mi_cvae_attack": _UNET,
    "mi_cvae_smoothing_690": replace(_UNET, method="smoothed", sigma=6.9),
    "smoke": TrainClassifierConfig(
        epochs=1,
        batch_size=512,
        attack_steps=1,
        steps=1,
        restarts=1,
        queries=0,
        real_samples=2,
        images=8,
        radius=1.0,
    ),
}


@dataclasses.dataclass(frozen=True)
class CertifyConfig:
    """Certify smoothed networks."""

    runs: tuple[str, ...] = ("runs/smoothed",)
    # of the noise, in pixels or latents; by default, for runs of train_classifier, the noise of training
    sigma: Positive | None = None
    selection_samples: Count = 100  # of noise per image, to choose the class (n0 in the paper)
    samples: Count = 10_000  # of noise per image, to bound the probability of the class (n in the paper)
    # a certificate is wrong with at most this probability; for segmenters all pixels of an image together
    alpha: OpenShare = 0.001
    up_to: Positive | None = None  # stop an image once this radius is certain, or out of reach
    images: Images = 100
    skip: Count = 1  # take every N-th test image
    chunk_size: Count = 500  # samples per forward pass
    save_every: Count = 5  # images, at least one per device, between two lines of progress and two saves
    attack: bool = True  # in latents, also attack the smoothed network
    # images that arrive perturbed, to be predicted by the smoothed network: clean ones, those that the set was learned
    # from, the twelve corruptions of CIFAR-10-C that published sets are learned from, the three held out from them
    predict: tuple[Literal["clean", "perturbed", "corrupted", "held_out"], ...] = ()
    predict_samples: Count = 100  # of noise per image
    seed: Seed = 0
    out: str = "runs/certified"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate the runs and the number of samples."""
        if not self.runs:
            raise ValueError("--runs is empty, must name at least one folder")
        if self.alpha ** (1 / self.samples) < 0.5:
            raise ValueError(
                f"--samples is {self.samples}, must be at least log2(1 / alpha), or nothing can be certified"
            )
        if self.predict and 2 * 0.5**self.predict_samples > self.alpha:
            raise ValueError(
                f"--predict-samples is {self.predict_samples}, must be at least 1 + log2(1 / alpha), or nothing can be "
                "predicted"
            )
        if len(set(self.predict)) < len(self.predict):
            raise ValueError(f"--predict is {' '.join(self.predict)}, must have each kind once")


_SMOOTHED = CertifyConfig(
    runs=("runs/cifar10_smoothing_084",), sigma=0.84, images=500, skip=20, attack=False,
    predict=("clean", "corrupted", "held_out"),
)  # fmt: skip
CERTIFY_PRESETS = {
    "digits": CertifyConfig(),
    "cifar10_small": CertifyConfig(samples=2000, images=200, predict=("clean", "corrupted", "held_out")),
    "mnist": CertifyConfig(runs=("runs/mnist",), sigma=0.25, samples=100_000, chunk_size=1000, skip=100),
    "cifar10_smoothing_084": _SMOOTHED,
    "cifar10_smoothing_122": replace(_SMOOTHED, runs=("runs/cifar10_smoothing_122",), sigma=1.22),
    "cifar10_smoothing_319": replace(_SMOOTHED, runs=("runs/cifar10_smoothing_319",), sigma=3.19),
    "mi_smoothing_690": CertifyConfig(
        runs=("runs/mi_smoothing_690",), sigma=6.9, samples=1000, chunk_size=10, attack=False
    ),
    "smoke": CertifyConfig(samples=20, selection_samples=5, images=4, chunk_size=10, attack=False),
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Learn perturbation sets of digits, and train, attack and certify classifiers on them."""

    families: tuple[str, ...] = FAMILIES  # of lighting, warps
    seeds: Count = 3
    cvae_epochs: Count = 200
    epochs: Count = 80  # of every classifier
    batch_size: Count = 128
    latents: Count = 16
    steps: Count = 50  # of the evaluation attack, each a twentieth of the radius long
    restarts: Count = 3
    samples: Annotated[int, Ge(10)] = 2000  # of noise per certificate; fewer cannot certify anything
    queries: Count = 500  # of the attack without gradients
    targets: tuple[str, ...] = TARGETS  # radii for which networks are smoothed, of median, largest
    valid: Count = 300  # training images held out to choose the radius
    images: ImagesOrAll = None  # training and test images, None for all
    out: str = "runs/perturbation_sets"

    def check(self) -> None:
        """Validate the names, and that images are enough."""
        for flag, given, known in (
            ("--families", self.families, FAMILIES),
            ("--targets", self.targets, TARGETS),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"{flag} has {unknown[0]!r}, must be of {', '.join(known)}")
        if self.images is not None and subsets.rule(self.images).images < self.valid + self.batch_size:
            raise ValueError(f"--images is {self.images}, must be at least --valid + --batch-size")


COMPARE_PRESETS = {
    "digits": CompareConfig(),
    "smoke": CompareConfig(
        families=("lighting",), seeds=1, cvae_epochs=2, epochs=2, batch_size=32, steps=2, restarts=1, samples=20,
        queries=5, valid=16, targets=("largest",), images=64, latents=4, out="runs/perturbation_sets_smoke",
    ),
}  # fmt: skip
