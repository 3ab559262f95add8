"""OpenOOD's lists of images: one `path label` a line, read with a folder that the paths lie in."""

from pathlib import Path
from typing import Any

import numpy as np

from robustjax.checks import reading
from robustjax.data import lazy_pictures
from robustjax.data.lazy_pictures import LazyPictures
from robustjax.data.preprocessing import preprocessing
from robustjax.data.sources import Info, Split, per_class


def load(
    path: str | Path,
    folder: str | Path,
    *,
    preprocess: str,
    name: str,
    split: str,
    classes: int | None = None,
) -> Split:
    """Read a list; its pictures are decoded when they are asked for.

    Args:
      path: of the list.
      folder: that the paths of the list lie in.
      preprocess: what is made of each picture, by name, see `data.preprocessing`: OpenOOD takes Res32Crop32 for CIFAR
        and Res256Crop224 for ImageNet.
      name, split: what to call the set in reports.
      classes: labels must be below; None for OOD images, whose labels are not read: they are 0 here.
    Returns:
      The split, in the order of the list; `image` decodes the rows that are asked for.
    Raises:
      ValueError: in one line, if there is no such list, it is empty, a line is no relative path and a whole number, a
        label is out of range, a path is listed twice, or a picture is not there.

    Reference: Zhang et al. 2023, OpenOOD v1.5, arXiv:2306.09301, `benchmark_imglist`.
    """
    preprocessing(preprocess)
    path, folder = Path(path), Path(folder)
    names, label = entries(path, classes)
    there = [folder / file for file in names]
    absent = [file for file, place in zip(names, there, strict=True) if not place.is_file()]
    if absent:
        raise ValueError(
            f"{path}: {len(absent)} of {len(names)} pictures are not in {folder}, the first is {absent[0]}"
        )

    def read(rows: np.ndarray) -> list[Any]:
        return [there[i].read_bytes for i in rows]

    image: Any = LazyPictures(names, read, preprocess)
    info = Info(
        name=name,
        split=split,
        classes=tuple(map(str, range(classes or 1))),
        count=len(label),
        per_class=per_class(label, classes or 1),
        sha256=lazy_pictures.NO_DIGEST,
        source=f"the list {path}",
        note=f"preprocessed by {preprocess}",
    )
    return Split(image, label, np.arange(len(label)), info)


def entries(path: str | Path, classes: int | None = None) -> tuple[list[str], np.ndarray]:
    """Read the paths and labels of a list; without classes, labels are not read and are 0.

    Raises:
      ValueError: as `load`.
    """
    path = Path(path)
    with reading(path, "cannot be read as a list of images"):
        lines = path.read_text(encoding="utf-8").splitlines()
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, word = line.strip().partition(" ")
        if not word or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(
                f"{path}: line {number} is {line.strip()!r}, must be a path inside the folder and a label, such as "
                "cifar10/test/airplane/0001.png 0"
            )
        label = int(word) if word.strip().lstrip("-").isdecimal() else None
        if classes is not None and (label is None or not 0 <= label < classes):
            raise ValueError(
                f"{path}: line {number} has the label {word.strip()!r}, must be a whole number from 0 to {classes - 1}"
            )
        names.append(name)
        labels.append(0 if classes is None or label is None else label)
    if not names:
        raise ValueError(f"{path}: holds no line, must have one image a line")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: lists {len(names) - len(set(names))} images twice, must list each once")
    return names, np.array(labels, np.int32)
