"""Settings of tradeoffs.benchmark: which networks, where the benchmarks lie, and the presets."""

import dataclasses
from typing import Literal

from experiments.shared.fields import Count, CountOrNone, Positive, PositiveRadius, Seed, Share
from experiments.tradeoffs.benchmark_networks import GRID, STANDARD, entry

RIVAL10_LINF = tuple(x / 255 for x in (30, 60, 90, 120, 150, 180, 210))
RIVAL10_L2 = tuple(float(x) for x in range(25, 201, 25))


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Measure networks on benchmarks of backgrounds; a benchmark is run if its folder is named."""

    # Each is a run folder of classification.train, package.module:name of a function, a file of PyTorch weights, or a
    # name of the grid such as resnet50_l2_eps3, whose file lies in --zoo. @l2:3 or @linf:4/255 behind it says what it
    # was trained against, @clean that it was trained on clean images; NAME= before it what to call it: the name of an
    # entry of RobustBench's model zoo also says its architecture and constants.
    networks: tuple[str, ...] = ()
    zoo: str = "data/robust_imagenet"  # holds NAME.ckpt of every name of the grid
    classes: Count = 1000  # of weights in files
    planted: bool = True  # digits on textures, embedded, with a head fitted to each network
    # a prepared data set whose pictures are laid on textures, with a head fitted to each network, such as cifar10
    pictures: str | None = None
    textures: str = "dtd"  # the prepared data set of these textures, with as many classes or more
    imagenet9: str | None = None  # folder of original/, mixed_same/ ... of the backgrounds challenge
    imagenet9_map: str | None = None  # in_to_in9.json; by default in that folder
    waterbirds: str | None = None  # waterbird_complete95_forest2water2, or CUB_200_2011 with --places
    places: str | None = None  # Places365's data_large: make Waterbirds anew of it and CUB
    segmentations: str | None = None  # CUB's; by default in the folder of CUB
    correlation: Share = 0.95  # of bird and place in training, where Waterbirds is made anew
    rival10: str | None = None  # folder of train/ and test/
    salient: str | None = None  # salient_imagenet_dataset
    salient_answers: str | None = (
        None  # discover_spurious_features.csv; by default in the folder of the data set
    )
    objectnet: str | None = None  # objectnet-1.0
    imagenet: str | None = None  # ImageNet's validation images, a folder for each class: for ObjectNet's drop
    size: Count = 224  # pixels a side
    images: Count | None = None  # of each set, evenly spread; all by default
    batch_size: Count = 128
    # How heads are fitted to frozen activations: logistic regression to convergence, or Adam as RIVAL10's authors do.
    head: Literal["converged", "rival10"] = "converged"
    strength: Positive = 1.0  # C of the converged heads
    sigma: tuple[PositiveRadius, ...] = RIVAL10_LINF  # standard deviations of the noise on RIVAL10
    l2: tuple[PositiveRadius, ...] = RIVAL10_L2  # l2 norms of the noise on RIVAL10, for images of 224 x 224
    salient_sigma: PositiveRadius = 0.25
    grown: CountOrNone = (
        0  # dilations of Salient ImageNet's core masks; 15 for the region of Salient ImageNet-1M
    )
    trials: Count = 1  # draws of the noise
    resamples: Count = 1000  # of the bootstrap
    seed: Seed = 0
    out: str = "runs/tradeoffs_benchmark"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse networks that are not described, and folders that lack another."""
        if not self.networks:
            raise ValueError(
                "--networks is empty, must name at least one: a run folder, file or package.module:name"
            )
        names = [entry(words, self.zoo).name for words in self.networks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"--networks has {twice[0]} twice, must have each name once; write NAME=... before one"
            )
        if not self.benchmarks():
            raise ValueError("no benchmark is named, must be at least one, such as --imagenet9 FOLDER")
        if self.images is not None and self.images < 4:
            raise ValueError(f"--images is {self.images}, must be at least 4")
        for name, needs in (("places", "waterbirds"), ("imagenet", "objectnet"), ("salient_answers", "salient"),
                            ("imagenet9_map", "imagenet9")):  # fmt: skip
            if getattr(self, name) and not getattr(self, needs):
                raise ValueError(f"--{name.replace('_', '-')} is given, must come with --{needs}")

    def benchmarks(self) -> list[str]:
        """Name the benchmarks to run, in the order of the report."""
        known = ("imagenet9", "rival10", "salient", "waterbirds", "objectnet")
        return [name for name in (*known, "pictures", "planted") if getattr(self, name)]


PAPER = BenchmarkConfig(
    networks=(*STANDARD, *GRID),
    planted=False,
    imagenet9="data/backgrounds_challenge",
    waterbirds="data/waterbird_complete95_forest2water2",
    rival10="data/rival10",
    salient="data/salient_imagenet_dataset",
    objectnet="data/objectnet-1.0",
    imagenet="data/imagenet",
    out="runs/tradeoffs_imagenet",
)
BENCHMARK_PRESETS = {
    "digits": BenchmarkConfig(size=32),
    "cifar10": BenchmarkConfig(
        planted=False,
        pictures="cifar10",
        size=32,
        classes=10,
        sigma=(0.1, 0.2, 0.4),
        l2=(7.0, 14.0, 28.0),
        images=2000,
    ),
    "imagenet": dataclasses.replace(PAPER, networks=()),
    "paper": PAPER,
    "smoke": BenchmarkConfig(
        networks=("random=experiments.tradeoffs.random_network:network@clean",),
        size=16,
        images=24,
        batch_size=8,
        sigma=(0.25,),
        l2=(1.0,),
        resamples=10,
    ),
}
# Networks and benchmarks may join a folder later: each pair has a file of its own, which says what it was measured on.
BENCHMARK_MAY_DIFFER = (
    *(
        "out",
        "networks",
        "zoo",
        "data_dir",
        "planted",
        "pictures",
        "textures",
        "imagenet9",
        "imagenet9_map",
        "waterbirds",
        "places",
    ),
    *("segmentations", "rival10", "salient", "salient_answers", "objectnet", "imagenet", "batch_size"),
    *("resamples", "classes"),
)
