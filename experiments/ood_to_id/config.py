"""The settings of the scripts on OOD-to-ID translation, and their presets."""

import dataclasses
from typing import Annotated, Any, Literal

from annotated_types import Ge

from experiments.shared.fields import (
    Count,
    CountOrNone,
    Images,
    ImagesOrAll,
    NonNegative,
    Positive,
    PositiveRadius,
    PositiveShare,
    Radius,
    Seed,
    Share,
)
from robustjax.catalog import models as model_names
from robustjax.catalog.names import named
from robustjax.catalog.translators import TRANSLATORS, Sizes
from robustjax.data.preprocessing import preprocessing
from robustjax.perturbations.adversarial_pairs import ATTACKS
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.perturbations.tones import SHIFTS

KINDS = tuple(TRANSLATORS)
NATURAL = (("darker", 0.3), ("sharper", 3.0))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How large the networks are, how long they train, and on which pairs."""

    classifier: str = "pooled"  # or a model of catalog.models, or module:name of your own
    classifier_epochs: Count = 20
    encoder: Literal["small", "resnet18", "resnet50"] = "small"
    encoder_epochs: Count = 25
    encoder_batch: Count = 200
    encoder_images: ImagesOrAll = None  # how many it trains on, all for None
    width: Count = 16  # of the translator, ngf
    depth: int | None = None  # halvings of the translator, down to one pixel by default; of pix2pixhd 2
    blocks: CountOrNone = 6  # residual, of pix2pixhd
    residual: bool = False  # of pix2pix and atop: add to the image instead of painting it anew
    critic_width: Count = 32  # ndf
    critic_layers: CountOrNone = 1  # convolutions of stride 2: patches of 16, 34, 70 pixels
    batch_size: Count = 64
    epochs: Count = 12  # of the translator
    decay: CountOrNone = 0  # epochs more, in which the learning rate falls to 0
    rate: Positive = 2e-4  # learning rate of translator and critic
    l1: NonNegative = 200.0  # weight of the mean difference of pixels in [0, 1]; 100 in [-1, 1]
    guided: NonNegative = (
        0.0  # weight of the difference of the classifier's activations; 10 in pix2pixhd unless given
    )
    matching: NonNegative = 10.0  # weight of the difference of the critic's activations, of pix2pixhd
    pool: CountOrNone = 0  # earlier translations that the critic is shown again
    eps: PositiveRadius = 0.2  # the radius of attacks, linf
    attacks: tuple[str, ...] = ("fgsm", "pgd")  # of `perturbations.adversarial_pairs.ATTACKS`
    shares: tuple[Positive, ...] = (0.5, 1.0)  # of eps
    shifts: tuple[tuple[str, float], ...] = ()  # such as darker 0.3, or fog 3, a corruption
    pairs_of: int | None = None  # how many training images pairs are made of, all for None
    subset: tuple[tuple[str, PositiveShare], ...] = (
        ("spsa", 0.05),
    )  # attacks that get a share of these images
    refresh: CountOrNone = 0  # epochs after which pairs are made anew, 0 to make them once
    as_bytes: bool = False  # keep pairs rounded to 8 bits
    adversarial_epochs: CountOrNone = 10  # of atop, after pix2pix
    adversarial_steps: Count = 10  # of its attack
    until: tuple[PositiveShare, ...] = (0.05, 0.1, 0.15, 0.2)  # times of ddpm to choose from
    steps: Count = 20  # of its way back

    @property
    def sizes(self) -> Sizes:
        """Collect the sizes of the translator's network."""
        return Sizes(self.width, self.depth, self.blocks, self.residual)

    def check(self, prefix: str = "recipe.") -> None:
        """Refuse names that nothing is known of."""
        known = {"attacks": ATTACKS, "subset": ATTACKS, "shifts": (*SHIFTS, *CORRUPTIONS)}
        given = {
            "attacks": self.attacks,
            "subset": tuple(name for name, _ in self.subset),
            "shifts": tuple(name for name, _ in self.shifts),
        }
        for field, names in given.items():
            for name in names:
                if name not in known[field]:
                    raise ValueError(f"--{prefix}{field} has {name!r}, must be of {', '.join(known[field])}")
        named({"pooled": None, **model_names.MODELS}, self.classifier, flag=f"--{prefix}classifier")


# --- train ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a translator and what it works with."""

    dataset: str = "digits"  # embedded, enlarged to 16 x 16 pixels; others by name once prepared
    size: Count | None = None  # pixels a side that other sets are scaled and cut to
    # instead of --size, of large prepared pictures, by name as Res256Crop224: those of --images alone are decoded
    preprocess: str | None = None
    images: ImagesOrAll = None  # of each part, all for None
    # a run folder of classification.train, or a file of PyTorch weights (.pt, .safetensors); one is trained by default
    classifier: str | None = None
    kind: str = (
        "pix2pix"  # of catalog.translators, or module:name of your own function (key, images) -> images
    )
    recipe: Recipe = Recipe()
    evaluation_images: Images = (
        500  # test images in the report, and validation images that choose the time of ddpm
    )
    evaluation_steps: Count = 40  # of the attack in the report
    segment: Count = 100  # updates per compiled loop
    save_every: Count = 5  # segments
    seed: Seed = 0
    out: str = "runs/translator"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse a kind that is neither known nor can be imported, and images of two sizes."""
        named(TRANSLATORS, self.kind, flag="--kind")
        if self.preprocess is not None:
            preprocessing(self.preprocess)
            if self.size is not None:
                raise ValueError(
                    f"--size is {self.size} and --preprocess {self.preprocess}, must be one of them"
                )


TRAIN_MAY_DIFFER = ("out", "data_dir", "segment", "save_every", "evaluation_images", "evaluation_steps")
_MNIST = Recipe(
    classifier="convnet", classifier_epochs=8, encoder="resnet18", encoder_epochs=50, encoder_batch=256, width=64,
    depth=5, critic_width=64, epochs=30, decay=30, eps=0.3, as_bytes=True,
)  # fmt: skip
_SMALL = Recipe(
    classifier="convnet_small", classifier_epochs=6, encoder_images=20000, encoder_epochs=8, depth=5,
    critic_width=16, epochs=1, decay=1, eps=0.3, pairs_of=8000,
)  # fmt: skip
_CIFAR = Recipe(
    classifier="resnet18", classifier_epochs=30, encoder="resnet18", encoder_epochs=200, encoder_batch=512,
    width=64, critic_width=64, critic_layers=2, epochs=50, decay=50, eps=8 / 255, shares=(0.25, 0.5, 1.0),
    as_bytes=True,
)  # fmt: skip
_CIFAR_SMALL = dataclasses.replace(
    _SMALL, classifier="resnet8", classifier_epochs=5, eps=8 / 255, shares=(0.25, 0.5, 1.0), as_bytes=True
)
_LARGE = dataclasses.replace(
    _CIFAR, depth=4, blocks=9, critic_layers=3, batch_size=8, encoder_batch=128, epochs=10, decay=10, eps=4 / 255,
    pairs_of=2000,
)  # fmt: skip
_SMOKE = Recipe(
    classifier_epochs=1, encoder_epochs=1, encoder_batch=16, width=8, critic_width=4, batch_size=16, epochs=1,
    attacks=("fgsm",), shares=(1.0,), pairs_of=32, adversarial_epochs=1, adversarial_steps=1, steps=2,
    until=(0.1, 0.2), blocks=1,
)  # fmt: skip
TRAIN_PRESETS = {
    "digits": TrainConfig(),
    "digits_natural": TrainConfig(recipe=Recipe(shifts=NATURAL)),
    "mnist": TrainConfig(dataset="mnist", recipe=_MNIST),
    "mnist_small": TrainConfig(dataset="mnist", recipe=_SMALL),  # twenty minutes of a small CPU
    "cifar10": TrainConfig(dataset="cifar10", recipe=_CIFAR),
    "cifar10_small": TrainConfig(dataset="cifar10", recipe=_CIFAR_SMALL, out="runs/translator_cifar10_small"),
    # Not all of ImageNet fits into memory; the classifier is trained already.
    "imagenet": TrainConfig(
        dataset="imagenet2012",
        preprocess="Res256Crop224",
        images=5000,
        classifier="data/resnet50.pt",
        kind="pix2pixhd",
        recipe=dataclasses.replace(_LARGE, classifier="resnet50_imagenet"),  # what the file holds
        out="runs/translator_imagenet",
    ),
    "imagenette": TrainConfig(dataset="imagenette/160px-v2", size=160, kind="pix2pixhd", recipe=_LARGE),
    "smoke": TrainConfig(
        images=48, recipe=_SMOKE, evaluation_images=16, evaluation_steps=2, segment=2, save_every=1
    ),
}

# --- evaluate -------------------------------------------------------------------------------------------

GateName = Literal[
    "SSD", "Mahalanobis of f", "nearest neighbours", "max softmax", "energy", "always", "grouped"
]
DISTANCES = ("SSD", "Mahalanobis of f", "nearest neighbours")  # whose unit is the threshold itself
GATE_ATTACKS = ("A2", "A3", "A4")  # attacks on a gate, which there is none of where everything is translated


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Attack a defence with and without knowledge of it."""

    run: str | None = "runs/translator"  # a folder of ood_to_id.train
    function: str | None = None  # module:function that returns a Defence, instead of --run
    source: str | None = None  # a run folder of another training, for attacks that transfer
    dataset: str | None = None  # for --function; that of the run by default
    gate: GateName = "SSD"
    rate: Share = 0.05  # of held-out training images that the gate routes
    eps: PositiveRadius | None = None  # linf; that of the run by default
    images: Images = 1000  # test images
    fit_images: Images = 10000  # training images that detectors are fitted on
    steps: Count = 100
    restarts: Count = 5  # of cross-entropy through the translator and of selective PGD
    targets: CountOrNone = 9  # of targeted DLR
    penalties: tuple[float, ...] = (1.5, 15.0, 150.0)  # on the gate, of A2 and A3
    queries: CountOrNone = 5000  # of Square
    estimates: CountOrNone = 100  # steps of SPSA, 64 queries each
    only: tuple[str, ...] = ()  # attacks to run, by how their names begin: A1, A3, PGD; all by default
    samples: CountOrNone = (
        20  # draws of a random translator in every gradient; 0 for attacks on a fixed draw alone
    )
    chunk_size: Count | None = (
        None  # of these draws at a time, all by default: memory is that of so many images
    )
    averaged_only: tuple[str, ...] = ()  # attacks on the mean of draws; those of --only by default
    averaged_steps: Count | None = None  # of those; --steps by default
    resubmissions: Count = 20
    random: bool = False  # whether the translator of --function, or your own of the run, is
    batch_size: Count = 256
    seed: Seed = 0
    out: str = "runs/translator_evaluated"
    data_dir: str | None = None

    @property
    def exempt(self) -> tuple[str, ...]:
        """List the attacks that make no sense with this gate, by how their names begin."""
        return GATE_ATTACKS if self.gate == "always" else ()

    def check(self) -> None:
        """Refuse what does not say which defence is meant."""
        if (self.run is None) == (self.function is None):
            raise ValueError("--run and --function: give one of them; --run None goes with --function")
        if self.function is not None and (self.dataset is None or self.eps is None):
            raise ValueError("--function needs --dataset and --eps")
        if self.gate == "grouped" and self.run is None:
            raise ValueError("--gate grouped goes with --run: a function has a gate of its own")


EVALUATE_MAY_DIFFER = ("out", "data_dir", "only", "averaged_only", "chunk_size")
EVALUATE_PRESETS = {
    "standard": EvaluateConfig(),
    "digits": EvaluateConfig(queries=1000, estimates=20, targets=3, batch_size=128),
    "cifar10_small": EvaluateConfig(
        run="runs/translator_cifar10_small", images=500, steps=50, restarts=1, targets=3, penalties=(15.0,),
        queries=1000, estimates=20,
    ),
    "smoke": EvaluateConfig(
        images=8, fit_images=64, steps=2, restarts=1, targets=0, queries=1, estimates=0, samples=2, resubmissions=2,
        batch_size=8, only=("PGD", "A1"),
    ),
}  # fmt: skip

# --- defence --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DefenceConfig:
    """Train the defence, attack it with and without knowledge of it, and say what is left."""

    seeds: Annotated[int, Ge(2)] = 2  # each is attacked by copies of another
    recipe: Recipe = Recipe()
    robust_epochs: Count = 40  # of the classifier trained against PGD
    images: ImagesOrAll = None  # test images, all for None
    steps: Count = 100  # of attacks along gradients
    restarts: Count = (
        2  # of cross-entropy through the translator and of selective PGD; other losses start once
    )
    targets: CountOrNone = 1  # of targeted DLR
    queries: CountOrNone = 500  # of Square
    estimates: CountOrNone = 5  # steps of SPSA, 64 queries each
    only: tuple[str, ...] = ()  # attacks to run, by how their names begin: A1, A3, PGD; all by default
    radii: tuple[Radius, ...] = (0.05, 0.1, 0.5, 1.0)  # of the sweep, beside recipe.eps
    sweep_images: Images = 180  # test images of the sweep, and of the attack on another gate
    batch_size: Count = 128
    out: str = "runs/translation"

    def check(self) -> None:
        """Require the radius that shows whether attacks work."""
        if 1.0 not in self.radii:
            raise ValueError(
                f"--radii is {self.radii}, must hold 1: attacks that leave accuracy there do not work"
            )


DEFENCE_MAY_DIFFER = ("out",)
DEFENCE_PRESETS = {
    "digits": DefenceConfig(),
    "smoke": DefenceConfig(
        recipe=Recipe(
            classifier_epochs=1, encoder_epochs=1, encoder_batch=64, width=4, critic_width=4, epochs=1, batch_size=64,
            attacks=("fgsm",), shares=(1.0,), pairs_of=64,
        ),
        robust_epochs=1, images=12, steps=4, restarts=1, targets=0, queries=2, estimates=0, radii=(1.0,), batch_size=12,
        only=("PGD", "A1"),
    ),
}  # fmt: skip

# --- compare --------------------------------------------------------------------------------------------

OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "pix2pixhd": {"width": 8, "blocks": 3, "critic_width": 8, "epochs": 6},
    "dae": {"epochs": 24},
    "ddpm": {"width": 8, "epochs": 150, "steps": 5, "until": (0.1, 0.2, 0.3, 0.4, 0.5)},
    "atop": {"epochs": 6, "adversarial_epochs": 15},
}  # what a kind has instead of what the recipe says


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Train and attack translators of all kinds."""

    kinds: tuple[str, ...] = KINDS
    dataset: str = "digits"
    recipe: Recipe = Recipe()  # of all kinds, but for `OWN_SETTINGS`
    gates: tuple[GateName, ...] = ("SSD", "always")
    images: Images = 200  # test images
    steps: Count = 100  # of attacks along gradients
    restarts: Count = 1  # of cross-entropy through the translator and of selective PGD
    targets: CountOrNone = 1  # of targeted DLR
    penalties: tuple[float, ...] = (15.0,)  # on the gate
    queries: CountOrNone = 300  # of Square
    estimates: CountOrNone = 0  # steps of SPSA
    samples: CountOrNone = 20  # draws of ddpm in every gradient, where no gate can be bypassed
    averaged_steps: Count = 10  # along such gradients
    resubmissions: Count = 20
    batch_size: Count = 100
    seed: Seed = 0
    out: str = "runs/translators"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse nothing to compare, unknown kinds, and the gate that is no defence."""
        for kind in self.kinds:
            named(TRANSLATORS, kind, flag="--kinds")
        if "grouped" in self.gates:
            raise ValueError("--gates has 'grouped', which is for comparison only: see ood_to_id.evaluate")
        if not self.kinds or not self.gates:
            raise ValueError("--kinds and --gates: give at least one of each")

    def recipe_of(self, kind: str) -> Recipe:
        """Say how a kind is trained; what was given on the command line holds for all kinds."""
        default = Recipe()
        own = {
            name: value
            for name, value in OWN_SETTINGS.get(kind, {}).items()
            if getattr(self.recipe, name) == getattr(default, name)
        }
        return dataclasses.replace(self.recipe, **own)

    def training(self, kind: str) -> TrainConfig:
        """Write the settings that a kind is trained with."""
        return TrainConfig(
            dataset=self.dataset, kind=kind, recipe=self.recipe_of(kind), evaluation_images=self.images,
            seed=self.seed, out=f"{self.out}/{folder_name(kind)}", data_dir=self.data_dir,
        )  # fmt: skip

    def evaluation(self, kind: str, gate: GateName) -> EvaluateConfig:
        """Write the settings that a kind is attacked with: by the mean of draws only where no gate can be bypassed."""
        always = gate == "always"
        # Searches end when all of a batch is misclassified, and those through many draws are expensive.
        batch_size = min(self.batch_size, 40) if kind == "ddpm" and always else self.batch_size
        return EvaluateConfig(
            run=f"{self.out}/{folder_name(kind)}", gate=gate, images=self.images, steps=self.steps,
            restarts=self.restarts, targets=self.targets, penalties=self.penalties, queries=self.queries,
            estimates=self.estimates, samples=self.samples if always else 0, averaged_only=("A1",),
            averaged_steps=self.averaged_steps, resubmissions=self.resubmissions, batch_size=batch_size,
            seed=self.seed, data_dir=self.data_dir, only=("FGSM", "PGD", "APGD", "A1", "A2", "A3", "A4", "A5", "A7"),
            out=f"{self.out}/{folder_name(kind, gate)}",
        )  # fmt: skip


def folder_name(*words: str) -> str:
    """Name a folder inside a run by a kind, or a kind and a gate."""
    return "_".join(words).replace(" ", "_").replace(":", "_")


COMPARE_MAY_DIFFER = ("out", "data_dir", "kinds", "gates")
COMPARE_PRESETS = {
    "digits": CompareConfig(),
    "smoke": CompareConfig(
        kinds=("dae",), gates=("always",), recipe=_SMOKE, images=8, steps=2, targets=0, queries=1, samples=2,
        averaged_steps=2, resubmissions=2, batch_size=8,
    ),
}  # fmt: skip

# --- leave one out --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LeaveOneOutConfig:
    """Train on all attacks but some, and test on those."""

    dataset: str = "digits"
    recipe: Recipe = Recipe(attacks=("fgsm", "bim", "pgd", "cw", "spsa"), epochs=4)
    groups: tuple[str, ...] = (
        "fgsm",
        "bim pgd",
        "cw",
        "spsa",
    )  # left out together: bim is pgd without a draw
    images: ImagesOrAll = None  # test images, all for None
    seed: Seed = 0
    out: str = "runs/translator_left_out"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse groups of attacks that are not there, or that leave none."""
        for group in self.groups:
            if unknown := set(group.split()) - set(self.recipe.attacks):
                raise ValueError(f"--groups has {', '.join(unknown)}, must be of --recipe.attacks")
            if set(group.split()) == set(self.recipe.attacks):
                raise ValueError(f"--groups has {group!r}, which leaves no attack to train on")


LEAVE_ONE_OUT_MAY_DIFFER = ("out", "data_dir")
LEAVE_ONE_OUT_PRESETS = {
    "digits": LeaveOneOutConfig(),
    "smoke": LeaveOneOutConfig(
        recipe=Recipe(
            classifier_epochs=1, width=4, critic_width=4, epochs=1, batch_size=32, attacks=("fgsm", "bim"),
            shares=(1.0,), pairs_of=32, subset=(("bim", 0.5),),
        ),
        groups=("fgsm",), images=8,
    ),
}  # fmt: skip
