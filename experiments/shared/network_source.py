"""The network that an evaluation script is about: a run folder, a PyTorch checkpoint, or any function of images."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.shared import classifiers
from experiments.shared.fields import Count
from robustjax import checks, data
from robustjax.attacks.adaptive import averaged
from robustjax.catalog import known_checkpoints
from robustjax.catalog import names as catalog_names
from robustjax.data import picture_tree, preprocessing, subsets
from robustjax.data.sources import decoded
from robustjax.evaluation.suite import as_floats
from robustjax.models import normalisation, running_statistics, weights
from robustjax.models.architectures import architecture, normalises_itself
from robustjax.types import Flag, LogitsFn, Model, Network

IMAGENET = "imagenet2012"
NormalisedBy = Literal["stored", "none", "cifar10", "cifar100", "svhn"]
SEEN = 64  # images that running statistics are compared with; of large images, with more pixels, a quarter
SMALL = 64  # pixels a side
PUBLISHED = {"cifar10": normalisation.CIFAR10, "cifar100": normalisation.CIFAR100, "svhn": normalisation.SVHN}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the network comes from; give one of `run`, `checkpoint` and `function`."""

    run: str | None = None  # folder of a run of classification.train; its best checkpoint is taken
    # file of PyTorch weights, .safetensors or .pt, read without running it; an ensemble: its files, joined by commas
    checkpoint: str | None = None
    known: str | None = (
        None  # entry of RobustBench's model zoo that the checkpoint is; says all that is asked below
    )
    architecture: str | None = None  # of the checkpoint, such as wideresnet28_10; by default recognised
    entry: str | None = None  # which state dict of a checkpoint that holds several, such as ema
    # of the checkpoint: in the file, none, or those of a data set; cifar10 also for CIFAR-100 models of RATIO and ALOE
    normalisation: NormalisedBy = "stored"
    mean: tuple[
        float, ...
    ] = ()  # of images in [0, 1], one number per channel, instead of --source.normalisation
    std: tuple[float, ...] = ()
    # package.module:name of a function from images (b, h, w, c) in [0, 1] to logits, which JAX can trace: written with
    # jax.numpy, or a network made so by robustjax.from_nnx, from_equinox, from_torch ...
    function: str | None = None
    stochastic: bool = False  # the function is (keys, images) -> logits: randomised, with one key per image
    # random passes to average for a randomised function in an attack; five times as many decide whether an image is
    # robust
    samples: Count = 20
    dataset: str | None = None  # whose test images are attacked; a run folder knows its own
    size: Count | None = (
        None  # pixels a side that its images are scaled and cropped to; a run folder knows its own
    )
    data_dir: str | None = None
    # of pictures, ImageNet's validation set: folder of the classes' folders, instead of prepared data
    folder: str | None = None
    image_list: str | None = None  # file that names the pictures to take, class/picture.JPEG a line
    preprocessing: str | None = (
        None  # by RobustBench's name, Res256Crop224 and others; a known checkpoint has its own
    )

    def require(self) -> None:
        """Refuse what does not say which network is meant."""
        given = [name for name in ("run", "checkpoint", "function") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"--source.{', --source.'.join(given) or 'run, .checkpoint and .function'} "
                f"{'are all given' if given else 'are all missing'}, must be one: the network to evaluate"
            )
        if not self.run and not self.dataset and not self.known:
            raise ValueError(f"--source.dataset is missing, must be named with --source.{given[0]}")
        only = {
            "known": self.known,
            "architecture": self.architecture,
            "entry": self.entry,
            "mean": self.mean,
        }
        only |= {"std": self.std}
        if not self.checkpoint and (alone := [name for name, value in only.items() if value]):
            raise ValueError(f"--source.{alone[0]} is given, must come with --source.checkpoint")
        if bool(self.mean) != bool(self.std):
            raise ValueError("one of --source.mean and --source.std is given, must be both or neither")
        if self.mean and self.normalisation != "stored":
            raise ValueError(
                f"--source.normalisation is {self.normalisation} and --source.mean is given, must be one of them"
            )
        if self.architecture:
            architecture(self.architecture)
        if self.known:
            self._require_known()
        if self.run and (alone := [n for n in ("folder", "preprocessing") if getattr(self, n)]):
            raise ValueError(
                f"--source.{alone[0]} is given, must be left out with --source.run, which knows its images"
            )
        if self.image_list and not self.preprocess_of():
            raise ValueError(
                "--source.image-list is given, must come with --source.folder, or prepared pictures with "
                "--source.preprocessing"
            )
        if self.preprocess_of() and self.size:
            raise ValueError(
                f"--source.size is {self.size} and the preprocessing {self.preprocess_of()}, must be one of them"
            )
        if name := self.preprocess_of():
            preprocessing.preprocessing(name)
        if self.stochastic and not self.function:
            raise ValueError("--source.stochastic is given, must come with --source.function")

    def entry_of(self) -> known_checkpoints.Known | None:
        """Look up what is known of the checkpoint."""
        return known_checkpoints.known(self.known) if self.known else None

    def dataset_of(self) -> str:
        """Name the data set: the one given, or that of a known checkpoint."""
        entry = self.entry_of()
        return self.dataset or (entry.dataset if entry else "")

    def preprocess_of(self) -> str | None:
        """Name the preprocessing: the one given, that of a known checkpoint, or ImageNet's usual one."""
        if self.preprocessing:
            return self.preprocessing
        entry = self.entry_of()
        if entry is not None and entry.dataset == IMAGENET and not self.size:
            return entry.preprocessing or preprocessing.USUAL
        return preprocessing.USUAL if self.folder else None

    def images(self) -> data.Split:
        """Load the test images; those of large pictures are decoded when they are asked for.

        Raises:
          ValueError: in one line, if they are not there.
        """
        if self.folder:
            scaled = self.preprocess_of() or preprocessing.USUAL
            test = picture_tree.load(self.folder, preprocess=scaled, name=self.dataset_of())
        else:
            test = data.load(
                self.dataset_of(),
                "test",
                data_dir=self.data_dir,
                size=self.size,
                preprocess=self.preprocess_of(),
            )
        return picture_tree.listed(test, self.image_list) if self.image_list else test

    def _require_known(self) -> None:
        entry = known_checkpoints.known(self.known or "")
        if not entry.architecture:
            raise ValueError(
                f"--source.known is {self.known}, a {entry.network}, which is not among the networks here"
            )
        said: dict[str, tuple[Any, Any]] = {
            "dataset": (self.dataset, entry.dataset),
            "architecture": (self.architecture, entry.architecture),
            "entry": (self.entry, entry.entry),
            "mean": (self.mean, entry.mean),
            "std": (self.std, entry.std),
            "preprocessing": (
                self.preprocessing,
                self.preprocess_of() if entry.dataset == IMAGENET else None,
            ),
            "normalisation": (None if self.normalisation == "stored" else self.normalisation, None),
        }
        for name, (given, right) in said.items():
            if given and given != right:
                raise ValueError(
                    f"--source.{name} is {given}, but --source.known {self.known} says {right}: leave it out"
                )


class Opened(NamedTuple):
    """A network to evaluate, and the images to do it on.

    Attributes:
      network: what attacks see.
      reference: by what it is decided whether an image is robust: the same network, or for a randomised function its
        average over more samples.
      test: the test images.
      flags: what the network was seen to do on a few of them, and whether classes are missing among them.
    """

    network: Network
    reference: Network
    test: data.Split
    flags: tuple[Flag, ...]


def open_network(source: Source, images: subsets.Wanted, seed: int, *, streamed: bool = False) -> Opened:
    """Open what a source names.

    Args:
      source: which network.
      images: which test images, see `data.subsets`; None for all.
      seed: of the random numbers of a randomised function.
      streamed: leave large pictures on disk, to be decoded when rows are asked for; otherwise all are in memory.
    Raises:
      ValueError: in one line, if it is not there, cannot be read or does not fit the data.
    """
    if source.run:
        network, test = classifiers.open_classifier(source.run, data_dir=source.data_dir)
        return checked(network, network, subsets.subset(test, images), flag="--source.run")
    test = subsets.subset(source.images(), images)
    test = test if streamed else decoded(test)
    if source.checkpoint:
        network, flag = open_checkpoint(source, test)
        opened = checked(network, network, test, flag="--source.checkpoint")
        return opened._replace(flags=(*opened.flags, flag)) if flag else opened

    call = catalog_names.imported(source.function or "", flag="--source.function")
    about, title = {"function": source.function}, f"{source.function} on {source.dataset}"
    if source.stochastic:
        key = jax.random.key(seed)
        few = as_floats(test.image[checks.evenly(len(test.label), 3)])

        def once(x: jax.Array) -> jax.Array:
            return call(jax.random.split(key, x.shape[0]), x)

        checks.logits("--source.function", once, few, classes=len(test.info.classes))

        def mean(samples: int, number: int) -> Model:
            return of_function(lambda: averaged(call, jax.random.fold_in(key, number), samples=samples))

        about |= {"samples": source.samples, "reference samples": 5 * source.samples}
        seen, reference = (
            Network(mean(samples, number), {}, {}, about, title)
            for number, samples in enumerate((source.samples, 5 * source.samples))
        )
        return checked(seen, reference, test, flag="--source.function")
    if isinstance(call, Network):
        network = call._replace(about=call.about | about, title=title)
    else:
        network = Network(of_function(lambda: call), {}, {}, about, title)
    return checked(network, network, test, flag="--source.function")


def checked(network: Network, reference: Network, test: data.Split, *, flag: str) -> Opened:
    """Try a network on a few of the images that it is to be evaluated on, before any work.

    Args:
      network, reference, test: as in `Opened`.
      flag: of the command line that named it, for the error.
    Raises:
      ValueError: in one line, if it gives no logits, not one for each class of the data, NaN for every image, or other
        logits for an image in another batch.
    """
    classes = len(test.info.classes)
    few = as_floats(test.image[checks.evenly(len(test.label))])
    for each in (network,) if reference is network else (network, reference):
        checks.logits(flag, each.logits_fn, few, classes=classes)
    flags = (*checks.network(flag, network.logits_fn, few), checks.class_counts(test.label, classes))
    return Opened(network, reference, test, flags)


def open_checkpoint(source: Source, test: data.Split) -> tuple[Network, Flag | None]:
    """Read the checkpoint of a source, for the classes and images of a data set.

    Where tensors fit several architectures and none is named, what BatchNorm layers saw in training decides.

    Returns:
      The network, and whether its BatchNorm layers see what they saw in training; None without BatchNorm.
    Raises:
      ValueError: in one line, if it cannot be read or does not fit, or if its layers see what those of another
        architecture with the same tensors should.
    """
    channels, entry = test.image.shape[-1], source.entry_of()
    files = checkpoint_files(source.checkpoint or "")
    settings = {"entry": source.entry, **constants(source, channels=channels)}
    named = source.architecture
    if entry:
        named, settings["entry"] = entry.architecture, entry.entry
        settings |= {"mean": entry.mean, "std": entry.std} if entry.mean else {}
    shape = test.image.shape[1:]
    names = weights.candidates(files, entry=settings["entry"], channels=channels)
    if named:
        names = (named, *(name for name in names if name != named and named in names))
    if not names:
        weights.one_of(names, source.checkpoint or "")

    few = as_floats(test.image[checks.evenly(len(test.label), SEEN if shape[0] <= SMALL else SEEN // 4)])
    networks, apart = [], []
    for name in names:
        # Some networks have no constants that could be given.
        own = {k: v for k, v in settings.items() if not (k in ("mean", "std") and normalises_itself(name))}
        network = weights.imported(
            files, architecture=name, classes=len(test.info.classes), shape=shape, **own
        )
        networks.append(network)
        found = running_statistics.disagreement(
            network.model, network.params, network.state, jnp.asarray(few)
        )
        apart.append(found)
    chosen = running_statistics.chosen(names, apart, named)
    network = networks[chosen]
    about = {**network.about, **({"known": entry.board, "published": entry.published()} if entry else {})}
    title = f"{names[chosen]} of {os.path.basename(files[0])} on {test.info.name}"
    return network._replace(about=about, title=title), running_statistics.flag(names[chosen], apart[chosen])


def checkpoint_files(written: str) -> list[str]:
    """Split the files of an ensemble at the commas; a file that is there is taken as it is."""
    return [written] if os.path.exists(written) or "," not in written else written.split(",")


def constants(source: Source, *, channels: int) -> dict[str, Any]:
    """Look up mean and std of a checkpoint's images, one number for each channel; nothing for those in its file.

    Raises:
      ValueError: for the constants of colour images, if the images have another number of channels.
    """
    name = source.normalisation
    if source.mean:
        if len(source.mean) != channels or len(source.std) != channels:
            raise ValueError(
                f"--source.mean is {source.mean} and --source.std is {source.std}, must have {channels} numbers each"
            )
        return {"mean": source.mean, "std": source.std}
    if name == "stored":
        return {}
    if name == "none":
        return {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    if len(PUBLISHED[name]["mean"]) != channels:
        raise ValueError(
            f"--source.normalisation is {name}, of 3 channels, and the images have {channels}; must be stored or none"
        )
    return dict(PUBLISHED[name])


def of_function(logits_fn: Callable[[], LogitsFn]) -> Model:
    """See a function of images as a model without parameters.

    Args:
      logits_fn: builds the function where it is traced.
    """

    def apply(params, state, x, *, train=False, key=None):
        return logits_fn()(x), state

    def features(params, state, x):
        raise ValueError("features: a function of images has no inner activations")

    return Model(lambda key: ({}, {}), apply, features)
