"""What Pillow does to the tones of an 8-bit image, as array code on one image of whole numbers from 0 to 255."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Levels = Int[Array, "h w c"]  # int32
Factor = Float[Array, ""]


def inverted(image: Levels) -> Levels:
    """Take every value from 255."""
    return 255 - image


def posterized(image: Levels, bits: Int[Array, ""]) -> Levels:
    """Keep the highest bits, 0 to 8 of them."""
    return image >> (8 - bits) << (8 - bits)


def solarized(image: Levels, threshold: Factor) -> Levels:
    """Invert values that reach a threshold."""
    return jnp.where(image.astype(jnp.float32) < threshold, image, 255 - image)


def autocontrasted(image: Levels) -> Levels:
    """Stretch every channel to 0..255, rounding down; a channel of one value stays.

    Pillow computes in float64, and comes out one lower for some values that would be whole numbers.
    """
    low, high = (of(image, axis=(0, 1), keepdims=True) for of in (jnp.min, jnp.max))
    return jnp.where(high > low, (image - low) * 255 // jnp.maximum(high - low, 1), image)


def equalized(image: Levels) -> Levels:
    """Give every channel a flat histogram, as far as 8 bits go."""
    channels = image.shape[-1]
    counts = jnp.zeros((256, channels), jnp.int32).at[image, jnp.arange(channels)].add(1)
    at_top = jnp.take_along_axis(counts, image.max(axis=(0, 1))[None], axis=0)[0]
    step = (counts.sum(axis=0) - at_top)[None] // 255
    below = jnp.cumsum(counts, axis=0) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step[None] > 0, table[image, jnp.arange(channels)], image)


def coloured(image: Levels, factor: Factor) -> Levels:
    """Move away from the grey image (factor above 1) or towards it."""
    return blended(jnp.broadcast_to(grey(image)[..., None], image.shape), image, factor)


def contrasted(image: Levels, factor: Factor) -> Levels:
    """Move away from the mean grey level or towards it."""
    tone, count = grey(image), image.shape[0] * image.shape[1]
    mean = (2 * tone.sum() + count) // (2 * count)
    return blended(jnp.broadcast_to(mean, image.shape), image, factor)


def brightened(image: Levels, factor: Factor) -> Levels:
    """Move away from black or towards it."""
    return blended(jnp.zeros_like(image), image, factor)


def sharpened(image: Levels, factor: Factor) -> Levels:
    """Move away from a smoothed image or towards it; the outermost pixels are not smoothed."""
    h, w, _ = image.shape
    inner = image[1:-1, 1:-1]
    around = sum((image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)), 4 * inner)
    # Thirteenths are never halfway between two numbers.
    smooth = image.at[1:-1, 1:-1].set((2 * around + 13) // 26)
    return blended(smooth, image, factor)


def blended(start: Levels, end: Levels, factor: Factor) -> Levels:
    """Go from one image to another and beyond, rounding down and clipping."""
    a, b = start.astype(jnp.float32), end.astype(jnp.float32)
    return jnp.clip(jnp.floor(a + factor * (b - a)), 0, 255).astype(jnp.int32)


def grey(image: Levels) -> Int[Array, "h w"]:
    """Weigh red, green and blue as ITU-R 601 does; a single channel is grey already."""
    if image.shape[-1] == 1:
        return image[..., 0]
    return (image @ jnp.asarray(np.array([19595, 38470, 7471]), jnp.int32) + 0x8000) >> 16
