"""Augmentation on the device: functions `(key, images) -> images`, with one key or one key per example."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from robustjax import checks
from robustjax.numerics import fold, keys_for, per_example
from robustjax.types import Images, Keys

Augment = Callable[[Keys, Images], Images]
Colour = float | Sequence[float]  # in [0, 1]: one grey level, or one value per channel


def crop(pad: int, *, fill: Colour = 0.0) -> Augment:
    """Pad all sides and cut a window of the old size anywhere: a shift by up to `pad` pixels each way.

    Args:
      pad: pixels, at least 0.
      fill: colour of the border.
    Raises:
      ValueError: if `pad` is negative or `fill` is outside [0, 1].
    """
    checks.count("crop", "pad", pad, least=0)
    colour = _colour("crop", fill)

    def cropped(key: Keys, images: Images) -> Images:
        checks.floats("crop", images, lower=-math.inf, upper=math.inf)  # labels of pixels may come along
        sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        inside = jnp.pad(jnp.ones_like(images, dtype=bool), sides)
        wide = jnp.where(inside, jnp.pad(images, sides), colour.astype(images.dtype))
        # One slice per example: on the CPU twice as fast as taking rows and then columns.
        corner = _integers(key, images, 0, 2 * pad + 1)
        size = images.shape[1:]
        return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], jnp.int32(0)), size))(
            wide, corner
        )

    return cropped


def flip() -> Augment:
    """Mirror left and right, every second image on average."""

    def flipped(key: Keys, images: Images) -> Images:
        chosen = jax.vmap(jax.random.bernoulli)(keys_for(key, len(images)))
        return jnp.where(per_example(chosen, images), images[:, :, ::-1], images)

    return flipped


def resized_crop(
    *, area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Augment:
    """Cut a window of random size, shape and place, and scale it to the size of the image.

    Its share of the area is uniform, the logarithm of width to height too. Of ten draws the first that fits is taken,
    and the whole image if none does.

    Args:
      area: least and largest share of the image.
      ratio: least and largest width to height.
    Raises:
      ValueError: if area is not in (0, 1], a ratio is not positive, or a pair falls.

    Reference: torchvision's RandomResizedCrop, on images that are square already; windows have fractions of pixels, and
      smaller ones are interpolated linearly, as larger ones are averaged.
    """
    if not (0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1] and math.isfinite(ratio[1])):
        raise ValueError(
            f"resized_crop: area is {area} and ratio {ratio}, must rise, the area in (0, 1], the ratio above 0"
        )

    def cropped(key: Keys, images: Images) -> Images:
        checks.floats("resized_crop", images, lower=-math.inf, upper=math.inf)
        height, width = images.shape[1:3]

        def one(key: PRNGKeyArray, image: Array) -> Array:
            shares, shapes, places = jax.random.split(key, 3)
            share = jax.random.uniform(shares, (10,), minval=area[0], maxval=area[1]) * height * width
            shape = jnp.exp(
                jax.random.uniform(shapes, (10,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
            )
            sides = jnp.stack([jnp.sqrt(share / shape), jnp.sqrt(share * shape)], axis=1)
            whole = jnp.asarray([height, width], jnp.float32)
            fits = (sides <= whole[None]).all(axis=1)
            side = jnp.where(fits.any(), sides[fits.argmax()], whole)
            corner = jax.random.uniform(places, (2,)) * (whole - side)
            scale = whole / side
            return jax.image.scale_and_translate(
                image, image.shape, (0, 1), scale, -corner * scale, method="linear"
            )

        return jax.vmap(one)(keys_for(key, len(images)), images)

    return cropped


def cutout(size: int, *, fill: Colour = 0.0) -> Augment:
    """Cover one square window of each image.

    The centre is uniform over the image, so a window at the border is cut off by it.

    Args:
      size: of the window, in pixels, at least 0.
      fill: its colour.
    Raises:
      ValueError: if `size` is negative or `fill` is outside [0, 1].

    Reference: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    checks.count("cutout", "size", size, least=0)
    colour = _colour("cutout", fill)

    def covered(key: Keys, images: Images) -> Images:
        checks.floats("cutout", images, lower=-math.inf, upper=math.inf)
        height, width = images.shape[1:3]
        keys = keys_for(key, len(images))
        # Drawn one axis at a time: the two may differ in length.
        top = _integers(fold(keys, 0), images, 0, height)[:, 0] - size // 2
        left = _integers(fold(keys, 1), images, 0, width)[:, 0] - size // 2
        row, column = jnp.arange(height)[None], jnp.arange(width)[None]
        across = (row >= top[:, None]) & (row < top[:, None] + size)
        along = (column >= left[:, None]) & (column < left[:, None] + size)
        window = across[:, :, None, None] & along[:, None, :, None]
        return jnp.where(window, colour.astype(images.dtype), images)

    return covered


def chain(*steps: Augment) -> Augment:
    """Apply one after the other, each with a key of its own."""

    def chained(key: Keys, images: Images) -> Images:
        keys = keys_for(key, len(images))
        for i, step in enumerate(steps):
            images = step(fold(keys, i), images)
        return images

    return chained


def _integers(key: Keys, images: Images, low: int, high: int) -> Int[Array, "b 2"]:
    keys = keys_for(key, len(images))
    return jax.vmap(lambda k: jax.random.randint(k, (2,), low, high))(keys)


def _colour(who: str, fill: Colour) -> Array:
    values = list(fill) if isinstance(fill, Sequence) else [fill]
    for value in values:
        checks.number(who, "fill", value, least=0, most=1)
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)
