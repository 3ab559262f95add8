"""How pictures of any size become what a network takes, by the names that RobustBench gives: Res256Crop224, Crop288 ...

To the pixel as torchvision does it with Pillow: bilinear or bicubic with antialiasing, then the centre.
"""

import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from robustjax.data.resize import to_square

Preprocess = Callable[[Image.Image], np.ndarray]  # a picture -> bytes (side, side, 3)
NAMES = re.compile(r"(?P<bicubic>Bicubic)?(Res(?P<size>[1-9]\d{0,3}))?(Crop(?P<crop>[1-9]\d{0,3}))?")
SQUARE = re.compile(r"Square(?P<size>[1-9]\d{0,3})")
USUAL = "Res256Crop224"  # of networks on ImageNet


def preprocessing(name: str) -> Preprocess:
    """Build a preprocessing from its name.

    `Res256Crop224` scales the shorter side to 256 pixels and cuts the centre of 224 x 224 out; `Crop288` only cuts;
    `Res224` scales both sides to 224, whatever the shape. `Bicubic` before it is the filter, by default bilinear. So
    `BicubicRes248Crop224` is what timm calls bicubic with a crop of 0.9. `Square224` is what `size` does everywhere:
    the largest square in the centre, scaled.

    Raises:
      ValueError: in one line, for another name, or a crop that is larger than the scaled picture.

    Reference: torchvision's Resize and CenterCrop on pictures of Pillow; names of RobustBench, Croce et al. 2021,
      arXiv:2010.09670.
    """
    if (square := SQUARE.fullmatch(name)) is not None:
        length = int(square["size"])
        return lambda picture: np.asarray(to_square(picture.convert("RGB"), length))
    size, crop, resample = _read(name)

    def preprocess(picture: Image.Image) -> np.ndarray:
        picture = picture.convert("RGB")
        if size is not None:
            width, height = picture.size
            if crop is None:
                wanted = size, size
            else:  # the longer side is cut off, not rounded
                wanted = (size, size * height // width) if width <= height else (size * width // height, size)
            picture = picture if wanted == picture.size else picture.resize(wanted, resample)
        return np.asarray(picture if crop is None else _centre(picture, crop))

    return preprocess


def side(name: str) -> int:
    """Say how many pixels a side the images have that a preprocessing makes."""
    if (square := SQUARE.fullmatch(name)) is not None:
        return int(square["size"])
    size, crop, _ = _read(name)
    return crop or size or 0


def _read(name: str) -> tuple[int | None, int | None, Image.Resampling]:
    match = NAMES.fullmatch(name)
    if match is None or not (match["size"] or match["crop"]) or (match["bicubic"] and not match["size"]):
        raise ValueError(
            f"preprocessing is {name!r}, must be like Res256Crop224, BicubicRes256Crop224, Crop288, Res224 or Square224"
        )
    size, crop = (int(match[group]) if match[group] else None for group in ("size", "crop"))
    if size and crop and crop > size:
        raise ValueError(f"preprocessing is {name!r}, must not crop to more than the scaled {size} pixels")
    return size, crop, Image.Resampling.BICUBIC if match["bicubic"] else Image.Resampling.BILINEAR


def _centre(picture: Image.Image, crop: int) -> Image.Image:
    """Cut the centre out; where a side is shorter, black is added on both sides first."""
    width, height = picture.size
    if crop > width or crop > height:
        left, top = max(crop - width, 0) // 2, max(crop - height, 0) // 2
        larger = Image.new(picture.mode, (max(crop, width), max(crop, height)))
        larger.paste(picture, (left, top))
        picture, (width, height) = larger, larger.size
    # Python rounds halves to the even number, as torchvision does by it.
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return picture.crop((left, top, left + crop, top + crop))
