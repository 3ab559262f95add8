"""ImageNet-9: nine classes whose foregrounds and backgrounds are exchanged, the backgrounds challenge."""

import re
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from robustjax.data import trees
from robustjax.data.layouts import arrays
from robustjax.data.pictures import SUFFIXES
from robustjax.data.planted import Variant
from robustjax.data.scenes import Scenes

CLASSES = ("dog", "bird", "vehicle", "reptile", "carnivore", "insect", "instrument", "primate", "fish")
VARIANTS = tuple(v for v in get_args(Variant) if v != "mixed_other")
_NAME = re.compile(r"n\d{8}_\d+")


def imagenet9(root: str | Path, variant: str, *, size: int = 224) -> Scenes:
    """Read <root>/<variant>/val/<00_dog ... 08_fish>/*.JPEG with <root>/fg_mask/val/<class>/*.npy.

    Pictures are in the order of class and foreground. The mask belongs to the foreground that a picture is named
    after, first in its name; where some picture has no such mask, the set has none.

    Args:
      root: the folder of the variants.
      variant: original, mixed_same, mixed_rand, mixed_next, only_fg, no_fg, only_bg_b or only_bg_t.
      size: pixels a side; the released pictures have 224.
    Returns:
      Scenes; `place` is the class of the background where the variant tells it.
    Raises:
      ValueError: for an unknown variant, or files that are absent or not as published.

    Reference: Xiao et al. 2020, arXiv:2006.09994.
    """
    root = Path(root)
    if variant not in VARIANTS:
        raise ValueError(f"imagenet9: variant is {variant!r}, must be one of {', '.join(VARIANTS)}")
    folder = trees.needed("imagenet9", root / variant / "val", "the backgrounds challenge")
    found: list[tuple[int, str, Path]] = []
    for k, name in enumerate(CLASSES):
        inside = trees.needed("imagenet9", folder / f"{k:02}_{name}", "the backgrounds challenge")
        files = [p for p in inside.iterdir() if p.suffix.lower() in SUFFIXES]
        found += sorted((k, _foreground(path), path) for path in files)
    label = [k for k, _, _ in found]
    mask_files = [root / "fg_mask" / "val" / f"{k:02}_{CLASSES[k]}" / f"{name}.npy" for k, name, _ in found]
    known = {"mixed_rand": None, "mixed_next": [(k + 1) % 9 for k in label]}.get(variant, label)
    return trees.scenes(
        f"ImageNet-9 {variant}",
        [path for _, _, path in found],
        label,
        classes=CLASSES,
        place=known,
        places=CLASSES,
        masks=[partial(_mask, p) for p in mask_files] if all(p.is_file() for p in mask_files) else None,
        size=size,
    )


def to_imagenet9(path: str | Path) -> np.ndarray:
    """Read in_to_in9.json: for each of the 1000 ImageNet classes its coarse class, or -1, for `backgrounds.coarse`.

    Raises:
      ValueError: if it is absent or does not map exactly the classes 0..999 to -1..8.
    """
    found = trees.mapping(
        trees.needed("imagenet9", Path(path), "in_to_in9.json of the backgrounds challenge")
    )
    if {str(k) for k in range(1000)} != set(found) or not all(k in range(-1, 9) for k in found.values()):
        raise ValueError(f"{path}: maps {len(found)} classes, must map 0..999 to -1..8")
    return np.array([found[str(k)] for k in range(1000)], np.int32)


def _foreground(path: Path) -> str:
    named = _NAME.search(path.stem)
    return named[0] if named else path.stem


def _mask(path: Path) -> Image.Image:
    mask = arrays(path).get("")
    if mask is None or mask.ndim != 2 or mask.dtype.kind not in "biuf" or not mask.size:
        raise ValueError(f"{path}: must hold one array (h, w), above 0 on the object")
    return Image.fromarray(((mask > 0) * 255).astype(np.uint8))
