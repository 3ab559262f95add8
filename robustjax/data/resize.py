"""Bring pictures of any size to one square size."""

from PIL import Image


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """Scale the short side to `size` pixels and crop the centre.

    Shrinking averages areas, so 64 to 32 pixels is the mean of each 2 x 2 block; enlarging is bicubic.
    """
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    how = Image.Resampling.BOX if size <= short else Image.Resampling.BICUBIC
    return picture.resize((size, size), how, box=(left, top, left + short, top + short))
