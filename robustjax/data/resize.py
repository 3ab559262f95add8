"""Bring pictures of any size to one square size."""

from PIL import Image


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """Crop the centre and scale it to `size` pixels a side.

    Shrinking averages areas, so 64 to 32 pixels is the mean of each 2 x 2 block; enlarging is bicubic.

    Raises:
      ValueError: if the size is below 1.
    """
    if size < 1:
        raise ValueError(f"to_square: size is {size}, must be at least 1 pixel")
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    if short % size == 0:  # exact, where resize rounds twice, once for each axis
        return picture.reduce(short // size, box=box)
    how = Image.Resampling.BOX if size < short else Image.Resampling.BICUBIC
    return picture.resize((size, size), how, box=box)
