"""Patches of the two photographs that come with scikit-learn: natural OOD images that need no download."""

from typing import Literal

import numpy as np
from jaxtyping import UInt8

Photo = Literal["china", "flower"]
HEIGHT = 427  # pixels; both are 640 wide


def patches(
    photo: Photo, *, count: int, size: int = 8, scales: tuple[int, ...] | None = None, seed: int = 0
) -> UInt8[np.ndarray, "n s s 1"]:
    """Cut grey squares out of a photograph and stretch each to the whole range from black to white.

    Train on one photograph and test on the other: their patches have no pixel in common.

    Args:
      photo: "china", a palace, or "flower", a dahlia.
      count: how many patches, evenly over the scales.
      size: pixels a side.
      scales: the photograph is shrunk by these factors, by averaging blocks; by default 1, 2 and 4, as far as a
        patch of that size then fits.
      seed: of the places.
    Raises:
      ValueError: if count, size or a scale is below 1, a patch does not fit into the photograph, or scikit-learn or
        Pillow is not installed.
    """
    if scales is None:
        scales = tuple(factor for factor in (1, 2, 4) if factor == 1 or factor * size <= HEIGHT)
    if count < 1 or size < 1 or not scales or min(scales) < 1:
        raise ValueError(
            f"patches: count, size and scales are {(count, size, scales)}, must be at least 1 each"
        )
    if size * max(scales) > HEIGHT:
        raise ValueError(
            f"patches: size and scales are {size} and {scales}, their product must be at most {HEIGHT} pixels"
        )
    try:
        from sklearn.datasets import load_sample_image

        colour = load_sample_image(f"{photo}.jpg")
    except ImportError as error:
        raise ValueError("patches: needs scikit-learn and Pillow, pip install scikit-learn pillow") from error
    grey = colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    rng = np.random.default_rng(seed)
    out = np.empty((count, size, size, 1), np.uint8)
    for i in range(count):
        factor = scales[i % len(scales)]
        side = size * factor
        top, left = (int(rng.integers(0, length - side + 1)) for length in grey.shape)
        block = grey[top : top + side, left : left + side]
        patch = block.reshape(size, factor, size, factor).mean(axis=(1, 3))
        span = patch.max() - patch.min()
        # A patch of clear sky has nothing to stretch: it stays at its own grey.
        level = (patch - patch.min()) / span if span > 1e-6 else patch / 255
        out[i, ..., 0] = np.round(255 * level)
    return out
