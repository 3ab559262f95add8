"""Load a data set by name: prepared TFDS data first, then the embedded sets. Nothing is ever downloaded."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import ArrayLike
from PIL import Image

from robustjax import checks
from robustjax.checks import reading
from robustjax.data import decode, digits, imagenet_minus, letters, restricted_imagenet, svhn
from robustjax.data.lazy_pictures import LazyPictures, taken
from robustjax.data.order import held_out
from robustjax.data.resize import to_square
from robustjax.data.store import Contents, Part, check, write, writing

EMBEDDED: dict[str, Callable[[], Contents]] = {
    "digits": digits.contents,
    "letters": partial(letters.contents, 8),
    "letters/28": partial(letters.contents, 28),
}
# Made of another prepared set: its name, new labels from its labels (-1: left out), the classes, pixels a side.
DERIVED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], tuple[str, ...], int]] = {
    "restricted_imagenet": ("imagenet2012", restricted_imagenet.grouped, restricted_imagenet.CLASSES, 224),
    "restricted_imagenet/others": ("imagenet2012", restricted_imagenet.others, ("other",), 224),
    "imagenet_minus": ("imagenet2012", imagenet_minus.minus, ("other",), 32),
    "svhn_cropped/thousand": ("svhn_cropped", svhn.thousand_of_each, svhn.DIGITS, 32),
}
SPLITS = ("train", "validation", "test")
MOST_CLASSES = 100_000  # without names
STREAMED = 8 * 2**30  # bytes of images at their size, from which on pictures are not decoded to one array


class Subset(NamedTuple):
    """How a part of a split was chosen, by name, and how many images the whole has; see `subsets`."""

    rule: str
    whole: int


@dataclasses.dataclass(frozen=True)
class Info:
    """What a split is, for the report of every result."""

    name: str
    split: str
    classes: tuple[str, ...]
    count: int
    per_class: tuple[int, ...]
    sha256: (
        str  # of the bytes of `Split.image`; of pictures read while needed of the CRC-32 of each, if known
    )
    source: str
    note: str
    subset: Subset | None = None  # None for a whole split


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in memory: uint8 images (n, h, w, c), int32 labels (n,), official indices int64 (n,)."""

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray
    info: Info


def load(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    size: int | None = None,
    preprocess: str | None = None,
    streamed: bool | None = None,
) -> Split:
    """Load one split of a data set, in the order of its official index.

    "validation" is held out of the official training set, about one image in ten by a hash of its index, and
    "train" is the rest; a set that has all three splits keeps its own. Where a set has validation images but
    no test images, or none with labels, as imagenet2012, its validation images are "test".

    Args:
      name: as TFDS names it: "mnist", "cifar10_corrupted/fog_3", "emnist/letters", an embedded set, or one that
        is derived from another: "restricted_imagenet" and its "/others", "imagenet_minus", "svhn_cropped/thousand".
      split: "train", "validation" or "test".
      data_dir: where data are prepared; `$TFDS_DATA_DIR` or ~/tensorflow_datasets by default. An embedded set is kept
        there if the folder is named by either, and made in memory otherwise.
      size: scale the images and crop their centres to so many pixels a side.
      preprocess: of prepared pictures, instead of `size`: by name, see `preprocessing`. They are decoded when rows of
        `Split.image` are asked for, and memory stays small; see `decode.lazy` for the order.
      streamed: with `size`, decode pictures in the same way, to the same bytes as otherwise, while they are needed; by
        default where the set holds colour pictures of several sizes which would take more than 8 GiB, and are not
        decoded to an array yet.
    Raises:
      ValueError: if the data set or the split is not there; the message says which command prepares it.
    """
    if split not in SPLITS:
        raise ValueError(f"load: split is {split!r}, must be one of {', '.join(SPLITS)}")
    if size is not None and size < 1:
        raise ValueError(f"load: size is {size}, must be at least 1 pixel")
    if preprocess is not None and size is not None:
        raise ValueError(f"load: size is {size} and preprocess {preprocess}, must be one of them")
    if streamed and size is None:
        raise ValueError("load: streamed is True and size None, must be a size: pixels a side to scale to")
    root = place(data_dir)
    folder = find(name, root)
    if preprocess is not None and (name in EMBEDDED or (folder is None and name in DERIVED)):
        raise ValueError(
            f"load: preprocess is {preprocess}, must be left out with {name}, whose size is known"
        )
    if folder is None and name in DERIVED:
        return _derived(name, split, data_dir, size, streamed)
    if folder is None and name in EMBEDDED:
        if data_dir is None and "TFDS_DATA_DIR" not in os.environ:
            return _embedded(name, split, size)
        with writing(root, "--data-dir or $TFDS_DATA_DIR"):
            folder = write(_made(name), root)
    if folder is None:
        raise ValueError(
            f"load: no {name} in {root}, prepare it with `python -m experiments.data.prepare {name} --source "
            f"<folder of raw files>` or, where TensorFlow is installed, `tfds build {name} --file_format="
            f"array_record`; here are: {', '.join(available(root))}"
        )
    with reading(folder, "not a prepared data set, delete that folder and prepare it again"):
        builder = tfds.builder_from_directory(folder)
        features: Any = builder.info.features
        metadata = builder.info.metadata or {}
        classes = getattr(features["label"], "names", None) or () if "label" in features else ()
    # ImageNet's test images, among others, have no labels: all are -1.
    there = tuple(name for name in builder.info.splits if name != "test" or decode.labelled(folder, name))
    if split == "test" and not {"test", "validation"} & set(there) and "test" in builder.info.splits:
        raise ValueError(f"load: the test images of {name} have no labels, load another split")
    stored, keep = _stored(split, there, name)
    if preprocess is None and size is not None and _streams(folder, stored, size, streamed):
        preprocess = f"Square{size}"
    part = decode.lazy(folder, stored, preprocess) if preprocess else decode.arrays(folder, stored, size=size)
    if part.label.min() < 0:
        raise ValueError(f"load: the {stored} images of {name} have no labels, load another split")
    if classes and part.label.max() >= len(classes):
        raise ValueError(
            f"load: {folder} holds label {part.label.max()} and names {len(classes)} classes, delete that folder and "
            "prepare it again"
        )
    if keep is not None:
        part = _rows(part, held_out(part.index) == keep)
    return _described(
        part,
        name=name,
        split=split,
        classes=classes,
        source=metadata.get("source", f"prepared TFDS data {name} {builder.version}"),
        note=metadata.get("note", ""),
    )


def _streams(folder: Path, split: str, size: int, wanted: bool | None) -> bool:
    """Say whether the pictures of a stored split are to be decoded while they are needed."""
    if wanted is False or (wanted is None and decode.kept(folder, split, size)):
        return False
    if wanted is None and counts(folder)[split] * 3 * size * size <= STREAMED:
        return False
    can = decode.differ(folder)
    if wanted and not can:
        raise ValueError(
            f"load: streamed is True, must be left out: {folder} holds no colour pictures of several sizes; "
            "data.prepare NAME --source FOLDER --keep-files stores pictures so"
        )
    return can


def _derived(
    name: str, split: str, data_dir: str | Path | None, size: int | None, streamed: bool | None
) -> Split:
    source, relabel, classes, usual = DERIVED[name]
    whole = load(source, split, data_dir=data_dir, size=size or usual, streamed=streamed)
    label = relabel(whole.label)
    chosen = label >= 0
    return _described(
        _rows(Part(whole.image, label, whole.index), chosen),
        name=name,
        split=split,
        classes=classes,
        source=whole.info.source,
        note=f"{chosen.sum()} of {len(chosen)} images. {whole.info.note}".strip(),
    )


def _embedded(name: str, split: str, size: int | None) -> Split:
    """Give an embedded set from memory, as it would come from disk."""
    contents = _made(name)
    stored, keep = _stored(split, tuple(contents.parts), name)
    part = contents.parts[stored]
    if keep is not None:
        part = _rows(part, held_out(part.index) == keep)
    if size is not None:
        pictures = (Image.fromarray(image[..., 0]) for image in part.image)
        part = dataclasses.replace(
            part, image=np.stack([np.asarray(to_square(p, size)) for p in pictures])[..., None]
        )
    return _described(
        part, name=name, split=split, classes=contents.classes, source=contents.source, note=contents.note
    )


def decoded(split: Split) -> Split:
    """Bring the images of a split into memory where they are read while needed, and compute their checksum."""
    if not isinstance(split.image, LazyPictures):
        return split
    image = np.asarray(split.image)
    return dataclasses.replace(
        split, image=image, info=dataclasses.replace(split.info, sha256=decode.digest(image))
    )


def is_streamed(split: Split) -> bool:
    """Say whether the images of a split are decoded while they are needed."""
    return isinstance(split.image, LazyPictures)


def held(split: Split, *, most: int = 2**30) -> Split:
    """Bring the images of a split into memory if they are at most so many bytes; the digest stays that of the files."""
    if not is_streamed(split) or split.image.nbytes > most:
        return split
    return dataclasses.replace(split, image=np.asarray(split.image))


@functools.cache  # letters take seconds to draw
def _made(name: str) -> Contents:
    return EMBEDDED[name]()


def _rows(part: Part, chosen: np.ndarray) -> Part:
    return Part(taken(part.image, chosen), part.label[chosen], part.index[chosen])


def of_arrays(
    image: np.ndarray, label: ArrayLike, *, name: str, split: str = "test", classes: Sequence[str] = ()
) -> Split:
    """Make a split of arrays in memory; the index of an image is its position.

    Args:
      image: uint8 (n, h, w, c) with 1 or 3 channels.
      label: whole numbers (n,) from 0.
      name, split: what to call them in reports.
      classes: names of the classes; by default the numbers from 0 to the largest label, which must then hold 0.
    Raises:
      ValueError: in one line, if an array has the wrong dtype, rank or length, or a label is out of range.
    """
    who, image = f"of_arrays: {name} {split}", np.asarray(image)
    if image.ndim == 0 or not len(image):
        raise ValueError(
            f"{who}: images have shape {image.shape}, must be (n, h, w, c) with at least one image"
        )
    label = checks.labels(who, label, count=len(image), classes=len(classes) or None)
    low, high = int(label.min()), int(label.max())
    if not classes and low == 1:
        raise ValueError(
            f"{who}: labels run from 1 to {high}, must begin with 0: take y - 1, or name the classes"
        )
    if not classes and high >= MOST_CLASSES:
        raise ValueError(
            f"{who}: the largest label is {high}, must be below {MOST_CLASSES:,} or its classes named"
        )
    part = Part(image, label, np.arange(len(label)))
    check(who, part, len(classes) or 1 + high)
    return _described(part, name=name, split=split, classes=classes, source="arrays in memory", note="")


def _described(part: Part, *, name: str, split: str, classes: Sequence[str], source: str, note: str) -> Split:
    names = tuple(classes) or tuple(map(str, range(1 + int(part.label.max(initial=0)))))
    info = Info(
        name=name,
        split=split,
        classes=names,
        count=len(part.label),
        per_class=per_class(part.label, len(names)),
        sha256=part.image.digest if isinstance(part.image, LazyPictures) else decode.digest(part.image),
        source=source,
        note=note,
    )
    return Split(part.image, part.label, part.index, info)


def per_class(label: np.ndarray, classes: int) -> tuple[int, ...]:
    """Count the labels of each class, of images or of pixels; what is outside 0..classes-1 is unknown."""
    known = label[(label >= 0) & (label < classes)]
    return tuple(np.bincount(known, minlength=classes).tolist())


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
