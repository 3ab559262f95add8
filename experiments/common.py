"""What the scripts share: reading a command line, errors that teach, and building what a config names."""

import dataclasses
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from robustjax import data, optimizers, runtime
from robustjax.analysis import curves
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import augment, autoaugment
from robustjax.models import densenet, normalisation, preact, resnet, resnet_imagenet, small, wideresnet
from robustjax.runtime import grids
from robustjax.threats import Threat
from robustjax.types import Attack, Model, Number, Params, State

Config = TypeVar("Config")


# --- the command line ---------------------------------------------------------------------------------


def fraction(words: list[str]) -> float:
    """Read a number that may be written as 8/255."""
    top, _, bottom = words[0].partition("/")
    if bottom and float(bottom) == 0:
        raise ValueError(f"{words[0]} divides by zero")
    return float(top) / float(bottom) if bottom else float(top)


Fraction = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=fraction,
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:.6g}"],
    ),
]  # a number that may be written as 8/255


def script(main: Callable[[Config], int | None], presets: Mapping[str, Config], doc: str | None) -> None:
    """Run a script: `python script.py [preset] [--field value ...]`, the first preset by default.

    What is wrong with the input ends in one line on stderr and exit code 2, never in a traceback: `PGD` fields
    are checked, and a config may have a method `check` that raises ValueError. (Raised while parsing, it would
    come in a box of several lines.)
    """
    words = sys.argv[1:]
    name = next(iter(presets))
    if words and not words[0].startswith("-"):
        name = words.pop(0)
    program = os.path.basename(sys.argv[0])
    if name not in presets:
        fail(f"{program}: preset is {name!r}, must be one of {', '.join(presets)}")
    about = f"{doc}\n\nPresets, to be named first: {', '.join(presets)} (here: {name})."

    def job() -> int | None:
        preset = presets[name]
        config: Any = tyro.cli(type(preset), default=preset, args=words, prog=program, description=about)
        for field in dataclasses.fields(config):
            if isinstance(value := getattr(config, field.name), PGD):
                value.check(field.name)
        if check := getattr(config, "check", None):
            check()
        return main(config)

    guarded(job)


def guarded(job: Callable[[], int | None]) -> None:
    """Do a job and leave with its exit code; a ValueError becomes one line and exit code 2."""
    try:
        sys.exit(job() or 0)
    except ValueError as error:
        if os.environ.get("ROBUSTJAX_TRACEBACK"):
            raise
        fail(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(line: str) -> None:
    """Say what is wrong in one line and leave with exit code 2."""
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(2)


# --- pieces of a config -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several processes, each started with the same command; found by itself on Slurm, Cloud TPU and Kubernetes."""

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process_id: int | None = None


@dataclasses.dataclass(frozen=True)
class PGD:
    """Projected gradient ascent."""

    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Fraction = 0.1  # radius, in units of images in [0, 1]
    steps: int = 10
    step: Fraction = 0.25  # length of one step, as a share of eps
    restarts: int = 1

    def check(self, name: str) -> None:
        """Refuse what cannot be meant, before anything is built."""
        if not self.eps >= 0:
            raise ValueError(f"--{name}.eps is {self.eps:g}, must be at least 0")
        if self.eps > 1 and self.norm == "linf":
            raise ValueError(
                f"--{name}.eps is {self.eps:g}, must be at most 1 for images in [0, 1]; write 8/255"
            )
        if self.steps < 0:
            raise ValueError(f"--{name}.steps is {self.steps}, must be at least 0")
        if not self.step > 0:
            raise ValueError(f"--{name}.step is {self.step:g}, must be above 0")
        if self.restarts < 1:
            raise ValueError(f"--{name}.restarts is {self.restarts}, must be at least 1")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent or Adam, with a schedule over the whole run."""

    name: Literal["sgd", "adam"] = "sgd"
    rate: float = 0.1  # at its peak, per update
    schedule: Literal["constant", "piecewise", "cosine", "one_cycle"] = "one_cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4


# --- from a config to what it names -------------------------------------------------------------------

MODELS: dict[str, Callable[..., Model]] = {
    "linear": small.linear,
    "mlp": small.mlp,
    "convnet_small": small.convnet_small,
    "convnet": small.convnet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet18_imagenet": resnet_imagenet.resnet18_imagenet,
    "resnet50_imagenet": resnet_imagenet.resnet50_imagenet,
    "preact_resnet18": preact.preact_resnet18,
    "densenet40": lambda **settings: densenet.densenet(depth=40, **settings),
    "densenet100": densenet.densenet,
    "wideresnet40_4": lambda **settings: wideresnet.wideresnet(depth=40, width=4, **settings),
    "wideresnet28_10": lambda **settings: wideresnet.wideresnet(depth=28, width=10, **settings),
    "wideresnet34_10": lambda **settings: wideresnet.wideresnet(depth=34, width=10, **settings),
}
NORMALISATIONS = {
    "cifar10": normalisation.CIFAR10,
    "cifar100": normalisation.CIFAR100,
    "svhn_cropped": normalisation.SVHN,
    "restricted_imagenet": normalisation.RESTRICTED_IMAGENET,
    "imagenet2012": normalisation.IMAGENET,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def classifier(
    name: str,
    *,
    dataset: str,
    classes: int,
    shape: tuple[int, ...],
    dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Build a model by name, normalised as its data set asks; with `remat` where it has blocks to recompute."""
    if name not in MODELS:
        raise ValueError(f"--model is {name!r}, must be one of {', '.join(MODELS)}")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}, must be one of {', '.join(DTYPES)}")
    constants: Any = NORMALISATIONS.get(dataset, {})
    if remat and not name.startswith(("resnet", "wideresnet")):
        raise ValueError(f"--remat is set, must not be with --model {name}, which has no residual blocks")
    kept: Any = {"remat": True} if remat else {}
    return MODELS[name](classes=classes, shape=shape, dtype=DTYPES[dtype], **constants, **kept)


def optimizer(cfg: Optimizer, updates: int):
    """Build the optimiser with its schedule."""
    rate = {
        "constant": lambda: cfg.rate,
        "piecewise": lambda: optimizers.piecewise(cfg.rate, updates),
        "cosine": lambda: optimizers.cosine(cfg.rate, updates),
        "one_cycle": lambda: optimizers.one_cycle(cfg.rate, updates),
    }[cfg.schedule]()
    if cfg.name == "adam":
        return optimizers.adam(rate, weight_decay=cfg.weight_decay)
    return optimizers.sgd(rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)


def augmentation(names: tuple[str, ...], dataset: str = ""):
    """Build the chain of augmentations, or None; what it uncovers is black, or the mean colour of a data set named."""
    mean: Any = NORMALISATIONS.get(dataset, {}).get("mean")
    fill = 0.0 if mean is None else [math.floor(255 * m) / 255 for m in mean]
    known = {
        "crop": lambda: augment.crop(4, fill=fill),
        "flip": augment.flip,
        "cutout": lambda: augment.cutout(8, fill=fill),
        "cutout16": lambda: augment.cutout(16, fill=fill),
        "autoaugment_cifar10": lambda: autoaugment.autoaugment(autoaugment.CIFAR10, fill=fill),
        "autoaugment_svhn": lambda: autoaugment.autoaugment(autoaugment.SVHN, fill=fill),
    }
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--augment has {unknown[0]!r}, must be of {', '.join(known)}")
    return augment.chain(*(known[name]() for name in names)) if names else None


def judges(cfg: PGD, eps: Number) -> Attack:
    """Build the evaluation attack of the PGD family: the worst of PGD on three objectives, each with restarts.

    Cross-entropy alone overrates networks whose gradients vanish when they are sure; the margin and the
    difference of logits ratio do not depend on how sure they are.
    """
    ascent = pgd(Threat(cfg.norm, eps), steps=cfg.steps, step_size=cfg.step * eps)
    repeated = compose.restarts(ascent, cfg.restarts, at_once=1)
    wishes = (objectives.cross_entropy, objectives.margin, objectives.dlr)
    return compose.worst_of(*(compose.against(repeated, wish) for wish in wishes))


def described(cfg: PGD) -> str:
    """Say in words what `judges` runs."""
    return (
        f"PGD in {cfg.norm}, {cfg.steps} steps of {cfg.step:g} eps, {cfg.restarts} random "
        f"start{'s' if cfg.restarts > 1 else ''}, on cross-entropy, margin and DLR; worst case per image"
    )


def distributed(enabled: bool, cluster: Cluster) -> None:
    """Join the other processes, if asked to, before anything touches a device; keep compiled programs."""
    runtime.distributed(enabled, cluster.coordinator, cluster.processes, cluster.process_id)
    runtime.cache_compiled()


class Trained(NamedTuple):
    """A network out of a run folder, with the test images of its data set."""

    config: dict[str, Any]
    model: Model
    params: Params
    state: State
    step: int
    test: data.Split


def trained(folder: str, *, data_dir: str | None = None) -> Trained:
    """Open a run folder of train_classifier.py at its best checkpoint.

    Raises:
      ValueError: if the folder holds no such run, no whole checkpoint, or one of another architecture.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        name, dataset, dtype, loss, ema = (made[key] for key in ("model", "dataset", "dtype", "loss", "ema"))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no run of train_classifier.py ({type(error).__name__}: {error})"
        ) from None
    test = data.load(dataset, "test", data_dir=data_dir or made["data_dir"])
    model = classifier(
        name, dataset=dataset, classes=len(test.info.classes), shape=test.image.shape[1:], dtype=dtype
    )
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = {"network": params} if loss == "free" else params
    like = {"ema": (params, state)} if ema else {"params": params, "state": state}
    with runtime.Checkpoints(path / "checkpoints", best="valid_robust", read_only=True) as saved:
        found = saved.restore_best(like, others=True)
    if found is None:
        raise ValueError(f"{path / 'checkpoints'} has no whole checkpoint yet")
    tree: Any = found[0]
    params, state = tree["ema"] if ema else (tree["params"], tree["state"])
    return Trained(made, model, params["network"] if loss == "free" else params, state, found[1], test)


def first(split, count: int | None):
    """Keep the first `count` examples of a split, all of them for None."""
    if count is None or count >= len(split.label):
        return split
    if count < 1:
        raise ValueError(f"--images is {count}, must be at least 1")
    info = dataclasses.replace(split.info, count=count, note=f"{split.info.note} first {count}".strip())
    return dataclasses.replace(
        split, image=split.image[:count], label=split.label[:count], index=split.index[:count], info=info
    )


def accuracy_rows(curve: curves.Curve) -> list[dict[str, Any]]:
    """Tabulate a curve: radius, accuracy and its 95 % interval, in percent."""
    return [
        {
            "radius": float(eps),
            "accuracy %": 100 * a.value,
            "95 % interval": f"{100 * a.low:.1f} to {100 * a.high:.1f}",
        }
        for eps, a in zip(curve.eps, curve.accuracy(), strict=True)
    ]


def attacked_images(split: data.Split, curve: curves.Curve, *, radius: int = -1, count: int = 8) -> bytes:
    """Draw the first images, what the attack made of them at one radius, and the difference."""
    count = min(count, len(split.label))
    clean = np.asarray(split.image[:count], np.float32) / 255
    names = split.info.classes
    before, after = (curve.logits[i, :count].argmax(axis=1) for i in (0, radius))
    captions = [f"{names[b]} → {names[a]}" for b, a in zip(before, after, strict=True)]
    return grids.attacked(clean, curve.x[radius, :count], captions=captions)
