"""Settings of the tradeoffs scripts: what is trained, how it is measured, and the presets."""

import dataclasses
from typing import Annotated, Literal, NamedTuple, get_args

from annotated_types import Ge, Interval

from experiments.shared.fields import (
    Count,
    OpenShare,
    Positive,
    PositiveRadius,
    Seed,
    Share,
    fraction,
)
from experiments.shared.network_source import NormalisedBy, Source
from experiments.shared.settings import PGD
from robustjax.data import planted
from robustjax.numerics import Norm

TrainingNorm = Literal["l2", "linf"]


class Background(NamedTuple):
    """A background of the digits: amplitude of the texture and standard deviation of the pixel noise, around 1/2."""

    scale: float
    noise: float


HIGH_CONTRAST, LOW_CONTRAST = Background(0.25, 0.08), Background(0.08, 0.05)


class Setting(NamedTuple):
    """What one group of networks is trained on and how, all seeds at once; training on clean images has eps 0."""

    task: Literal["multi", "binary"]
    background: Background
    correlation: float  # of background and class in training
    method: Literal["erm", "group_dro", "jtt"] = "erm"
    norm: TrainingNorm = "l2"
    eps: float = 0.0

    @property
    def name(self) -> str:
        """Name the file of the setting."""
        training = f"{self.norm}_{self.eps:.5g}" if self.eps else "clean"
        return f"{self.task}_background{self.background.scale:g}_rho{self.correlation:g}_{self.method}_{training}"

    @property
    def classes(self) -> int:
        """Count the classes."""
        return 10 if self.task == "multi" else 2


class Checkpoint(NamedTuple):
    """PyTorch weights, and the threat that they were trained against; eps is 0 for training on clean images."""

    source: Source
    norm: TrainingNorm
    eps: float


def checkpoint(words: str) -> Checkpoint:
    """Read file:architecture:dataset:normalisation:norm:eps.

    Raises:
      ValueError: if it is written otherwise.
    """
    known: dict[str, NormalisedBy] = {name: name for name in get_args(NormalisedBy)}
    parts = words.rsplit(":", 5)
    file, architecture, dataset, constants, norm, eps = parts if len(parts) == 6 else [""] * 6
    try:
        radius = fraction([eps])
    except ValueError:
        radius = -1.0
    if not radius >= 0 or norm not in ("l2", "linf") or constants not in known:
        raise ValueError(
            f"--checkpoints has {words!r}, must be file:architecture:dataset:normalisation:norm:eps, normalisation "
            f"of {', '.join(known)} and norm l2 or linf, as net.pt:resnet18:cifar10:none:linf:8/255"
        )
    source = Source(
        checkpoint=file, architecture=architecture, dataset=dataset, normalisation=known[constants]
    )
    return Checkpoint(source, norm, radius)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Train over norms, radii, correlations and seeds, and measure what the networks rely on."""

    l2: tuple[PositiveRadius, ...] = (0.3, 0.6)  # radii of training; training on clean images comes on top
    linf: tuple[PositiveRadius, ...] = (4 / 255, 8 / 255)
    correlation: Share = 0.8  # of background and class in training, for the radii
    correlations: tuple[Share, ...] = (0.1, 0.5, 0.95, 1.0)  # further ones, at --radius
    radius: PositiveRadius = 0.3  # l2, for the correlations
    groups: bool = True  # also two classes, with Group DRO, Just Train Twice and refitted last layers
    seeds: Count = 3
    images: Count = 3000  # for training; a third more for the two classes
    test: Count = 1200
    epochs: Count = 15
    batch_size: Count = 128
    rate: Positive = 2e-3  # of AdamW, at the peak of a cosine cycle
    steps: Count = 4  # of the training attack, each of 2.5 eps / steps
    evaluation: PGD = PGD(norm="l2", eps=0.3, steps=10, step=0.25)  # the attack on test images
    size: Count = 16  # pixels a side
    digit: Count = 12  # pixels a side of the digit
    dataset: str = "digits"  # or another set of grey digits by name, such as mnist
    resamples: Count = 500  # of the bootstrap
    runs: tuple[str, ...] = ()  # run folders of classification.train, to be measured instead
    checkpoints: tuple[str, ...] = ()  # file:architecture:dataset:normalisation:norm:eps, measured instead
    out: str = "runs/tradeoffs"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse digits that do not fit, and checkpoints that are not described."""
        if self.digit > self.size:
            raise ValueError(
                f"--digit is {self.digit}, must be at most the {self.size} pixels of an image (--size)"
            )
        for words in self.checkpoints:
            checkpoint(words)

    def recipe(self, setting: Setting) -> planted.Recipe:
        """Say how the images of a setting are made."""
        return planted.Recipe(
            size=self.size,
            digit=self.digit,
            task=setting.task,
            correlation=setting.correlation,
            spurious_scale=setting.background.scale,
            noise=setting.background.noise,
        )

    def grid(self) -> list[Setting]:
        """List what to train, each setting once."""
        trained: list[tuple[TrainingNorm, float]] = [
            ("l2", 0.0),
            *(("l2", eps) for eps in self.l2),
            *(("linf", eps) for eps in self.linf),
        ]
        settings = [
            Setting("multi", background, self.correlation, norm=norm, eps=eps)
            for background in (HIGH_CONTRAST, LOW_CONTRAST)
            for norm, eps in trained
        ]
        for correlation in (*self.correlations, self.correlation):
            settings += [Setting("multi", HIGH_CONTRAST, correlation, eps=eps) for eps in (0.0, self.radius)]
        if self.groups:
            two, most = Setting("binary", LOW_CONTRAST, 0.95), max(self.l2, default=self.radius)
            settings += [
                two._replace(norm=norm, eps=eps)
                for norm, eps in trained
                if norm == "l2" or eps == max(self.linf)
            ]
            settings += [two._replace(method="group_dro", eps=eps) for eps in (0.0, most)]
            settings += [two._replace(method="jtt", eps=eps) for eps in (0.0, most)]
        return list(dict.fromkeys(settings))


COMPARE_PRESETS = {
    "digits": CompareConfig(),
    "smoke": CompareConfig(
        l2=(0.3,),
        linf=(),
        correlations=(0.1,),
        seeds=2,
        images=60,
        test=24,
        epochs=1,
        batch_size=32,
        steps=1,
        evaluation=PGD(norm="l2", eps=0.3, steps=1, step=1.0),
        groups=False,
        resamples=10,
    ),
}
# More radii or correlations may join a folder later: every setting has a file of its own.
COMPARE_MAY_DIFFER = (
    *("out", "data_dir", "l2", "linf", "correlations"),
    *("groups", "resamples", "runs", "checkpoints"),
)

# What the figures and tables of the theory show. The core feature has scale 1.
NORMS: tuple[Norm, ...] = ("l1", "l2", "linf")
SCALES = (0.5, 1.0, 2.0)  # of the spurious feature
LARGE_SCALE = 2.0  # of the spurious feature, in the figures on shift and benefit
ANCHOR_EPS = 0.5  # radius of the tables, and of the figure on benefit
CORRELATIONS_AT_TEST = {1.0: "kept", 0.5: "halved", 0.0: "broken", -1.0: "reversed"}  # as shares of rho
PHASE_EPS = 0.3

AtLeastTwo = Annotated[int, Ge(2)]
Noise = Annotated[float, Interval(gt=0, le=1)]  # with more the radii of the tables would end all prediction


@dataclasses.dataclass(frozen=True)
class TheoryConfig:
    """Solve the theory and draw it. The core feature has scale 1 and coefficient 1."""

    rho: OpenShare = 0.8  # correlation of the core and the spurious feature
    sigma: Noise = 0.5  # standard deviation of the noise of the target
    eps: Positive = 1.0  # largest radius of the curves, in the units of the features
    radii: AtLeastTwo = 81  # points of a curve
    grid: AtLeastTwo = 41  # points along each side of a map
    trained: tuple[Positive, ...] = (0.25, 0.75)  # radii at which a model is also trained against PGD
    examples: Annotated[int, Ge(10)] = 4000  # of such a training
    updates: Count = 400
    steps: Count = 4  # of PGD
    seed: Seed = 0
    out: str = "runs/tradeoffs_theory"


THEORY_PRESETS = {
    "figures": TheoryConfig(),
    "smoke": TheoryConfig(radii=5, grid=4, trained=(0.5,), examples=1000, updates=150, steps=3),
}
