"""Settings and presets of the benchmarks."""

import dataclasses
from typing import Literal

import tyro

from experiments.shared import network_source
from experiments.shared.fields import (
    Count,
    CountOrNone,
    ImagesOrAll,
    NonNegative,
    OpenShare,
    Positive,
    PositiveRadius,
    Seed,
)

# --- attack ---

AttackName = Literal["standard", "pgd", "detector"]


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """Measure attacks."""

    runs: tuple[str, ...] = ()  # folders of classification.train
    eps: tuple[PositiveRadius, ...] = ()  # linf radius for each
    images: tuple[Count, ...] = ()  # first test images for each, classified correctly or not
    batch_size: Count = 512
    steps: Count = 100  # of APGD, APGD-T and FAB-T
    queries: Count = 5000  # of Square
    pgd_steps: Count = 40
    targets: Count = 9
    repeats: Count = 1  # turns of every contender
    attacks: tuple[AttackName, ...] = ("standard", "pgd")
    # passes of searches for the nearest adversarial point, instead of attacks; 0 for none
    nearest: CountOrNone = 0
    norms: tuple[Literal["linf", "l2", "l1"], ...] = ("linf", "l2", "l1")  # of these searches
    seed: Seed = 0  # of these searches
    peers: bool = True  # also measure torchattacks and foolbox, if they are installed
    data_dir: str | None = None
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        if not self.runs:
            raise ValueError("--runs is missing, must name one or more folders of classification.train")
        if not len(self.runs) == len(self.eps) == len(self.images):
            raise ValueError(
                f"--runs, --eps and --images have {len(self.runs)}, {len(self.eps)} and {len(self.images)} values, "
                "must have as many"
            )


ATTACK_PRESETS = {
    "cpu": AttackConfig(),
    "full": AttackConfig(batch_size=1024, repeats=3),
    "smoke": AttackConfig(
        eps=(0.1,), images=(20,), steps=3, queries=10, pgd_steps=3, targets=2, batch_size=32
    ),
}


# --- fast ---


@dataclasses.dataclass(frozen=True)
class FastConfig:
    """Measure the fast suite beside standard."""

    source: network_source.Source = network_source.Source()
    norm: Literal["linf", "l2"] = "linf"
    eps: PositiveRadius = 0.3  # of images in [0, 1]
    images: ImagesOrAll = 1000  # test images, classified correctly or not; None for all
    suites: tuple[Literal["standard", "fast"], ...] = (
        "standard",
        "fast",
    )  # which run with each seed, in turns
    seeds: Count = 1
    batch_size: Count = 512
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        self.source.require()
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"--eps is {self.eps:g}, must be at most 1 for images in [0, 1]; write 8/255")
        if "standard" not in self.suites:
            raise ValueError(f"--suites are {' '.join(self.suites) or 'none'}, must have standard among them")


FAST_PRESETS = {
    "cpu": FastConfig(),
    "smoke": FastConfig(images=20, batch_size=32),
}


# --- white_box ---


@dataclasses.dataclass(frozen=True)
class WhiteBoxConfig:
    """Measure attacks with gradients, of as many passes."""

    source: network_source.Source = network_source.Source()
    norm: Literal["linf", "l2"] = "linf"
    eps: PositiveRadius = 0.3  # of images in [0, 1]
    images: ImagesOrAll = None  # test images, classified correctly or not; None for all
    runs: Count = 10  # of each contender
    gradients: Count = 20  # of each run, at least 4
    batch_size: Count = 64
    seed: Seed = 0
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        self.source.require()
        if self.gradients < 4:
            raise ValueError(
                f"--gradients is {self.gradients}, must be at least 4: two stages of a step or more"
            )


WHITE_BOX_PRESETS = {
    "cpu": WhiteBoxConfig(),
    "smoke": WhiteBoxConfig(eps=0.1, images=20, runs=2, gradients=4, batch_size=16),
}


# --- queries ---


@dataclasses.dataclass(frozen=True)
class QueriesConfig:
    """Measure attacks without gradients."""

    run: str = ""  # a folder of classification.train
    norms: tuple[Literal["linf", "l2"], ...] = ("linf", "l2")
    eps: tuple[PositiveRadius, ...] = (0.3, 2.0)  # a radius in each norm, for the share that is broken
    queries: tuple[Count, ...] = (500, 1000, 2000, 5000)  # rising
    gradients: Count = 500  # of FMN, to compare with
    images: Count = 100  # test images, of which those classified correctly are attacked
    peers: bool = True  # also measure foolbox, if it is installed
    seed: Seed = 0
    data_dir: str | None = None
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        if not self.run:
            raise ValueError("--run is missing, must name a folder of classification.train")
        if len(self.eps) != len(self.norms):
            raise ValueError(
                f"--eps has {len(self.eps)} values, must have {len(self.norms)}, one for each norm"
            )
        if sorted(set(self.queries)) != list(self.queries):
            raise ValueError(f"--queries are {' '.join(map(str, self.queries))}, must rise")


QUERIES_PRESETS = {
    "cpu": QueriesConfig(),
    "smoke": QueriesConfig(queries=(5, 12), images=8, gradients=3),
}

# --- train ---

Network = Literal["convnet", "convnet_small", "resnet18", "wideresnet28_10"]
Method = Literal["pgd", "ratio", "aloe"]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Measure adversarial training."""

    networks: tuple[Network, ...] = ("convnet", "resnet18")
    batch_size: tuple[Count, ...] = (128, 32)  # ID images, one number for each network
    scales: tuple[Count, ...] = (1,)  # multiples of it to measure
    methods: tuple[Method, ...] = ("pgd",)
    dtypes: tuple[Dtype, ...] = ("float32",)  # what our network computes in; AMP on the other side
    steps: Count = 10  # of the attack; ALOE has its own two
    repeats: Count = 5  # turns of every contender
    updates: Count = 1  # training steps in a turn
    remat: bool = False  # recompute residual blocks in our backward pass
    unrolled: bool = True  # also measure the attack without a loop
    torch: bool = True  # also measure PyTorch, if it is installed
    compiled: bool = False  # also torch.compile
    peak: Count = 2048  # side of the matrix product that measures the peak
    profile: CountOrNone = 0  # operations to list of one turn of ours, by the time they take
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        if len(self.batch_size) != len(self.networks):
            raise ValueError(
                f"--batch-size has {len(self.batch_size)} numbers, must have {len(self.networks)}"
            )


TRAIN_PRESETS = {
    "cpu": TrainConfig(),
    "full": TrainConfig(
        networks=("convnet", "resnet18", "wideresnet28_10"),
        batch_size=(1024, 256, 64),
        scales=(1, 2, 4),
        methods=("pgd", "ratio", "aloe"),
        dtypes=("bfloat16", "float32"),
        unrolled=False,
        compiled=True,
        updates=5,
        peak=8192,
    ),
    "smoke": TrainConfig(
        networks=("convnet_small",),
        batch_size=(4,),
        methods=("pgd", "ratio", "aloe"),
        steps=2,
        repeats=1,
        peak=64,
        unrolled=False,
        profile=3,
    ),
}


# --- certify ---

SHAPES = {"convnet_small": (28, 28, 1), "convnet": (28, 28, 1), "resnet18": (32, 32, 3)}


@dataclasses.dataclass(frozen=True)
class CertifyConfig:
    """Measure certificates."""

    networks: tuple[Literal["convnet_small", "convnet", "resnet18"], ...] = (
        "convnet_small",
    )  # of random weights
    run: str | None = None  # a folder of classification.train, whose network is certified on its test images
    images: Count = 100
    peer_images: CountOrNone = 10  # of them, how many PyTorch certifies too; 0 for none
    sigma: Positive = 0.25  # standard deviation of the noise, in units of images in [0, 1]
    selection_samples: Count = 100  # of noise, to choose the class
    samples: Count = 100_000  # of noise, to bound its probability
    alpha: OpenShare = 0.001  # chance that a certificate is wrong
    batch_size: Count = 100  # samples per forward pass
    dtype: Dtype = "float32"  # what the networks compute in; AMP on the other side
    compiled: bool = False  # also measure torch.compile
    radii: tuple[NonNegative, ...] = (0.0, 0.25, 0.5, 0.75)  # l2, for the accuracy of a trained network
    seed: Seed = 0
    data_dir: str | None = None
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Validate what several fields say together."""
        if self.peer_images > self.images:
            raise ValueError(f"--peer-images is {self.peer_images}, must be in [0, {self.images}]")


CERTIFY_PRESETS = {
    "mnist": CertifyConfig(),
    "cifar10": CertifyConfig(networks=("resnet18",), images=4, peer_images=2, samples=2000, batch_size=100),
    "full": CertifyConfig(
        networks=("convnet_small", "resnet18"), batch_size=2000, dtype="bfloat16", compiled=True
    ),
    "smoke": CertifyConfig(images=2, peer_images=1, selection_samples=8, samples=16, batch_size=8),
}


# --- torch_adapter ---

TorchNetwork = Literal["convnet_small", "resnet18"]


@dataclasses.dataclass(frozen=True)
class TorchAdapterConfig:
    """Measure from_torch."""

    networks: tuple[TorchNetwork, ...] = ("convnet_small", "resnet18")
    batch_size: tuple[Count, ...] = (1, 32, 256)
    steps: Count = 10  # gradient steps in the loop
    turns: Count = 5  # of each side; numbers are medians
    clock: Literal["wall", "cpu"] = "wall"  # "cpu": CPU time of the process, for a busy machine
    seed: int = 0
    out: str | None = None  # a file to append one line of JSON to


TORCH_ADAPTER_PRESETS = {
    "cpu": TorchAdapterConfig(),
    "smoke": TorchAdapterConfig(networks=("convnet_small",), batch_size=(2,), steps=2, turns=1),
}


# --- robustbench ---


@dataclasses.dataclass(frozen=True)
class RobustBenchConfig:
    """Compare networks with those of RobustBench."""

    out: str = (
        "runs/robustbench.jsonl"  # one line for each entry; those that are there are not measured again
    )
    only: tuple[str, ...] = ()  # names of entries; all by default
    page: str | None = None  # file of Markdown to write, with a line for each entry
    images: Count = 2  # random ones, on which logits are compared
    seed: Seed = 0  # of weights and images


ROBUSTBENCH_PRESETS = {
    "full": RobustBenchConfig(),
    "smoke": RobustBenchConfig(out="runs/robustbench_smoke.jsonl", only=("Salman2020Do_R18",)),
}


# --- reading ---


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """Measure how fast pictures are decoded."""

    dataset: str = "imagenet2012"  # of pictures that are decoded while needed
    size: Count = 224  # pixels a side
    batch_size: Count = 256
    batches: Count = 8  # to measure, for each number of workers
    workers: tuple[CountOrNone, ...] = ()  # processes, in turns; by default one for each core but one
    augment: tuple[str, ...] = (
        "resized_crop",
    )  # of which only a first resized_crop is done where pictures are decoded
    plan: str | None = None  # plan.jsonl of benchmarks.plan: what chips ask for
    seed: Seed = 0
    data_dir: str | None = None
    out: str | None = None  # a file to append one line of JSON to


READING_PRESETS = {
    "imagenet": ReadingConfig(),
    "smoke": ReadingConfig(size=16, batch_size=8, batches=1, workers=(0,)),
}


# --- first_gpu_run ---


@dataclasses.dataclass(frozen=True)
class FirstGpuRunConfig:
    """What is measured in the first minutes on a GPU."""

    data: str = (
        "cifar10.npz"  # x_train, y_train, x_test, y_test: bytes (n, h, w, c) and labels, carried along
    )
    bounds: str | None = None  # plan.jsonl of benchmarks.plan for this chip, carried along
    seconds: Count = 540  # no part begins that is not expected to end within them
    networks: tuple[str, ...] = (
        "resnet18",
        "wideresnet28_10",
    )  # of catalog.models; the first is attacked and trained
    batch_sizes: tuple[Count, ...] = (128, 256, 512)
    dtype: Dtype = "bfloat16"
    eps: PositiveRadius = 8 / 255  # linf
    steps: Count = 10  # of PGD in a training step
    updates: Count = 10  # training steps in a turn
    turns: Count = 3
    iterations: Count = 20  # of each attack of AutoAttack, on the largest batch
    samples: Count = 10_000  # of noise in a certificate
    chunk_size: Count = 2000  # samples at once
    sigma: Positive = 0.25  # of the noise
    certificates: Count = 4  # images
    epochs: Count = 10  # of N-FGSM with a moving average of the weights
    rate: Positive = 0.2  # at its peak
    images: Count = 1000  # test images to attack at the end, by PGD-20
    peak: Count = 8192  # side of the matrices whose product measures the peak
    seed: Seed = 0
    out: str = "runs/first_gpu_run"  # lines.jsonl, a line for each part; what is there is not measured again


FIRST_GPU_RUN_PRESETS = {
    "full": FirstGpuRunConfig(),
    "smoke": FirstGpuRunConfig(
        networks=("convnet_small",),
        batch_sizes=(4, 8),
        dtype="float32",
        steps=1,
        updates=1,
        turns=1,
        iterations=2,
        samples=16,
        chunk_size=8,
        certificates=1,
        epochs=1,
        images=8,
        peak=64,
    ),
}


# --- plan ---


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Plan a run."""

    script: tyro.conf.Positional[str]  # such as classification.train
    preset: tyro.conf.Positional[str]  # of the script
    topology: tuple[str, ...] = (
        "v5e:1x1",
    )  # chips and how they are wired, such as v5e:2x4, v5p:2x2x1, h100:8
    batch_size: Count | None = None  # over all chips; the preset's by default
    settings: tuple[str, ...] = ()  # other fields of the script, as name=value
    shape: tuple[Count, ...] = ()  # of an image, (h, w, c), where the data set is not known here
    classes: CountOrNone = 0  # the same
    options: tuple[str, ...] = ()  # of the compiler, as name=value
    out: str | None = None  # a folder for plan.html and plan.jsonl

    def check(self) -> None:
        """Validate what several fields say together."""
        if len(self.shape) not in (0, 3):
            raise ValueError(f"--shape is {' '.join(map(str, self.shape))}, must be h w c")
        for word in self.options:
            if "=" not in word:
                raise ValueError(f"--options has {word!r}, must be name=value")


# --- paper_costs ---


@dataclasses.dataclass(frozen=True)
class PaperCostsConfig:
    """Bound what the trainings of PAPERS.md cost on one chip."""

    chip: tyro.conf.Positional[Literal["v5e", "v6e"]]  # whose compiler is the extra `plan`
    only: str = ""  # commands that contain this, such as cifar10_aloe; all by default
    redo: bool = False  # compile rows that are known already
    limit: Positive = 3600.0  # seconds for the programs of one row
    page: str = "experiments/PAPERS.md"
    out: str = "experiments/benchmarks/paper_costs.jsonl"


# --- torch_training ---


@dataclasses.dataclass(frozen=True)
class TorchTrainingConfig:
    """Train by N-FGSM in PyTorch for so many CPU minutes."""

    dataset: str = "cifar10"
    model: str = "resnet8"  # of `peers.NETWORKS`
    minutes: Positive = 30.0  # of CPU time, over all threads
    eps: PositiveRadius = 8 / 255  # linf, of training and of the attack
    batch_size: Count = 128
    rate: Positive = 0.2  # at the peak of the cycle
    suite: Literal["standard", "fast"] = "fast"
    images: ImagesOrAll = 1000  # test images to attack
    seed: Seed = 0
    out: str = "runs/torch_training"
    data_dir: str | None = None


TORCH_TRAINING_PRESETS = {
    "cifar10_small": TorchTrainingConfig(),
    "smoke": TorchTrainingConfig(
        dataset="digits", model="convnet_small", minutes=0.01, batch_size=16, images=12
    ),
}
