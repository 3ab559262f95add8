"""Salient ImageNet: soft masks of what a robust network looks at, each labelled core or spurious by people."""

import ast
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from robustjax.checks import reading
from robustjax.data import trees
from robustjax.data.scenes import Scenes

SPURIOUS = ("separate_object", "background")  # answers of workers
ENOUGH = 3  # of five answers make a feature spurious


def annotations(answers: str | Path) -> dict[int, dict[int, str]]:
    """Read the workers' answers, discover_spurious_features.csv: class -> feature -> "core" or "spurious".

    Raises:
      ValueError: if the file is absent or has other columns.
    """
    path = trees.needed("salient_imagenet", Path(answers), "the answers of the workers")
    rows = trees.table(path, ("Input.class_index", "Input.feature_index", "Answer.main"))
    votes: Counter[tuple[int, int]] = Counter()
    with reading(path, "the numbers of classes and features must be whole"):
        for row in rows:
            key = int(row["Input.class_index"]), int(row["Input.feature_index"])
            votes[key] += row["Answer.main"] in SPURIOUS
    found: dict[int, dict[int, str]] = {}
    for (k, feature), count in votes.items():
        found.setdefault(k, {})[feature] = "spurious" if count >= ENOUGH else "core"
    return found


def salient_imagenet(
    root: str | Path, answers: str | Path, kind: Literal["core", "spurious"], *, size: int = 224
) -> Scenes:
    """Read <root>/<wnid>/feature_<k>/images and cams, by <wnid>/image_fnames.csv, for features of one kind.

    An image that shows several features of the kind has the pixelwise maximum of their masks. Accuracy under
    noise on core masks is called spurious accuracy: what it measures is what remains.

    Args:
      root: salient_imagenet_dataset.
      answers: see `annotations`.
      kind: which features.
      size: pixels a side.
    Returns:
      Scenes whose labels are ImageNet's class numbers 0..999, of the classes that have such features.
    Raises:
      ValueError: for an unknown kind, or files that are absent or not as published.

    Reference: Singla and Feizi 2022, arXiv:2110.04301.
    """
    root = Path(root)
    if kind not in ("core", "spurious"):
        raise ValueError(f"salient_imagenet: kind is {kind!r}, must be core or spurious")
    wnids = _wnids(trees.needed("salient_imagenet", root / "wordnet_dict.py", "salient_imagenet_dataset"))
    files: list[Path] = []
    label: list[int] = []
    cams: list[list[Path]] = []
    for k, features in sorted(annotations(answers).items()):
        shown: dict[str, list[Path]] = {}
        for feature in (f for f, what in features.items() if what == kind):
            folder = root / wnids.get(k, f"class {k}, which wordnet_dict.py does not name,")
            path = trees.needed("salient_imagenet", folder / "image_fnames.csv", "salient_imagenet_dataset")
            for row in trees.table(path, (str(feature),)):
                if name := row[str(feature)]:
                    shown.setdefault(name, []).append(folder / f"feature_{feature}")
        for name, folders in sorted(shown.items()):
            files.append(folders[0] / "images" / f"{name}.jpeg")
            cams.append([f / "cams" / f"{name}.jpeg" for f in folders])
            label.append(k)
    for path in (p for paths in cams for p in paths):
        trees.needed("salient_imagenet", path, "salient_imagenet_dataset with its masks")
    return trees.scenes(
        f"Salient ImageNet, {kind} features",
        files,
        label,
        classes=tuple(wnids.get(k, str(k)) for k in range(1000)),
        masks=[partial(_strongest, paths) for paths in cams],
        fit=trees.scaled_and_cropped,
        size=size,
    )


def _wnids(path: Path) -> dict[int, str]:
    """Read a dictionary written as Python, without running it."""
    with reading(path, "not a plain dictionary of numbers and names"):
        found = ast.literal_eval(path.read_text(encoding="utf-8").strip())
        return {int(k): str(v) for k, v in found.items()}


def _strongest(paths: list[Path]) -> Image.Image:
    return Image.fromarray(np.max([np.asarray(trees.read_picture(p).convert("L")) for p in paths], axis=0))
