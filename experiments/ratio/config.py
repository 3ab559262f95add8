"""Settings of ratio.compare and ratio.evaluate, and their presets."""

import dataclasses
from typing import Any, Literal

from experiments.shared import network_source
from experiments.shared.fields import (
    Count,
    Images,
    NonNegative,
    Positive,
    PositiveRadius,
    Radius,
    Seed,
    Share,
)
from experiments.shared.settings import Optimizer, after_epochs
from robustjax.catalog import augmentations, ood_sets

Method = Literal[
    "plain", "oe", "ceda", "acet", "at", "trades", "ratio", "half_ratio", "trades_acet", "trades_ceda"
]
HARDEST = (
    "hardest"  # start of counterfactuals: the test images that a network gets wrong by the widest margin
)
METHODS: tuple[Method, ...] = ("plain", "oe", "acet", "at", "trades", "ratio")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of a network."""

    # OOD sets to evaluate on, by name as in catalog.ood_sets
    test_ood_sets: tuple[str, ...] = ("photo/flower", "data/inverted", "noise/uniform", "data/upside_down")
    ood_images: Images = 256  # test images of each OOD set
    images: Images = 1000  # ID test images
    eps: PositiveRadius = 0.5  # l2 radius around ID images
    ood_eps: PositiveRadius = 1.0  # l2 radius around OOD images
    suite: Literal["short", "standard"] = "short"  # APGD as below, or AutoAttack's four attacks in full
    apgd_steps: Count = 100  # of APGD on cross-entropy
    targeted_steps: Count = 30  # of APGD at each of nine targets
    confidence_steps: Count = 60  # of each search for high confidence around OOD images
    confidence_restarts: Count = 3
    class_steps: Count = 20  # of the search at each class
    radii: tuple[Radius, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)  # l2, of the curves over radii
    curve_images: Images = 128
    curve_steps: Count = 30
    counterfactual_radii: tuple[Radius, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)  # l2
    counterfactual_images: Images = 128
    counterfactual_steps: Count = 50
    evaluation_batch_size: Count = 128
    resamples: Count = 300  # of the bootstrap
    out: str = "runs/ratio"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate what several values say together."""
        for name in ("radii", "counterfactual_radii"):
            radii = getattr(self, name)
            if len(radii) < 2 or radii[0] != 0 or sorted(set(radii)) != list(radii):
                raise ValueError(f"--{name.replace('_', '-')} is {radii}, must rise from 0")
        require_names("test-ood-sets", self.test_ood_sets)


def require_names(flag: str, names: tuple[str, ...]) -> None:
    """Refuse no name, and a name given twice."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--{flag} is {names}, must name at least one, and none twice")


@dataclasses.dataclass(frozen=True)
class Config(Measured):
    """Train networks with several methods on the same images, and evaluate them in and out of distribution."""

    methods: tuple[Method, ...] = METHODS
    seeds: Count = 3  # networks of each method
    dataset: str = "digits"  # in distribution (ID)
    model: str = "tiny"
    # OOD sets to train on with the number of images of each, name=count; names as in catalog.ood_sets
    ood_sets: tuple[str, ...] = ("photo/china=3000", "data/joined=2000", "data/permuted=1000")
    train_eps: PositiveRadius | None = None  # l2 radius around ID images in training, by default --eps
    ood_train_eps: PositiveRadius | None = None  # around OOD images, by default --ood-eps
    step_size: PositiveRadius = 0.1  # l2 length of an attack step in training, around ID and OOD images
    steps: Count = 10  # of the training attack on ID images
    ood_steps: Count = 20  # of the training attack on OOD images
    ascent: Literal["pgd", "apgd"] = "pgd"
    # rising: from 1 step on ID and 2 on OOD images up to the numbers above, over half of training; how the number
    # rose for the paper is not published
    step_schedule: Literal["constant", "rising"] = "constant"
    surrogate: Literal["cross_entropy", "margin"] = "cross_entropy"  # what the attack on ID images maximises
    # what the attack on OOD images maximises
    ood_surrogate: Literal["kl_from_uniform", "log_confidence"] = "kl_from_uniform"
    beta: NonNegative = 6.0  # of TRADES
    half_weights: bool = True  # weigh the ID and the OOD term by 1/2 in OE and ACET, as RATIO does
    updates: Count = 600
    batch_size: Count = 128  # of ID images, and of OOD images
    optimizer: Optimizer = Optimizer(rate=0.05, schedule="cosine")
    ema: bool = False
    # of ID and OOD images: crop flip resized_crop cutout cutout16 autoaugment_{cifar10,svhn}
    augment: tuple[str, ...] = ()
    sharpness: Literal["sam", "asam"] | None = None  # sharpness-aware minimisation
    rho: Positive = 0.05  # radius of sam or asam in the weights; 1 is usual for asam
    extra: str | None = None  # pseudo-labelled ID images beside the labelled ones, such as cifar10_extra
    extra_share: Share = 0.7  # of every batch of ID images
    save_every: Count = 1000  # updates between checkpoints of a network
    # a robust network of another seed that evaluates counterfactuals, and whose features give Frechet distances
    evaluation_model: str = "mlp"

    def check(self) -> None:
        """Validate what several values say together."""
        trained_on = {ood_sets.with_split(name, "train") for name in self.ood_counts}
        augmentations.augmentation(self.augment, self.dataset)
        super().check()
        require_names("methods", self.methods)
        for name in self.test_ood_sets:
            if ood_sets.with_split(name, "test") in trained_on:
                raise ValueError(f"--test-ood-sets has {name!r}, must not be trained on")

    @property
    def training_radii(self) -> tuple[float, float]:
        """Give the radii around ID and OOD images in training."""
        return self.train_eps or self.eps, self.ood_train_eps or self.ood_eps

    @property
    def ood_counts(self) -> dict[str, int]:
        """Read the OOD sets to train on: images by name."""
        counts: dict[str, int] = {}
        for words in self.ood_sets:
            name, _, count = words.rpartition("=")
            if not name or not count.isdecimal() or int(count) < 1:
                raise ValueError(f"--ood-sets has {words!r}, must be name=count such as noise/acet=2000")
            if name in counts:
                raise ValueError(f"--ood-sets has {name!r} twice, must name each set once")
            counts[name] = int(count)
        if not counts:
            raise ValueError("--ood-sets is empty, must name at least one set")
        return counts


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Measured):
    """Evaluate a network of anybody's by the same table; the networks of a folder become its rows."""

    source: network_source.Source = network_source.Source()  # a run folder, a checkpoint or a function
    name: str | None = None  # of its row; by default that of its folder, file or function
    # run folder of classification.train on the same data: a robust network that evaluates counterfactuals
    evaluator: str | None = None
    seed: Seed = 0  # of a randomised function
    out: str = "runs/ratio_evaluated"

    def check(self) -> None:
        """Validate what several values say together."""
        super().check()
        self.source.require()
        if self.name is not None and (not self.name or "/" in self.name):
            raise ValueError(f"--name is {self.name!r}, must be the name of a file")


MAY_DIFFER = ("out", "data_dir", "methods", "seeds", "resamples", "save_every")  # when a run is resumed

_MNIST = Config(
    seeds=1,
    dataset="mnist",
    model="convnet_small",
    methods=("plain", "oe", "acet", "at", "ratio"),
    ood_sets=("notmnist:test=9000", "letters/28=3000", "noise/acet=3000"),
    test_ood_sets=("kmnist", "omniglot", "kannada_mnist", "dtd", "noise/uniform"),
    ood_images=128,
    images=500,
    eps=1.0,
    ood_eps=2.0,
    step_size=0.2,
    updates=1500,
    optimizer=Optimizer(name="adam", rate=2e-3, weight_decay=0.0),
    confidence_steps=40,
    confidence_restarts=2,
    targeted_steps=20,
    apgd_steps=50,
    class_steps=15,
    radii=(0.0, 1.0, 2.0, 3.0, 4.0),
    curve_images=48,
    curve_steps=20,
    counterfactual_radii=(0.0, 1.0, 2.0, 4.0, 6.0),
    counterfactual_images=96,
    counterfactual_steps=30,
)
# The paper's OOD sets beside CIFAR-10: LSUN_CR are the validation pictures of classrooms, ImageNet- is ImageNet without
# what looks like CIFAR-10's classes, smooth noise is noise/ccu.
PAPER_OOD_SETS = (
    "svhn_cropped",
    "cifar100",
    "lsun_classroom",
    "imagenet_minus",
    "noise/ccu",
    "noise/uniform",
)
_CIFAR = Config(
    seeds=1,
    dataset="cifar10",
    model="wideresnet34_10",
    methods=("at", "ratio"),
    # Tiny ImageNet without what looks like CIFAR-10's classes, all 8,000 or fewer, instead of 80 Million Tiny Images
    ood_sets=("tiny_imagenet/outliers=8000",),
    test_ood_sets=PAPER_OOD_SETS,
    ood_images=1024,
    updates=117_000,  # 300 epochs
    optimizer=Optimizer(rate=0.1, schedule="cosine"),
    ema=True,
    augment=("crop", "flip", "autoaugment_cifar10", "cutout16"),
    suite="standard",
    confidence_steps=100,
    confidence_restarts=5,
    class_steps=100,
    targeted_steps=100,
    radii=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    counterfactual_radii=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    counterfactual_steps=200,
    evaluation_model="resnet18",
)
_PAPER = dataclasses.replace(
    _CIFAR,
    model="resnet50",
    updates=97_500,  # 250 epochs
    optimizer=Optimizer(schedule="piecewise", drops=after_epochs(100, 150, 200, of=250)),
    ema=False,
    surrogate="margin",
)
PRESETS = {
    "digits": Config(),
    "mnist": _MNIST,
    "fashion_mnist": dataclasses.replace(_MNIST, dataset="fashion_mnist"),
    "cifar10": dataclasses.replace(
        _CIFAR,
        model="resnet18",
        updates=11_700,
        optimizer=Optimizer(),
        test_ood_sets=("cifar100", "dtd", "noise/uniform", "noise/low_frequency"),
    ),
    # For two cores without an accelerator. The attacks of training take fewer steps, of longer ones: RATIO takes 50
    # CPU-minutes a network.
    "cifar10_small": dataclasses.replace(
        _CIFAR,
        seeds=2,
        model="resnet8",
        methods=("plain", "oe", "acet", "at", "ratio"),
        test_ood_sets=("cifar100", "dtd", "tiny_imagenet/outliers", "noise/uniform", "noise/low_frequency"),
        ood_images=200,
        steps=2,
        ood_steps=4,
        step_size=0.35,
        updates=2000,
        optimizer=Optimizer(rate=0.2),
        augment=("crop", "flip"),
        suite="short",
        confidence_steps=40,
        confidence_restarts=2,
        targeted_steps=20,
        apgd_steps=50,
        class_steps=20,
        radii=(0.0, 0.25, 0.5, 1.0, 2.0),
        curve_images=128,
        curve_steps=20,
        counterfactual_radii=(0.0, 0.5, 1.0, 2.0, 3.0),
        counterfactual_images=64,
        counterfactual_steps=40,
        save_every=500,
        evaluation_model="resnet8",
    ),
    "cifar10_paper": _PAPER,
    # RATIO-0.25: half the radii in training, evaluated at the same ones.
    "cifar10_paper_025": dataclasses.replace(_PAPER, train_eps=0.25, ood_train_eps=0.5),
    "cifar10_released": _CIFAR,
    # The authors' run has no Nesterov momentum and one pass of BatchNorm statistics per half.
    "cifar10_asam": dataclasses.replace(_CIFAR, sharpness="asam", rho=1.0, updates=97_500),
    # AutoAugment did not help the authors with pseudo-labelled images.
    "cifar10_extra": dataclasses.replace(_CIFAR, extra="cifar10_extra", augment=("crop", "flip")),
    "cifar100": dataclasses.replace(
        _CIFAR,
        dataset="cifar100",
        ood_sets=("random_images=300000",),  # many of CIFAR-100's classes are also Tiny ImageNet's
        test_ood_sets=("svhn_cropped", "cifar10", *PAPER_OOD_SETS[2:]),
    ),
    "svhn": dataclasses.replace(
        _CIFAR,
        dataset="svhn_cropped",
        updates=171_600,  # 300 epochs
        augment=("crop", "autoaugment_svhn", "cutout16"),
        test_ood_sets=("cifar10", *PAPER_OOD_SETS[1:]),
    ),
    "restricted_imagenet": dataclasses.replace(
        _CIFAR,
        dataset="restricted_imagenet",
        model="resnet50_imagenet",
        evaluation_model="resnet18_imagenet",
        ood_sets=("restricted_imagenet/others=400000",),
        test_ood_sets=(
            *("restricted_imagenet/others", "flowers", "fgvc_aircraft", "stanford_cars"),
            *("noise/ccu", "noise/uniform"),
        ),
        eps=3.5,
        ood_eps=7.0,
        step_size=0.7,
        updates=150_000,  # 75 epochs
        optimizer=Optimizer(schedule="piecewise", drops=after_epochs(30, 60, of=75)),
        ema=False,
        augment=("resized_crop", "flip"),
        radii=(0.0, 3.5, 7.0, 10.5, 14.0),
        counterfactual_radii=(0.0, 3.5, 7.0, 10.5, 14.0, 17.5, 21.0),
    ),
    "smoke": Config(
        methods=("at", "ratio"),
        seeds=1,
        model="mlp",
        ood_sets=("noise/acet=64",),
        test_ood_sets=("noise/uniform", "data/inverted"),
        ood_images=12,
        images=24,
        updates=3,
        batch_size=16,
        steps=1,
        ood_steps=1,
        apgd_steps=2,
        targeted_steps=1,
        confidence_steps=1,
        confidence_restarts=1,
        class_steps=1,
        radii=(0.0, 1.0),
        curve_images=12,
        curve_steps=1,
        counterfactual_radii=(0.0, 1.0),
        counterfactual_images=12,
        counterfactual_steps=1,
        evaluation_batch_size=24,
        resamples=10,
    ),
}


def _measured(cfg: Config) -> dict[str, Any]:
    """Take from a preset of ratio.compare what ratio.evaluate measures."""
    names = [field.name for field in dataclasses.fields(Measured) if field.name != "out"]
    return {name: getattr(cfg, name) for name in names}


EVALUATE_PRESETS = {
    "digits": EvaluateConfig(),
    **{
        name: EvaluateConfig(**_measured(PRESETS[preset]))
        for name, preset in {
            "mnist": "mnist",
            "cifar10": "cifar10_released",
            "cifar100": "cifar100",
            "svhn": "svhn",
            "restricted_imagenet": "restricted_imagenet",
            "smoke": "smoke",
        }.items()
    },
}
