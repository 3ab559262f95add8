"""The networks of tradeoffs.benchmark: how they are named, and how they are opened and tried before any work."""

import os
import pathlib
import re
from typing import NamedTuple

import jax
import numpy as np

from experiments.shared import classifiers, network_source
from experiments.shared.fields import fraction
from experiments.shared.network_source import IMAGENET, Source
from robustjax import checks, data
from robustjax.catalog import known_checkpoints
from robustjax.catalog import names as catalog_names
from robustjax.data.scenes import Scenes
from robustjax.evaluation.suite import as_floats
from robustjax.types import Flag, Network

# Salman et al. 2020, arXiv:2007.08489: every network of these two architectures, as its file is called.
L2 = ("0.01", "0.03", "0.05", "0.1", "0.25", "0.5", "1", "3", "5")
LINF = ("0.5", "1.0", "2.0", "4.0", "8.0")  # over 255
CHOSEN_L2 = ("0.25", "0.5", "1", "3", "5")
BACKBONES = ("resnet18", "resnet50")
STANDARD = tuple(f"{backbone}_l2_eps0" for backbone in BACKBONES)
GRID = tuple(
    f"{backbone}_{norm}_eps{eps}"
    for backbone in BACKBONES
    for norm, radii in (("l2", CHOSEN_L2), ("linf", LINF))
    for eps in radii
)
_OF_ZOO = re.compile(r"(resnet18|resnet50|wide_resnet50_2)_(l2|linf)_eps([0-9.]+)")
WEIGHTS = (".ckpt", ".pt", ".pth", ".tar", ".bin", ".safetensors")  # ends of the names of files
_ARCHITECTURES = {"wide_resnet50_2": "wideresnet50_2_imagenet"}


class Entry(NamedTuple):
    """A network to be measured.

    Attributes:
      name: of its row and files.
      series: of a line in the figures: networks that differ in their training alone.
      source: where it comes from.
      norm, eps: what it was trained against, eps 0 for clean images; None if that is not said.
    """

    name: str
    series: str
    source: Source
    norm: str | None
    eps: float | None


class Opened(NamedTuple):
    """A network, tried on some images of the benchmarks.

    Attributes:
      entry: what was asked for.
      network: to be measured.
      classes: how many logits it gives.
      features: how many of the deepest activations there are; 0 if it shows none.
      flags: what was seen of it.
    """

    entry: Entry
    network: Network
    classes: int
    features: int
    flags: tuple[Flag, ...]


def entry(words: str, zoo: str) -> Entry:
    """Read [NAME=]WHAT[@NORM:EPS], see `BenchmarkConfig.networks`.

    Raises:
      ValueError: in one line, if it is written otherwise.
    """
    what, at, threat = words.rpartition("@")
    if not at or not re.fullmatch(r"clean|(l2|linf|l1):[0-9./e-]+", threat):
        if at and os.sep not in threat:
            raise ValueError(
                f"--networks has {words!r}, which must end in @clean or @NORM:EPS, as @l2:3 or @linf:4/255"
            )
        what, threat = words, ""
    name, given, what = what.rpartition("=") if "=" in what else ("", "", what)
    if given and not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"--networks has {words!r}, whose name must be of letters, digits and . + - _")
    norm, eps = _threat(words, threat)
    if match := _OF_ZOO.fullmatch(what):
        backbone, zoo_norm, radius = match.groups()
        if radius not in ("0", *(L2 if zoo_norm == "l2" else LINF)):
            raise ValueError(
                f"--networks has {what}, which the zoo does not hold; its radii are {', '.join(('0', *L2))} in l2 and "
                f"{', '.join(LINF)} in linf"
            )
        source = Source(
            checkpoint=os.path.join(zoo, f"{what}.ckpt"),
            architecture=_ARCHITECTURES.get(backbone, f"{backbone}_imagenet"),
            dataset=IMAGENET,
        )
        own = float(radius) / (255 if zoo_norm == "linf" else 1)
        return Entry(name or what, backbone, source, norm or zoo_norm, own if eps is None else eps)
    if not what.endswith(WEIGHTS):
        if re.fullmatch(r"[\w.]+:[\w.]+", what):
            return Entry(name or _plain(what), "networks", Source(function=what, dataset=IMAGENET), norm, eps)
        return Entry(name or _plain(what), "networks", Source(run=what), norm, eps)
    boards = [f"{IMAGENET}/{board}/{name}" for board in ("linf", "corruptions")]
    known = next((k.board for k in known_checkpoints.entries() if k.board in boards), None)
    source = Source(checkpoint=what, known=known, dataset=None if known else IMAGENET)
    source.require()
    return Entry(name or _plain(what), "networks", source, norm, eps)


def _threat(words: str, threat: str) -> tuple[str | None, float | None]:
    if not threat:
        return None, None
    if threat == "clean":
        return "l2", 0.0
    norm, _, eps = threat.partition(":")
    try:
        radius = fraction([eps])
    except ValueError:
        radius = -1.0
    if not radius >= 0 or radius == float("inf"):
        raise ValueError(
            f"--networks has {words!r}, whose radius must be a number, at least 0, as 3 or 4/255"
        )
    return norm, radius


def _plain(what: str) -> str:
    parts = [part for part in pathlib.PurePath(what).parts if part.strip("./")]
    whole = re.sub(r"[^\w.+-]", "_", "_".join(parts[-2:]))
    return next((whole.removesuffix(end) for end in WEIGHTS if whole.endswith(end)), whole)


def open_network(entry: Entry, images: Scenes, *, classes: int, data_dir: str | None) -> Opened:
    """Open a network and try it on a few images.

    Args:
      entry: of `BenchmarkConfig.networks`.
      images: of a benchmark.
      classes: how many logits weights in a file have.
      data_dir: of the data set of a run folder.
    Raises:
      ValueError: in one line, if it is not there, does not fit the images, gives no logits, only NaN, or other logits
        for an image in another batch.
    """
    flag = f"--networks {entry.name}"
    rows = checks.evenly(len(images))
    few = as_floats(images.image(rows))
    flags: tuple[Flag, ...] = ()
    if entry.source.run:
        if not os.path.isdir(entry.source.run):
            raise ValueError(
                f"{flag}: no folder {entry.source.run}; must be a run folder, a file of weights "
                f"({', '.join(WEIGHTS)}), package.module:name, or a name of the zoo as {GRID[0]}"
            )
        network, _ = classifiers.open_classifier(entry.source.run, data_dir=data_dir)
    elif entry.source.checkpoint:
        if not os.path.exists(network_source.checkpoint_files(entry.source.checkpoint)[0]):
            raise ValueError(f"{flag}: no {entry.source.checkpoint}; weights must be downloaded first")
        test = data.of_arrays(
            images.image(rows) if images.image(rows[:1]).dtype == np.uint8 else (255 * few).astype(np.uint8),
            np.zeros(len(rows), np.int32),
            name=images.name,
            classes=tuple(map(str, range(classes))),
        )
        network, seen = network_source.open_checkpoint(entry.source, test)
        flags = (seen,) if seen else ()
    else:
        call = catalog_names.imported(entry.source.function or "", flag=flag)
        network = call if isinstance(call, Network) else Network(
            network_source.of_function(lambda: call), {}, {}, {"function": entry.source.function}
        )  # fmt: skip
    network = network._replace(title=entry.name)
    count = checks.logits(flag, network.logits_fn, few)
    return Opened(
        entry, network, count, _width(network, few), (*flags, *checks.network(flag, network.logits_fn, few))
    )


def _width(network: Network, few: np.ndarray) -> int:
    try:
        found = jax.eval_shape(network.model.features, network.params, network.state, few)
        return int(found[max(found)].shape[1])
    except Exception:  # a function of images has no inner activations, and says so in its own way
        return 0
