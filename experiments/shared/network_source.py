"""What the evaluation scripts judge: a run folder, an imported checkpoint, or any function a user names."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax

from experiments.shared import classifiers
from robustjax import data
from robustjax.attacks.adaptive import averaged
from robustjax.data import subsets
from robustjax.models import normalisation, weights
from robustjax.types import Images, Logits, LogitsFn, frozen

CONSTANTS: dict[str, Any] = {
    "cifar10": normalisation.CIFAR10,
    "cifar100": normalisation.CIFAR100,
    "svhn": normalisation.SVHN,
    "none": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "stored": {},
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the network comes from; give one of `run`, `checkpoint` and `function`."""

    run: str | None = None  # folder of a run of classification.train; its best checkpoint is taken
    checkpoint: str | None = None  # file of PyTorch weights, .safetensors or .pt, read without running it
    architecture: str | None = None  # of the checkpoint, such as resnet18 or wideresnet28_10
    entry: str | None = None  # which state dict of a checkpoint that holds several, such as ema
    normalisation: Literal["stored", "none", "cifar10", "cifar100", "svhn"] = "stored"  # of the checkpoint
    function: str | None = (
        None  # package.module:name of a function from images (b, h, w, c) in [0, 1] to logits
    )
    stochastic: bool = False  # the function is (keys, images) -> logits: randomised, with one key per image
    passes: int = (
        20  # passes a randomised function is averaged over in an attack; five times as many to judge
    )
    dataset: str | None = None  # to judge on; a run folder knows its own
    data_dir: str | None = None

    def require(self) -> None:
        """Refuse what does not say which network is meant."""
        given = [name for name in ("run", "checkpoint", "function") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"--source.{', --source.'.join(given) or 'run, .checkpoint and .function'} "
                f"{'are all given' if given else 'are all missing'}, must be one: the network to judge"
            )
        if not self.run and not self.dataset:
            raise ValueError(f"--source.dataset is missing, must be named with --source.{given[0]}")
        if self.checkpoint and not self.architecture:
            raise ValueError(
                f"--source.architecture is missing, must be one of {', '.join(weights.ARCHITECTURES)}"
            )
        if self.stochastic and not self.function:
            raise ValueError("--source.stochastic is given, must come with --source.function")
        if self.passes < 1:
            raise ValueError(f"--source.passes is {self.passes}, must be at least 1")


class Subject(NamedTuple):
    """A network and the images to judge it on.

    Attributes:
      title: what a headline calls it.
      network: (*arguments) -> logits function, which attacks see.
      verdict: the same, but by which outcomes are decided; another function for randomised networks.
      about: what identifies it, as plain data.
    """

    title: str
    network: Callable[..., LogitsFn]
    verdict: Callable[..., LogitsFn]
    arguments: tuple[Any, ...]
    test: data.Split
    about: dict[str, Any]


def opened(source: Source, images: int | None, seed: int) -> Subject:
    """Open what a source names.

    Raises:
      ValueError: in one line, if it is not there, cannot be read or does not fit the data.
    """
    if source.run:
        it = classifiers.trained(source.run, data_dir=source.data_dir)
        network = partial(frozen, it.model)
        about = {
            "run": source.run,
            "model": it.config["model"],
            "loss": it.config["loss"],
            "checkpoint": it.step,
        }
        title = f"{it.config['model']} on {it.config['dataset']}"
        test = subsets.first(it.test, images)
        return Subject(title, network, network, (it.params, it.state), test, about)

    test = subsets.first(data.load(source.dataset or "", "test", data_dir=source.data_dir), images)
    if source.checkpoint:
        found = imported(source, test)
        network = partial(frozen, found.model)
        about = {
            "checkpoint": os.path.basename(source.checkpoint),
            "sha256": found.fingerprint,
            "architecture": source.architecture,
            "mean": found.mean,
            "std": found.std,
        }
        title = f"{source.architecture} of {os.path.basename(source.checkpoint)} on {source.dataset}"
        return Subject(title, network, network, (found.params, found.state), test, about)

    call = _named(source.function or "")
    about, title = {"function": source.function}, f"{source.function} on {source.dataset}"
    if source.stochastic:
        key = jax.random.key(seed)

        def noisy(passes: int, number: int) -> Callable[[], LogitsFn]:
            return lambda: averaged(call, jax.random.fold_in(key, number), passes=passes)

        about |= {"passes": source.passes, "passes of the verdict": 5 * source.passes}
        return Subject(title, noisy(source.passes, 0), noisy(5 * source.passes, 1), (), test, about)

    def logits_fn(x: Images) -> Logits:
        return call(x)

    probe = jax.eval_shape(logits_fn, jax.ShapeDtypeStruct((2, *test.image.shape[1:]), jax.numpy.float32))
    expected = (2, len(test.info.classes))
    if getattr(probe, "shape", None) != expected:
        raise ValueError(
            f"--source.function gives {getattr(probe, 'shape', type(probe).__name__)} for two images, "
            f"must give logits of shape {expected}"
        )
    return Subject(title, lambda: logits_fn, lambda: logits_fn, (), test, about)


def imported(source: Source, test: data.Split) -> weights.Imported:
    """Read the checkpoint of a source, for the classes and images of a data set."""
    return weights.imported(
        source.checkpoint or "",
        architecture=source.architecture or "",
        classes=len(test.info.classes),
        shape=test.image.shape[1:],
        entry=source.entry,
        **CONSTANTS[source.normalisation],
    )


def _named(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    if not name:
        raise ValueError(f"--source.function is {path!r}, must be package.module:name")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--source.function is {path!r}, which cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"--source.function is {path!r}, a {type(found).__name__}, must be a function")
    return found
