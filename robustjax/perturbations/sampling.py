"""Read images between their pixels: bilinear or nearest, with a choice of what lies beyond the border."""

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Border = Literal["zero", "edge", "symmetric", "mirror"]
Image = Float[Array, "h w c"]
Coordinate = Float[Array, "*grid"]
Sampler = Callable[
    [Image, Coordinate, Coordinate, Border], Array
]  # (image, rows, columns, border) -> [*grid c]


def bilinear(image: Image, rows: Coordinate, columns: Coordinate, border: Border) -> Array:
    """Interpolate one image linearly at real coordinates, in pixels; pixel centres are whole numbers.

    Beyond the border lies zero, the last pixel ("edge"), the image mirrored about its edge ("symmetric",
    d c b a | a b c d) or about its last pixel ("mirror", d c b | a b c d). It is differentiable in the image
    and in the coordinates, and exact at whole ones.
    """
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = (1.0 - right) * _pixels(image, top, left, border) + right * _pixels(image, top, left + 1, border)
    lower = (1.0 - right) * _pixels(image, top + 1, left, border) + right * _pixels(
        image, top + 1, left + 1, border
    )
    return (1.0 - down) * upper + down * lower


def nearest(image: Image, rows: Coordinate, columns: Coordinate, border: Border) -> Array:
    """Take the pixel whose centre is nearest, halves rounded up; its gradient in the coordinates is zero."""
    row, column = (jnp.floor(at + 0.5).astype(jnp.int32) for at in (rows, columns))
    return _pixels(image, row, column, border)


def folded(index: Int[Array, "*n"], size: int, border: Border) -> Int[Array, "*n"]:
    """Turn any whole coordinate into one inside [0, size) according to the border, zero counting as edge.

    Raises:
      ValueError: if the border is unknown.
    """
    check_border("folded", border)
    if border == "symmetric":
        place = index % (2 * size)
        return jnp.where(place < size, place, 2 * size - 1 - place)
    if border == "mirror":
        period = max(2 * (size - 1), 1)
        place = index % period
        return jnp.minimum(place, period - place) if size > 1 else jnp.zeros_like(index)
    return jnp.clip(index, 0, size - 1)


def check_border(who: str, border: str) -> None:
    """Refuse an unknown border.

    Raises:
      ValueError: if it is not one of `Border`.
    """
    if border not in get_args(Border):
        raise ValueError(f"{who}: border is {border!r}, must be one of {', '.join(get_args(Border))}")


def _pixels(image: Image, rows: Int[Array, "*grid"], columns: Int[Array, "*grid"], border: Border) -> Array:
    height, width = image.shape[:2]
    values = image[folded(rows, height, border), folded(columns, width, border)]
    if border != "zero":
        return values
    inside: Bool[Array, "*grid"] = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return jnp.where(inside[..., None], values, 0.0)
