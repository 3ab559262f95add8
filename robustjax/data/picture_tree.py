"""ImageNet's validation images as a tree of files, one folder for each class, decoded when they are asked for."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.checks import reading
from robustjax.data import lazy_pictures
from robustjax.data.lazy_pictures import NO_DIGEST, LazyPictures
from robustjax.data.pictures import SUFFIXES
from robustjax.data.preprocessing import USUAL, preprocessing
from robustjax.data.sources import Info, Split, per_class


def load(
    folder: str | Path,
    *,
    preprocess: str = USUAL,
    listed: str | Path | None = None,
    name: str = "imagenet2012",
) -> Split:
    """Find the pictures of a folder `class/picture.JPEG`; a folder `val` inside it is taken instead.

    The label is the place of the class among the sorted folders, as torchvision's ImageFolder has it. The index is the
    number at the end of the file's name (ILSVRC2012_val_00000293.JPEG), which is also the official order; where names
    have no numbers of their own, the position in the order of class and name.

    Args:
      folder: of the tree.
      preprocess: what is made of each picture, by name, see `data.preprocessing`.
      name: what to call the set in reports.
    Returns:
      The split; `image` decodes the rows that are asked for.
    Raises:
      ValueError: in one line, if the folder holds no such tree, or a class without pictures, which would shift the
        labels of the others, or for an unknown preprocessing.
    """
    preprocessing(preprocess)
    root = Path(folder)
    root = root / "val" if (root / "val").is_dir() else root
    classes, files = _tree(root)
    found = [(label, file) for label, inside in enumerate(files) for file in inside]
    label = np.array([label for label, _ in found], np.int32)
    names = [file for _, file in found]
    number = lazy_pictures.numbers(names)
    if number is None:
        number = np.arange(len(names))
    else:
        order = np.argsort(number, kind="stable")
        label, number, names = label[order], number[order], [names[i] for i in order]

    def read(rows: np.ndarray) -> list[Any]:
        return [(root / classes[label[i]] / names[i]).read_bytes for i in rows]

    image: Any = LazyPictures(names, read, preprocess)
    info = Info(
        name=name,
        split="test",
        classes=tuple(classes),
        count=len(label),
        per_class=per_class(label, len(classes)),
        sha256=NO_DIGEST,
        source=f"pictures in {root}",
        note=f"preprocessed by {preprocess}",
    )
    return Split(image, label, number, info)


def _tree(root: Path) -> tuple[list[str], list[list[str]]]:
    """List the classes, and the pictures of each, sorted."""
    if not root.is_dir():
        raise ValueError(f"{root}: is no folder, must hold a folder of pictures for each class")
    there = (entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    classes = sorted(entry.name for entry in there)
    if not classes:
        raise ValueError(
            f"{root}: holds no folders, must hold a folder of pictures for each class, such as n01440764"
        )
    files = [pictures(root / name) for name in classes]
    if empty := [name for name, inside in zip(classes, files, strict=True) if not inside]:
        raise ValueError(
            f"{root}: {len(empty)} of {len(classes)} folders hold no picture, the first is {empty[0]}; each must be a "
            "class, or labels are shifted"
        )
    return classes, files


def pictures(folder: Path) -> list[str]:
    """List the names of the pictures in a folder, sorted."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )


def listed(split: Split, path: str | Path) -> Split:
    """Take the pictures that a file names, one `class/picture.JPEG` a line, in its order.

    RobustBench's imagenet_test_image_ids.txt is such a file: the 5,000 validation pictures of its boards.

    Args:
      split: from `load`, or prepared pictures (`data.load` with `preprocess`).
      path: of the list.
    Raises:
      ValueError: in one line, for a picture that is not there or named twice, or images without names of files.
    """
    path, pictures = Path(path), split.image
    if not isinstance(pictures, LazyPictures):
        raise ValueError(f"{path}: the images of {split.info.name} have no names of files, must be pictures")
    with reading(path, "cannot be read as a list of pictures"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no line, must have one class/picture.JPEG a line")
    kinds = [split.info.classes[label] for label in split.label]
    place = {f"{kind}/{name}": i for i, (kind, name) in enumerate(zip(kinds, pictures.names, strict=True))}
    if absent := [line for line in lines if line not in place]:
        raise ValueError(
            f"{path}: {len(absent)} of {len(lines)} lines name no picture of {split.info.name}, the first is "
            f"{absent[0]!r}; must be like n01440764/ILSVRC2012_val_00000293.JPEG"
        )
    if twice := len(lines) - len(set(lines)):
        raise ValueError(f"{path}: names {twice} pictures twice, must name each once")
    rows = np.array([place[line] for line in lines])
    label = split.label[rows]
    info = dataclasses.replace(
        split.info,
        name=f"{split.info.name} ({path.name})",
        count=len(label),
        per_class=per_class(label, len(split.info.classes)),
        note=f"{len(label)} of {len(split.label)} pictures, those of {path.name}. {split.info.note}",
    )
    return Split(lazy_pictures.taken(pictures, rows), label, split.index[rows], info)
