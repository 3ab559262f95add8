"""Accuracy on corrupted images: every corruption at every severity, and clean, in one stream of full batches."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks
from robustjax.analysis import corruption_error
from robustjax.analysis.intervals import Estimate
from robustjax.data.batches import to_float
from robustjax.evaluation.predictions import predictions
from robustjax.evaluation.runner import Memory
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.types import Bytes, Flag, LogitsFn, Network, PerExample, frozen

SIDE = 32  # pixels of the images that the parameters of CIFAR-10-C are made for
SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)
COMMON = tuple(name for name, one in CORRUPTIONS.items() if not one.extra)  # what published means are over
ReadCell = Callable[[int, int, int], np.ndarray]  # (number of a cell, start, stop) -> bytes


class Cells(NamedTuple):
    """The same images under every corruption at every severity, read when they are needed.

    Attributes:
      corruptions, severities: what they are, in order.
      clean: (n, h, w, c) bytes, the images as they are; any array whose slices are that.
      label, number: (n,) of each image: its class, and its number in the data set.
      read: (cell, start, stop) -> images of a cell as bytes; the cell of corruption i at severity j has the number
        i * len(severities) + j.
    """

    corruptions: tuple[str, ...]
    severities: tuple[float, ...]
    clean: np.ndarray
    label: np.ndarray
    number: np.ndarray
    read: ReadCell


@dataclasses.dataclass(frozen=True)
class CorruptionResults:
    """What a network answers for every image in every cell; arrays on the host.

    Attributes:
      corruptions: (c,) names.
      severities: (s,).
      index, label: (n,) number of each image in its data set, and its class.
      clean: (n,) prediction for the image as it is.
      prediction: (c, s, n) for the corrupted ones. -1 where the logits say no label.
      flags: checks of network, labels and images, of `evaluate`; not kept in files.
    """

    corruptions: tuple[str, ...]
    severities: np.ndarray
    index: np.ndarray
    label: np.ndarray
    clean: np.ndarray
    prediction: np.ndarray
    flags: tuple[Flag, ...] = dataclasses.field(default=(), metadata={"stored": False})

    @property
    def right(self) -> np.ndarray:
        """Say which corrupted images are classified correctly: (c, s, n) bool."""
        return self.prediction == self.label

    @property
    def accuracy(self) -> np.ndarray:
        """Compute the accuracy in every cell: (c, s)."""
        return self.right.mean(axis=-1)

    @property
    def answers(self) -> np.ndarray:
        """List all predictions, those for clean images first."""
        return np.concatenate([self.clean, self.prediction.reshape(-1)])

    def of(self, corruptions: Sequence[str]) -> "CorruptionResults":
        """Take the results for some of the corruptions."""
        rows = [self.corruptions.index(name) for name in corruptions]
        return dataclasses.replace(self, corruptions=tuple(corruptions), prediction=self.prediction[rows])

    def mean(self) -> Estimate:
        """Average the accuracy over all cells, with its 95 % interval over images."""
        return corruption_error.mean_accuracy(self.right)

    def mce(self, baseline: corruption_error.Baseline | None = None) -> Estimate:
        """Compute the mCE; see `analysis.corruption_error`."""
        return corruption_error.mce(self.right, self.corruptions, self.severities.tolist(), baseline)

    def relative_mce(self, baseline: corruption_error.Baseline | None = None) -> Estimate:
        """Compute the relative mCE; see `analysis.corruption_error`."""
        clean = self.clean == self.label
        return corruption_error.relative_mce(
            self.right, clean, self.corruptions, self.severities.tolist(), baseline
        )

    def __repr__(self) -> str:
        head = "".join(f"{f'severity {s:g}':>12}" for s in self.severities)
        lines = [f"{len(self.label)} images, accuracy in %", f"  {'':<20}{head}{'mean':>12}"]
        for name, row in zip(self.corruptions, self.accuracy, strict=True):
            numbers = "".join(f"{100 * value:12.1f}" for value in (*row, row.mean()))
            lines.append(f"  {name:<20}{numbers}")
        clean, mean = (self.clean == self.label).mean(), self.mean()
        lines.append(f"  clean {100 * clean:.1f}")
        lines.append(f"  mean  {100 * mean.value:.1f}  ({100 * mean.low:.1f} to {100 * mean.high:.1f})")
        lines += [f"  warning: {flag.name}: {flag.says}" for flag in self.flags if flag.raised]
        return "\n".join(lines)


def evaluate(
    network: LogitsFn | Network,
    x: Any,
    y: Any,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[float] = SEVERITIES,
    batch_size: int = 512,
    seed: int = 0,
) -> CorruptionResults:
    """Measure a classifier on images under the corruptions of CIFAR-10-C.

    Corrupted images are rounded to bytes, as in files. An image has the same random numbers whatever other images,
    corruptions and severities are asked for.

    Args:
      network: from images (b, h, w, c) in [0, 1] to logits (b, k), in evaluation mode; or a `Network`.
      x: (n, h, w, c) bytes, or floats in [0, 1], which are rounded to bytes.
      y: (n,) labels, whole numbers from 0.
      corruptions: names in `perturbations.corruptions.table`.
      severities: real numbers in (0, 5].
      batch_size: images on the device at a time.
      seed: of all random numbers.
    Returns:
      The prediction for every image in every cell, and flags; printed, a table with the flags that are raised.
    Raises:
      ValueError: in one line, for images, labels, names, severities or a network that cannot be meant.
    """
    images = checks.images("evaluate", x)
    logits_fn: Any = network.logits_fn if isinstance(network, Network) else network
    classes = checks.logits("evaluate", logits_fn, images)
    labels = checks.labels("evaluate", y, count=len(images), classes=classes)
    checks.count("evaluate", "batch_size", batch_size)
    checks.seed("evaluate", seed)
    flags = (
        *checks.network("evaluate", logits_fn, images),
        checks.class_counts(labels, classes),
        of_another_size(images.shape[1:3]),
    )
    images = np.rint(255 * images).astype(np.uint8)
    cells = corrupted(
        images, labels, np.arange(len(labels)), corruptions=corruptions, severities=severities,
        key=jax.random.key(seed), chunk_size=batch_size,
    )  # fmt: skip
    if isinstance(network, Network):
        of_arguments, arguments = partial(frozen, network.model), (network.params, network.state)
    else:
        of_arguments, arguments = (lambda: network), ()
    results = over_cells(of_arguments, arguments, cells, batch_size=batch_size)
    flags = checks.joined(flags, (checks.answered(results.answers),))
    return dataclasses.replace(results, flags=flags)


def of_another_size(sides: tuple[int, ...]) -> Flag:
    """Say whether corruptions made here are as strong as published ones.

    Args:
      sides: height and width of the images.
    """
    off = tuple(sides) != (SIDE, SIDE)
    height, width = sides
    return Flag(
        "size of corrupted images",
        off,
        f"lengths of CIFAR-10-C's parameters are in pixels of {SIDE} x {SIDE} images, these are {height} x {width}"
        + (": not comparable with published numbers" if off else ""),
        {"height": float(height), "width": float(width)},
    )


def over_cells(
    network: Callable[..., LogitsFn],
    arguments: tuple[Any, ...],
    cells: Cells,
    *,
    batch_size: int = 512,
    sharding: NamedSharding | None = None,
    memory: Memory | None = None,
    about: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> CorruptionResults:
    """Classify the images of all cells, and clean; the network compiles once, and batches reach over the cells.

    Args:
      network, arguments, batch_size, sharding, memory, about, progress: as for `predictions`.
      cells: the images.
    """
    n, shape = len(cells.label), (len(cells.corruptions), len(cells.severities))

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        for cell in range(start // n, (stop - 1) // n + 1):
            first, last = max(start - cell * n, 0), min(stop - cell * n, n)
            parts.append(cells.read(cell - 1, first, last) if cell else cells.clean[first:last])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    found = predictions(
        network, arguments, read, (1 + shape[0] * shape[1]) * n,
        batch_size=batch_size, sharding=sharding, memory=memory, about=about, progress=progress,
    )  # fmt: skip
    return CorruptionResults(
        cells.corruptions,
        np.asarray(cells.severities, np.float64),
        cells.number,
        cells.label,
        found[:n],
        found[n:].reshape(*shape, n),
    )


def corrupted(
    images: np.ndarray,
    label: np.ndarray,
    number: np.ndarray,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[float] = SEVERITIES,
    key: PRNGKeyArray,
    chunk_size: int = 512,
) -> Cells:
    """Corrupt images where they are needed. Each corruption compiles once, for all severities.

    Args:
      images: (n, h, w, c) bytes.
      label, number: (n,) class of each, and its number in the data set.
      corruptions, severities: as for `evaluate`.
      key: an image's random numbers come from it, the name of the corruption, the severity and the image's number.
      chunk_size: images that are corrupted at a time; best the batch size of the network.
    Raises:
      ValueError: for a name that is unknown or given twice, a severity outside (0, 5] or given twice, or none.
    """
    names, levels = tuple(corruptions), tuple(float(s) for s in severities)
    checks.corruptions("corrupted", names, levels, known=tuple(CORRUPTIONS))
    n, total = len(label), len(levels) * len(label)
    size = min(chunk_size, total)
    place, strength = np.asarray(number).astype(np.uint32), np.asarray(levels, np.float32)
    words = np.asarray(jax.random.key_data(key))
    kept: dict[tuple[str, int], np.ndarray] = {}  # the last chunk
    compiled: dict[str, Callable[..., Array]] = {}

    def chunk(name: str, start: int) -> np.ndarray:
        if (name, start) not in kept:
            if name not in compiled:
                compiled[name] = jax.jit(partial(_corrupted, name))
            rows = np.minimum(np.arange(start, start + size), total - 1)
            made = compiled[name](words, place[rows % n], images[rows % n], strength[rows // n])
            kept.clear()
            kept[name, start] = np.asarray(made)
        return kept[name, start]

    def read(cell: int, start: int, stop: int) -> np.ndarray:
        name, base = names[cell // len(levels)], cell % len(levels) * n
        first, last, parts = base + start, base + stop, []
        while first < last:
            begin = first // size * size
            parts.append(chunk(name, begin)[first - begin : last - begin])
            first = begin + size
        return np.concatenate(parts)

    return Cells(names, levels, images, label, number, read)


def _corrupted(name: str, words: Array, number: Array, images: Bytes, severity: PerExample) -> Bytes:
    place = list(CORRUPTIONS).index(name)

    def key_of(number: Array, severity: Array) -> PRNGKeyArray:
        key = jax.random.fold_in(jax.random.wrap_key_data(words), place)
        bits = jax.lax.bitcast_convert_type(severity, jnp.uint32)
        return jax.random.fold_in(jax.random.fold_in(key, bits), number)

    keys = jax.vmap(key_of)(number, severity)
    changed = CORRUPTIONS[name].apply(keys, to_float(images), severity)
    return jnp.round(255 * changed).astype(jnp.uint8)
