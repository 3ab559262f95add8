"""CIFAR-10-C and CIFAR-100-C as distributed: labels.npy and one file for each corruption, five severities stacked."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from robustjax import checks
from robustjax.data.layouts import arrays
from robustjax.data.sources import Split

SEVERITIES = 5  # in a file, the images of severity 1 first


def names(folder: Path) -> list[str]:
    """List the corruptions that a folder has files of."""
    return sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")


def cells(
    folder: Path, clean: Split, corruptions: Sequence[str], severities: Sequence[int]
) -> Callable[[int, int, int], np.ndarray]:
    """Open the files of a folder, checked against the images as they are; pixels stay on disk until they are read.

    Row i of a severity is the image with the official number i, so a subset of a set, or one that lacks images, finds
    its own.

    Args:
      folder: with labels.npy and NAME.npy.
      clean: the test images that the corrupted ones were made of.
      corruptions: names.
      severities: whole numbers from 1 to 5.
    Returns:
      read(cell, start, stop) -> bytes, see `evaluation.corruptions.Cells`.
    Raises:
      ValueError: in one line, for files that are absent, images that are not bytes or of another size, lengths that do
        not agree, or labels other than those of the clean images.
    """
    if absent := [
        f"{name}.npy" for name in ("labels", *corruptions) if not (folder / f"{name}.npy").is_file()
    ]:
        there = ", ".join(names(folder)) or "none"
        raise ValueError(
            f"{folder}: {', '.join(absent)} missing, must lie there; corruptions that do: {there}"
        )
    label, index = _array(folder / "labels.npy"), np.asarray(clean.index)
    label = checks.labels(f"{folder}/labels.npy", label, count=len(label))
    found = []
    for name in corruptions:
        path = folder / f"{name}.npy"
        images = _array(path)
        if images.dtype != np.uint8:
            raise ValueError(
                f"{path}: images are {images.dtype}, must be bytes (uint8) from 0 to 255, as distributed: a float in "
                "[0, 1] was rounded in another way"
            )
        if images.ndim != 4 or images.shape[1:] != clean.image.shape[1:]:
            raise ValueError(
                f"{path}: images have shape {images.shape}, must be (n, {', '.join(map(str, clean.image.shape[1:]))}) "
                f"as those of {clean.info.name} are"
            )
        count, rest = divmod(len(images), SEVERITIES)
        if rest or len(label) not in (count, len(images)):
            raise ValueError(
                f"{path}: {len(images)} images with {len(label)} labels in labels.npy, must be five severities of as "
                "many images, and a label for each image of one severity or of all five"
            )
        if index.max() >= count:
            raise ValueError(
                f"{path}: {count} images of each severity, and {clean.info.name} has number {index.max()}, must be more"
            )
        found.append(images)
    count = len(found[0]) // SEVERITIES
    for level in range(len(label) // count):
        off = np.flatnonzero(label[level * count + index] != clean.label)
        if len(off):
            raise ValueError(
                f"{folder}/labels.npy: {len(off)} of {len(index)} labels differ from those of {clean.info.name}, the "
                f"first at image {index[off[0]]}: must be corrupted images of the same set in the same order"
            )

    def read(cell: int, start: int, stop: int) -> np.ndarray:
        level = int(severities[cell % len(severities)]) - 1
        return np.asarray(found[cell // len(severities)][level * count + index[start:stop]])

    return read


def _array(path: Path) -> np.ndarray:
    found = arrays(path, mapped=True).get("")
    if found is None:
        raise ValueError(f"{path}: holds several arrays, must be one")
    return found
