"""Windows of random size, shape and place, as torchvision's RandomResizedCrop cuts them out of pictures of any size."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from robustjax.data.order import mixed

Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels, the last two excluded
TRIES = 10
_WINDOW = 0x77696E646F77


@dataclasses.dataclass(frozen=True)
class Windows:
    """How windows are drawn.

    Attributes:
      area: least and largest share of the picture.
      ratio: least and largest width to height.
    Raises:
      ValueError: if area is not in (0, 1], a ratio is not positive, or a pair falls.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        area, ratio = self.area, self.ratio
        if not (0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1] and math.isfinite(ratio[1])):
            raise ValueError(
                f"Windows: area is {area} and ratio {ratio}, must rise, the area in (0, 1], the ratio above 0"
            )

    def box(self, width: int, height: int, draws: Float64[np.ndarray, "22"]) -> Box:
        """Choose a window: of ten draws of share and shape the first that fits, else the largest in the middle.

        The share of the area is uniform, the logarithm of width to height too, and so is the place among all whole
        pixels.

        Args:
          width, height: of the picture, pixels.
          draws: uniform in [0, 1): ten for the share, ten for the shape, two for the place.

        Reference: torchvision's RandomResizedCrop, whose windows have the same distribution; other random numbers.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for share, shape in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
            pixels = width * height * (self.area[0] + (self.area[1] - self.area[0]) * share)
            ratio = math.exp(low + (high - low) * shape)
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draws[-2] * (width - w + 1)), int(draws[-1] * (height - h + 1))
                return left, top, left + w, top + h
        w, h = width, height
        if width < self.ratio[0] * height:
            h = round(width / self.ratio[0])
        elif width > self.ratio[1] * height:
            w = round(height * self.ratio[1])
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def draws(positions: Int64[np.ndarray, "b"], *, seed: int, lane: int = 0) -> Float64[np.ndarray, "b 22"]:
    """Draw the numbers of a window for positions of the endless sequence of epochs, by hashing; see `order.rows`.

    They depend on seed and position alone: not on the batch size, on processes, or on what was drawn before.
    """
    words = mixed(_WINDOW, seed, lane, positions[:, None], np.arange(2 * TRIES + 2))
    return (words >> np.uint64(11)) * 2.0**-53


def cut(picture: Image.Image, windows: Windows, draws: Float64[np.ndarray, "22"], *, side: int) -> np.ndarray:
    """Cut a window out of a picture and scale it to bytes (side, side, 3), bilinear with antialiasing."""
    box = windows.box(*picture.size, draws)
    # Cut first: scaling a box of the whole would mix pixels beside it in.
    part = picture.convert("RGB").crop(box)
    return np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))
