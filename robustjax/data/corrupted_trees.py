"""ImageNet-C and ImageNet-3DCC: trees of corrupted pictures, corruption/severity/class/picture."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.data.lazy_pictures import LazyPictures
from robustjax.data.sources import Split

SEVERITIES = ("1", "2", "3", "4", "5")
IMAGENET_3DCC = (
    "near_focus", "far_focus", "bit_error", "color_quant", "flash", "fog_3d", "h265_abr", "h265_crf", "iso_noise",
    "low_light", "xy_motion_blur", "z_motion_blur",
)  # fmt: skip


def folders(root: Path) -> dict[str, Path]:
    """Find the folder of each corruption: those with a folder for a severity, or one level deeper, as in noise/."""
    found: dict[str, Path] = {}
    for folder in [*sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        if any((folder / severity).is_dir() for severity in SEVERITIES):
            found.setdefault(folder.name, folder)
    return found


def cells(
    root: Path, clean: Split, corruptions: Sequence[str], severities: Sequence[int], *, preprocess: str
) -> Callable[[int, int, int], np.ndarray]:
    """Find the corrupted pictures of every image of a split: those of the same class and name.

    Args:
      root: folder of the tree.
      clean: pictures as they are, see `picture_tree.load`.
      corruptions: names.
      severities: whole numbers from 1 to 5.
      preprocess: what is made of a corrupted picture, by name; RobustBench takes Res224 whatever the network has.
    Returns:
      read(cell, start, stop) -> bytes, see `evaluation.corruptions.Cells`.
    Raises:
      ValueError: in one line, for corruptions, severities or pictures that are not there, or clean images without the
        names of files.
    """
    pictures: Any = clean.image
    if not isinstance(pictures, LazyPictures):
        raise ValueError(
            f"{root}: corrupted pictures are found by the names of the clean ones, which {clean.info.name} has not; "
            "must be a folder tree (--source.folder) or prepared pictures with --source.preprocessing"
        )
    there = folders(root)
    if absent := [name for name in corruptions if name not in there]:
        raise ValueError(
            f"{root}: {', '.join(absent)} missing, must be folders corruption/severity/class/picture; corruptions that "
            f"lie there: {', '.join(sorted(there)) or 'none'}"
        )
    inside = [
        Path(clean.info.classes[kind], str(name))
        for kind, name in zip(clean.label, pictures.names, strict=True)
    ]
    needed: dict[str, list[str]] = {}
    for path in inside:
        needed.setdefault(str(path.parent), []).append(path.name)
    homes = [there[name] / str(severity) for name in corruptions for severity in severities]
    for home in homes:
        _require(home, needed, len(inside))

    def read(cell: int, start: int, stop: int) -> np.ndarray:
        paths = [homes[cell] / path for path in inside[start:stop]]
        names = [path.name for path in paths]
        return LazyPictures(names, lambda rows: [paths[i].read_bytes for i in rows], preprocess)[:]

    return read


def _require(home: Path, needed: dict[str, list[str]], count: int) -> None:
    """Look for the pictures of a cell, before any work."""
    absent: list[str] = []
    for kind, names in needed.items():
        folder = home / kind
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        absent += [f"{kind}/{name}" for name in names if name not in there]
    if absent:
        raise ValueError(
            f"{home}: {len(absent)} of {count} pictures missing, must be there for each clean one; the first is "
            f"{absent[0]}"
        )
