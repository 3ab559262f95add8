"""RIVAL10: twenty ImageNet classes in ten, with a mask of the object for every image."""

import base64
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from robustjax.checks import reading
from robustjax.data import array_pickles, trees
from robustjax.data.pictures import from_bytes
from robustjax.data.scenes import Scenes

CLASSES = ("truck", "car", "plane", "ship", "cat", "dog", "equine", "deer", "frog", "bird")
WNIDS = (
    ("n03796401", "n04467665"),
    ("n02814533", "n03100240"),
    ("n02690373", "n04552348"),
    ("n03673027", "n03095699"),
    ("n02123394", "n02124075"),
    ("n02099712", "n02099601"),
    ("n02389026", "n02391049"),
    ("n02423022", "n02422699"),
    ("n01644900", "n01644373"),
    ("n01531178", "n01532829"),
)
_LABEL = {wnid: k for k, pair in enumerate(WNIDS) for wnid in pair}


def rival10(root: str | Path, split: str, *, size: int = 224) -> Scenes:
    """Read <root>/<split>/ordinary/<wnid>_<number>.JPEG with <wnid>_<number>_attr_dict.pkl beside each.

    Pictures and masks are squashed to the size, as published. The pickle holds masks as base64 text, that of the
    object under "entire-object"; it is read without running anything it may ask for.

    Args:
      root: the folder that holds train/ and test/.
      split: "train" or "test".
      size: pixels a side.
    Raises:
      ValueError: for an unknown split, files that are absent, or a picture of no known class.

    Reference: Moayeri et al. 2022, arXiv:2201.10766. Mask pixels count as object from half of white on; the
      authors' reader counts whatever is not black, which JPEG's ringing widens.
    """
    if split not in ("train", "test"):
        raise ValueError(f"rival10: split is {split!r}, must be one of train, test")
    folder = trees.needed("rival10", Path(root) / split / "ordinary", "RIVAL10")
    files = sorted(p for p in folder.glob("*.JPEG") if not p.stem.endswith("_merged_mask"))
    unknown = [p for p in files if p.stem.split("_")[0] not in _LABEL]
    if unknown:
        raise ValueError(f"rival10: {unknown[0]} is named after no class of RIVAL10")
    dictionaries = [p.with_name(f"{p.stem}_attr_dict.pkl") for p in files]
    for path in dictionaries:
        trees.needed("rival10", path, "RIVAL10 with its masks")
    return trees.scenes(
        f"RIVAL10 {split}",
        files,
        [_LABEL[p.stem.split("_")[0]] for p in files],
        classes=CLASSES,
        masks=[partial(_mask, path) for path in dictionaries],
        fit=trees.squashed,
        size=size,
    )


def _mask(path: Path) -> Image.Image:
    with reading(path, "not the masks of RIVAL10"):
        content = base64.b64decode(array_pickles.loads(path.read_bytes())["entire-object"])
    grey = np.asarray(from_bytes(content, str(path)).convert("L"))
    return Image.fromarray(np.where(grey >= 128, 255, 0).astype(np.uint8))
