"""Scenes under many lights as a split: the pictures of a scene one below the other, to stream like one image."""

from collections.abc import Sequence

import numpy as np

from robustjax.data.decode import digest
from robustjax.data.sources import Info, Split

UNKNOWN = 255  # the label of a pixel whose material is not known


def lit(
    image: np.ndarray,
    material: np.ndarray,
    *,
    name: str,
    split: str,
    classes: Sequence[str],
    source: str = "rendered",
) -> Split:
    """Pack scenes: images become (n, lights h, w, c), labels stay (n, h, w); `perturbations.relit` takes them apart.

    Args:
      image: uint8 (n, lights, h, w, c).
      material: uint8 (n, h, w), a class of each pixel or 255 where it is not known.
      name, split: what to call them.
      classes: names of the materials.
      source: where they come from, for reports.
    Raises:
      ValueError: if an array has the wrong dtype or shape, or a label is out of range.
    """
    if image.dtype != np.uint8 or image.ndim != 5 or material.shape != (len(image), *image.shape[2:4]):
        raise ValueError(
            f"lit: images are {image.dtype}{list(image.shape)} and materials {list(material.shape)}, must be "
            "uint8[n lights h w c] and [n h w]"
        )
    known = material[material != UNKNOWN]
    if known.size and known.max() >= len(classes):
        raise ValueError(f"lit: a material is {known.max()}, must be below {len(classes)} or {UNKNOWN}")
    n, lights, height, width, channels = image.shape
    pixels = image.reshape(n, lights * height, width, channels)
    info = Info(
        name=name,
        split=split,
        classes=tuple(classes),
        count=n,
        per_class=tuple(np.bincount(known, minlength=len(classes)).tolist()),  # pixels
        sha256=digest(pixels),
        source=source,
        note=f"{lights} lights a scene",
    )
    return Split(pixels, material.astype(np.uint8), np.arange(n), info)
