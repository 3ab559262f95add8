"""Subsets of a split by a rule that has a name: stratified, or the first N in official order.

What `--images` means in every script. `--images 1000` is the stratified subset of 1,000, `--images official:1000` the
first 1,000 in official order, as published comparisons take them. Subsets that hold the whole split are the split.
"""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from robustjax.data.decode import digest
from robustjax.data.lazy_pictures import LazyPictures, taken
from robustjax.data.sources import Info, Split, Subset, per_class
from robustjax.types import Batch

Wanted = int | str | None  # 1000, "official:1000", or None for the whole split
OFFICIAL, STRATIFIED = "official", "stratified"


class Rule(NamedTuple):
    """How many images, and in which order they are counted."""

    images: int
    official: bool = False


def rule(wanted: int | str) -> Rule:
    """Read `1000` or `official:1000`.

    Raises:
      ValueError: if it is anything else, or the number is below 1.
    """
    text = str(wanted)
    name, colon, number = text.rpartition(":")
    if (colon and name != OFFICIAL) or not number.isdecimal() or int(number) < 1:
        raise ValueError(
            f"--images is {text}, must be N, at least 1, for the stratified subset of N images, or official:N for the "
            "first N in official order"
        )
    return Rule(int(number), bool(colon))


def subset(split: Split, wanted: Wanted) -> Split:
    """Take a subset of a split, in the order of its rule; `index` still numbers images of the whole split.

    Subsets are nested: that of 100 images is the beginning of that of 1,000, and a subset of a subset is its
    beginning. See `stratified` for the rule.

    Args:
      split: a whole split, or a subset of one.
      wanted: N for the stratified subset, "official:N" for the first N in official order, None for all.
    Returns:
      The split itself if it has no more than N images. Otherwise the subset; its `info` holds its own counts per
      class and checksum, and the rule.
    Raises:
      ValueError: if N is below 1, or official order is asked of a subset by another rule.
    """
    if wanted is None:
        return split
    count, official = rule(wanted)
    if count >= len(split.label):
        return split
    before = split.info.subset
    if before is None:
        before = Subset(OFFICIAL if official else STRATIFIED, len(split.label))
        rows = np.arange(count) if official else stratified(split.image, split.label, count, split.index)
    elif official and before.rule != OFFICIAL:
        raise ValueError(
            f"--images is {wanted}, must be a number: the images are a subset already, {before.rule}"
        )
    else:
        rows = np.arange(count)
    return of_rows(split, rows, before)


def batch_subset(batch: Batch, wanted: Wanted) -> Batch:
    """Do as `subset` for images in [0, 1] in memory, in official order.

    Hashed are 4080 x, rounded: bytes, and bytes interpolated by sixteenths, are then whole numbers on every machine.
    """
    rows = batch_rows(batch, wanted)
    return batch if len(rows) == len(batch.label) else Batch(batch.image[rows], batch.label[rows])


def batch_rows(batch: Batch, wanted: Wanted) -> np.ndarray:
    """List the rows that `batch_subset` takes, in its order."""
    if wanted is None or rule(wanted).images >= len(batch.label):
        return np.arange(len(batch.label))
    count, official = rule(wanted)
    if official:
        return np.arange(count)
    exact = np.rint(4080 * np.asarray(batch.image)).astype(np.int32)
    return stratified(exact, np.asarray(batch.label), count)


def batch_in_words(part: Batch, whole: Batch, name: str) -> str:
    """Do as `in_words` for a batch of `whole`, which `batch_subset` took; name says the data set."""
    label, classes = np.asarray(part.label), 1 + int(np.asarray(whole.label).max())
    first = len(label) == len(whole.label) or np.array_equal(part.image, whole.image[: len(label)])
    chosen = Subset(OFFICIAL if first else STRATIFIED, len(whole.label))
    return in_words(
        Info(
            name=name,
            split="test",
            classes=tuple(map(str, range(classes))),
            count=len(label),
            per_class=per_class(label, classes),
            sha256=digest(np.rint(4080 * np.asarray(part.image)).astype(np.int32)),
            source="",
            note="",
            subset=None if len(label) == len(whole.label) else chosen,
        )
    )


def of_rows(split: Split, rows: np.ndarray, chosen: Subset) -> Split:
    """Take some rows of a split, with counts and checksum of their own.

    Args:
      split: the images.
      rows: (m,) positions.
      chosen: by which rule, of how many.
    """
    image, label = taken(split.image, rows), split.label[rows]
    info = dataclasses.replace(
        split.info,
        count=len(rows),
        per_class=per_class(label, len(split.info.classes)),
        sha256=image.digest if isinstance(image, LazyPictures) else digest(image),
        subset=chosen,
    )
    return dataclasses.replace(split, image=image, label=label, index=split.index[rows], info=info)


def in_words(info: Info) -> str:
    """Say in a report which images of which split they are, how many of each class, and their checksum."""
    if info.subset is None:
        which = f"all {info.count:,}"
    else:
        how = {OFFICIAL: "the first in official order", STRATIFIED: "a stratified subset"}
        which = f"{info.count:,} of {info.subset.whole:,} ({how.get(info.subset.rule, info.subset.rule)})"
    low, high = min(info.per_class, default=0), max(info.per_class, default=0)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{which} {info.split} images of {info.name}, {each} of each class, SHA-256 {info.sha256[:16]}"


def stratified(
    image: np.ndarray | LazyPictures, label: np.ndarray, count: int, index: np.ndarray | None = None
) -> np.ndarray:
    """List the rows of the stratified subset, in its order: fixed, nested, and the same for any order of storage.

    The order is built image by image. With n images in all, n_k of class k, and a_k of class k among the N - 1 chosen
    so far, image N is of the class with the largest n_k / (a_k + 1) among the classes with a_k < N n_k / n; of equals
    the smallest label. Within a class images come by growing BLAKE2b of their bytes, 128 bits of it; of equal bytes the
    smaller index first. (Pictures that are read while needed, as ImageNet's, come by the BLAKE2b of the names of their
    files: so the subset is the same for every preprocessing.) So |a_k - N n_k / n| < 1 for every N and k: shares are
    within one image of those of the whole.

    Args:
      image: (n, ...) what is hashed.
      label: (n,) the class of each; with more dimensions, as for classes of pixels, all images are one class.
      count: N, from 1 to n.
      index: (n,) numbers of the images, for ties; positions by default.

    Reference: Balinski and Young 1975, The quota method of apportionment, American Mathematical Monthly 82.
    """
    kinds = np.zeros(len(image), np.int64) if label.ndim != 1 else label
    _, kind, sizes = np.unique(kinds, return_inverse=True, return_counts=True)
    at = np.lexsort((np.arange(len(image)) if index is None else index, _hashed(image), kind))
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    total, taken = len(image), np.zeros(len(sizes), np.int64)
    rows = np.empty(count, np.int64)
    for number in range(1, count + 1):
        # Whole numbers and correctly rounded quotients: equal quotients compare equal on every machine.
        open_ = taken * total < number * sizes
        k = int(np.argmax(np.where(open_, sizes / (taken + 1), -1.0)))
        rows[number - 1] = at[begins[k] + taken[k]]
        taken[k] += 1
    return rows


def _hashed(image: np.ndarray | LazyPictures) -> np.ndarray:
    if isinstance(image, LazyPictures):  # one name of a file, one picture, however it is scaled
        contents = (str(name).encode() for name in image.names)
        return np.array([hashlib.blake2b(name, digest_size=16).hexdigest() for name in contents])
    return np.array([hashlib.blake2b(one.tobytes(), digest_size=16).hexdigest() for one in image])
