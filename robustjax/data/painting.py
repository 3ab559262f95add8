"""The pieces that planted scenes are painted from: enlarged digits, textures, boxes. Float64 numpy."""

import numpy as np


def enlarged(image: np.ndarray, size: int) -> np.ndarray:
    """Interpolate squares (n, h, w) linearly between pixel centres; outside of the centres the edge goes on."""
    for axis in (1, 2):
        here = image.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * here / size - 0.5, 0, here - 1)
        low = np.floor(position).astype(np.int64)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, here - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def pasted(image: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """Put each image (n, f, f) on a black square of `size` pixels, its corner at offset (n, 2): row, column."""
    out = np.zeros((len(image), size, size))
    inside = np.arange(image.shape[1])
    rows, columns = offset[:, :1] + inside, offset[:, 1:] + inside
    out[np.arange(len(image))[:, None, None], rows[:, :, None], columns[:, None, :]] = image
    return out


def textures(kind: np.ndarray, phase: np.ndarray, *, classes: int, size: int) -> np.ndarray:
    """Paint texture k of K in [-1, 1]: stripes at the angle pi k / K, 3 or 5 to the image, of the hue 2 pi k / K.

    Args:
      kind: k (n,).
      phase: of the stripes (n,), in radians.
      classes: K.
      size: pixels a side.
    Returns:
      (n, size, size, 3): 0.6 of the stripes plus 0.4 of the tint.
    """
    centre = (np.arange(size) + 0.5) / size
    angle, hue = np.pi * kind / classes, 2 * np.pi * kind / classes
    frequency = np.where(kind % 2 == 0, 3, 5)
    along = centre[:, None] * np.cos(angle)[:, None, None] + centre * np.sin(angle)[:, None, None]
    waves = np.sin(2 * np.pi * frequency[:, None, None] * along + phase[:, None, None])
    tint = np.cos(hue[:, None] - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3]))
    return 0.6 * waves[..., None] + 0.4 * tint[:, None, None, :]


def boxes(mask: np.ndarray) -> np.ndarray:
    """Fill the bounding box of each mask (n, h, w)."""

    def between(axis: int) -> np.ndarray:
        line = np.any(mask, axis=axis, keepdims=True)
        along = 3 - axis
        after = np.logical_or.accumulate(line, axis=along)
        return after & np.flip(np.logical_or.accumulate(np.flip(line, along), axis=along), along)

    return between(1) & between(2)
