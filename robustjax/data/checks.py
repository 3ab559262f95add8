"""Check arrays that someone brings before an experiment spends hours on them."""

import numpy as np
from jaxtyping import Array

from robustjax.types import Batch


def validate(image: Array | np.ndarray, label: Array | np.ndarray, classes: int) -> Batch:
    """Return the batch if it is what everything here works on: float32 (b, h, w, c) in [0, 1], int32 (b,).

    Raises:
      ValueError: saying what is wrong, in one line.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3):
        raise ValueError(f"validate: images are {list(image.shape)}, must be [b h w c] with 1 or 3 channels")
    if not image.shape[0]:
        raise ValueError("validate: there are no images, must be at least one")
    if image.dtype != np.float32:
        hint = "; convert with x.astype('float32') / 255" if image.dtype == np.uint8 else ""
        raise ValueError(f"validate: images are {image.dtype}, must be float32 in [0, 1]{hint}")
    if label.shape != image.shape[:1]:
        raise ValueError(
            f"validate: labels are {list(label.shape)} for {image.shape[0]} images, must be one for each"
        )
    if label.dtype != np.int32:
        raise ValueError(f"validate: labels are {label.dtype}, must be int32")
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).reshape(len(pixels), -1).any(axis=1).sum())
        raise ValueError(f"validate: {bad} images hold NaN or infinity, must be finite")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        hint = "; divide by 255" if low >= 0 and 1 < high <= 255 else ""
        raise ValueError(f"validate: images lie in [{low:g}, {high:g}], must be in [0, 1]{hint}")
    least, most = int(np.asarray(label).min()), int(np.asarray(label).max())
    if least < 0 or most >= classes:
        raise ValueError(f"validate: labels run from {least} to {most}, must be in 0..{classes - 1}")
    return Batch(image, label)  # pyright: ignore[reportArgumentType] numpy's arrays serve as well
