"""Load a data set by name: prepared TFDS data first, then the embedded sets. Nothing is ever downloaded."""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from robustjax.data import decode, digits, letters, restricted_imagenet
from robustjax.data.order import held_out
from robustjax.data.store import Contents, Part, check, write

EMBEDDED: dict[str, Callable[[], Contents]] = {
    "digits": digits.contents,
    "letters": partial(letters.contents, 8),
    "letters/28": partial(letters.contents, 28),
}
# Made of another prepared set: its name, new labels from its labels (-1: left out), the classes, pixels a side.
DERIVED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], tuple[str, ...], int]] = {
    "restricted_imagenet": ("imagenet2012", restricted_imagenet.grouped, restricted_imagenet.CLASSES, 224),
    "restricted_imagenet/others": ("imagenet2012", restricted_imagenet.others, ("other",), 224),
}
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Info:
    """What a split is, for the report of every result."""

    name: str
    split: str
    classes: tuple[str, ...]
    count: int
    per_class: tuple[int, ...]
    sha256: str  # of the bytes of `Split.image`
    source: str
    note: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in memory: uint8 images (n, h, w, c), int32 labels (n,), official indices int64 (n,)."""

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray
    info: Info


def load(name: str, split: str, *, data_dir: str | Path | None = None, size: int | None = None) -> Split:
    """Load one split of a data set, in the order of its official index.

    "validation" is held out of the official training set, about one image in ten by a hash of its index, and
    "train" is the rest; a set that has all three splits keeps its own. Where a set has validation images but
    no test images, its validation images are "test".

    Args:
      name: as TFDS names it: "mnist", "cifar10_corrupted/fog_3", "emnist/letters", an embedded set, or one that
        is derived from another: "restricted_imagenet" and "restricted_imagenet/others".
      split: "train", "validation" or "test".
      data_dir: where data are prepared; `$TFDS_DATA_DIR` or ~/tensorflow_datasets by default.
      size: scale the images and crop their centres to so many pixels a side.
    Raises:
      ValueError: if the data set or the split is not there; the message says which command prepares it.
    """
    if split not in SPLITS:
        raise ValueError(f"load: split is {split!r}, must be one of {', '.join(SPLITS)}")
    if size is not None and size < 1:
        raise ValueError(f"load: size is {size}, must be at least 1 pixel")
    root = place(data_dir)
    folder = find(name, root)
    if folder is None and name in DERIVED:
        return _derived(name, split, data_dir, size)
    if folder is None and name in EMBEDDED:
        contents = EMBEDDED[name]()
        folder = write(contents, root)
    if folder is None:
        raise ValueError(
            f"load: no {name} in {root}, prepare it with `python -m experiments.data.prepare {name} --source "
            f"<folder of raw files>` or, where TensorFlow is installed, `tfds build {name} --file_format="
            f"array_record`; here are: {', '.join(available(root))}"
        )
    builder = tfds.builder_from_directory(folder)
    stored, keep = _stored(split, tuple(builder.info.splits), name)
    part = decode.arrays(folder, stored, size=size)
    if part.label.min() < 0:
        raise ValueError(f"load: the {stored} images of {name} have no labels, load another split")
    if keep is not None:
        chosen = held_out(part.index) == keep
        part = Part(part.image[chosen], part.label[chosen], part.index[chosen])
    features: Any = builder.info.features
    metadata = builder.info.metadata or {}
    return _described(
        part,
        name=name,
        split=split,
        classes=getattr(features["label"], "names", None) or (),
        source=metadata.get("source", f"prepared TFDS data {name} {builder.version}"),
        note=metadata.get("note", ""),
    )


def _derived(name: str, split: str, data_dir: str | Path | None, size: int | None) -> Split:
    source, relabel, classes, usual = DERIVED[name]
    whole = load(source, split, data_dir=data_dir, size=size or usual)
    label = relabel(whole.label)
    chosen = label >= 0
    return _described(
        Part(whole.image[chosen], label[chosen], whole.index[chosen]),
        name=name,
        split=split,
        classes=classes,
        source=whole.info.source,
        note=f"{chosen.sum()} of {len(chosen)} images. {whole.info.note}".strip(),
    )


def of_arrays(
    image: np.ndarray, label: np.ndarray, *, name: str, split: str = "test", classes: Sequence[str] = ()
) -> Split:
    """Make a split of arrays in memory; the index of an image is its position.

    Args:
      image: uint8 (n, h, w, c) with 1 or 3 channels.
      label: integers (n,).
      name, split: what to call them in reports.
      classes: names of the classes, their numbers by default.
    Raises:
      ValueError: if an array has the wrong dtype, rank or length, or a label is out of range.
    """
    part = Part(image, np.asarray(label).astype(np.int32), np.arange(len(label)))
    check(f"of_arrays: {name} {split}", part, len(classes) or 1 + int(part.label.max(initial=0)))
    return _described(part, name=name, split=split, classes=classes, source="arrays in memory", note="")


def _described(part: Part, *, name: str, split: str, classes: Sequence[str], source: str, note: str) -> Split:
    names = tuple(classes) or tuple(map(str, range(1 + int(part.label.max(initial=0)))))
    info = Info(
        name=name,
        split=split,
        classes=names,
        count=len(part.label),
        per_class=tuple(np.bincount(part.label, minlength=len(names)).tolist()),
        sha256=decode.digest(part.image),
        source=source,
        note=note,
    )
    return Split(part.image, part.label, part.index, info)


def place(data_dir: str | Path | None = None) -> Path:
    """Say where prepared data are: the folder given, `$TFDS_DATA_DIR`, or ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, root: Path) -> Path | None:
    """Find the newest prepared version of a data set, or None."""
    versions = [
        v for v in (root / name).glob("*/dataset_info.json") if re.fullmatch(r"\d+\.\d+\.\d+", v.parent.name)
    ]
    return max((v.parent for v in versions), key=lambda v: tuple(map(int, v.name.split("."))), default=None)


def available(root: Path) -> list[str]:
    """List the names that `load` finds in a folder, embedded sets included."""
    # <name>/<version> or <name>/<configuration>/<version>; a full search could meet whole downloads.
    facts = (*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json"))
    names = {path.parent.parent.relative_to(root).as_posix() for path in facts}
    return sorted({name for name in names if find(name, root) and not name.startswith(".")} | set(EMBEDDED))


def counts(folder: Path) -> dict[str, int]:
    """Count the images of every stored split of a prepared data set, without reading them."""
    splits = tfds.builder_from_directory(folder).info.splits
    return {name: split.num_examples for name, split in splits.items()}


def _stored(split: str, there: tuple[str, ...], name: str) -> tuple[str, bool | None]:
    """Say which stored split to read, and which part of it: held out, the rest, or all (None)."""
    if set(SPLITS) <= set(there):
        return split, None
    if split == "test":
        stored, keep = ("test" if "test" in there else "validation"), None
    else:
        stored, keep = "train", split == "validation"
    if stored not in there:
        raise ValueError(f"load: {name} has no {split} images here, it has {', '.join(there)}")
    return stored, keep
