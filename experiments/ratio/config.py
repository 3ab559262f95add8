"""Settings of ratio.compare, and its presets."""

import dataclasses
from typing import Literal

from experiments.shared.fields import Count, Images, NonNegative, Positive, PositiveRadius, Radius, Share
from experiments.shared.settings import Optimizer, after_epochs
from robustjax.catalog import augmentations, ood_sets

Method = Literal[
    "plain", "oe", "ceda", "acet", "at", "trades", "ratio", "half_ratio", "trades_acet", "trades_ceda"
]
METHODS: tuple[Method, ...] = ("plain", "oe", "acet", "at", "trades", "ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train networks with several methods on the same images, and evaluate them in and out of distribution."""

    methods: tuple[Method, ...] = METHODS
    seeds: Count = 3  # networks of each method
    dataset: str = "digits"  # in distribution (ID)
    model: str = "tiny"
    # OOD sets to train on with the number of images of each, name=count; names as in catalog.ood_sets
    ood_sets: tuple[str, ...] = ("photo/china=3000", "data/joined=2000", "data/permuted=1000")
    # OOD sets to evaluate on
    test_ood_sets: tuple[str, ...] = ("photo/flower", "data/inverted", "noise/uniform", "data/upside_down")
    ood_images: Images = 256  # test images of each OOD set
    images: Images = 1000  # ID test images
    # --- training ---
    eps: PositiveRadius = 0.5  # l2 radius around ID images
    ood_eps: PositiveRadius = 1.0  # l2 radius around OOD images, in training and evaluation
    step_size: PositiveRadius = 0.1  # l2 length of an attack step, around ID and OOD images
    steps: Count = 10  # of the attack on ID images
    ood_steps: Count = 20  # of the attack on OOD images
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
    # of ID and OOD images: crop flip cutout cutout16 autoaugment_{cifar10,svhn}
    augment: tuple[str, ...] = ()
    sharpness: Literal["sam", "asam"] | None = None  # sharpness-aware minimisation
    rho: Positive = 0.05  # radius of sam or asam in the weights; 1 is usual for asam
    extra: str | None = None  # pseudo-labelled ID images beside the labelled ones, such as cifar10_extra
    extra_share: Share = 0.7  # of every batch of ID images
    save_every: Count = 1000  # updates between checkpoints of a network
    # --- evaluation ---
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
    # a robust network of another seed that evaluates counterfactuals, and whose features give Frechet distances
    evaluation_model: str = "mlp"
    evaluation_batch_size: Count = 128
    resamples: Count = 300  # of the bootstrap
    out: str = "runs/ratio"
    data_dir: str | None = None

    def check(self) -> None:
        """Validate what several values say together."""
        trained_on = {ood_sets.with_split(name, "train") for name in self.ood_counts}
        augmentations.augmentation(self.augment, self.dataset)
        for name in ("radii", "counterfactual_radii"):
            radii = getattr(self, name)
            if len(radii) < 2 or radii[0] != 0 or sorted(set(radii)) != list(radii):
                raise ValueError(f"--{name.replace('_', '-')} is {radii}, must rise from 0")
        for name in ("methods", "test_ood_sets"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"--{name.replace('_', '-')} is {values}, must name at least one, and none twice"
                )
        for name in self.test_ood_sets:
            if ood_sets.with_split(name, "test") in trained_on:
                raise ValueError(f"--test-ood-sets has {name!r}, must not be trained on")

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
_CIFAR = Config(
    seeds=1,
    dataset="cifar10",
    model="wideresnet34_10",
    methods=("at", "ratio"),
    # Tiny ImageNet without what looks like CIFAR-10's classes, all 8,000 or fewer, instead of 80 Million Tiny Images
    ood_sets=("tiny_imagenet/outliers=8000",),
    test_ood_sets=("cifar100", "dtd", "noise/uniform", "noise/low_frequency"),
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
PRESETS = {
    "digits": Config(),
    "mnist": _MNIST,
    "fashion_mnist": dataclasses.replace(_MNIST, dataset="fashion_mnist"),
    "cifar10": dataclasses.replace(_CIFAR, model="resnet18", updates=11_700, optimizer=Optimizer()),
    "cifar10_paper": dataclasses.replace(
        _CIFAR,
        model="resnet50",
        updates=97_500,  # 250 epochs
        optimizer=Optimizer(schedule="piecewise", drops=after_epochs(100, 150, 200, of=250)),
        ema=False,
        surrogate="margin",
    ),
    "cifar10_released": _CIFAR,
    # The authors' run has no Nesterov momentum and one pass of BatchNorm statistics per half.
    "cifar10_asam": dataclasses.replace(_CIFAR, sharpness="asam", rho=1.0, updates=97_500),
    # AutoAugment did not help the authors with pseudo-labelled images.
    "cifar10_extra": dataclasses.replace(_CIFAR, extra="cifar10_extra", augment=("crop", "flip")),
    "cifar100": dataclasses.replace(
        _CIFAR,
        dataset="cifar100",
        ood_sets=("random_images=300000",),  # many of CIFAR-100's classes are also Tiny ImageNet's
        test_ood_sets=("cifar10", "dtd", "noise/uniform", "noise/low_frequency"),
    ),
    "svhn": dataclasses.replace(
        _CIFAR,
        dataset="svhn_cropped",
        updates=171_000,  # 300 epochs
        augment=("crop", "autoaugment_svhn", "cutout16"),
        test_ood_sets=("cifar10", "cifar100", "noise/uniform", "noise/low_frequency"),
    ),
    "restricted_imagenet": dataclasses.replace(
        _CIFAR,
        dataset="restricted_imagenet",
        model="resnet50_imagenet",
        evaluation_model="resnet18_imagenet",
        ood_sets=("restricted_imagenet/others=400000",),
        test_ood_sets=("restricted_imagenet/others", "dtd", "noise/uniform", "noise/low_frequency"),
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
