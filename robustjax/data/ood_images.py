"""OOD images from keys: noise, noise made from the pixels of in-distribution images, and images changed by hand.

Every function takes one key or one per example. Those of a key and images fit `pairs(ood_augment=...)`,
which then draws new images every step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide, fold, keys_for, per_example
from robustjax.types import Images, Keys, PerExample

Shape = tuple[int, ...]  # n, h, w, c


def uniform(key: Keys, shape: Shape) -> Images:
    """Draw every value uniformly from [0, 1)."""
    return jax.vmap(lambda k: jax.random.uniform(k, shape[1:]))(keys_for(key, shape[0]))


def gaussian(key: Keys, shape: Shape) -> Images:
    """Draw every value from a normal distribution around 0.5 with deviation 1, and clip it to [0, 1]."""
    noise = jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys_for(key, shape[0]))
    return jnp.clip(0.5 + noise, 0.0, 1.0)


def low_frequency(key: Keys, shape: Shape) -> Images:
    """Draw uniform noise and smooth it. Reference: Meinke, Bitterwolf and Hein 2022, arXiv:2106.04260."""
    keys = keys_for(key, shape[0])
    return smoothed(fold(keys, 1), uniform(fold(keys, 0), shape))


def permuted(key: Keys, images: Images) -> Images:
    """Shuffle the pixels of every image; the channels of a pixel stay together."""
    checks.floats("permuted", images)
    n, h, w, c = images.shape
    orders = jax.vmap(lambda k: jax.random.permutation(k, h * w))(keys_for(key, n))
    return jnp.take_along_axis(images.reshape(n, h * w, c), orders[..., None], axis=1).reshape(images.shape)


def inverted(images: Images) -> Images:
    """Turn black into white."""
    checks.floats("inverted", images)
    return 1.0 - images


def upside_down(images: Images) -> Images:
    """Turn images by half a turn: OOD images with the strokes of in-distribution ones."""
    checks.floats("upside_down", images)
    return images[:, ::-1, ::-1]


def joined(key: Keys, images: Images) -> Images:
    """Put the left half of every image beside the mirrored right half of another one, drawn with its key.

    The strokes are in distribution, but the halves do not meet at the seam, so that most results belong to no class.
    (Two left halves would meet: they often make symmetric digits, such as 0 and 8.)
    """
    checks.floats("joined", images)
    n, half = images.shape[0], images.shape[2] // 2
    keys = keys_for(key, n)
    step = jax.vmap(lambda k: jax.random.randint(k, (), 1, max(n, 2)))(keys)
    other = images[(jnp.arange(n) + step) % n]
    return jnp.concatenate(
        [images[:, :, : images.shape[2] - half], other[:, :, images.shape[2] - half :][:, :, ::-1]], axis=2
    )


def smoothed(key: Keys, images: Images) -> Images:
    """Blur with a deviation drawn from [1, 2.5] pixels, then stretch every image to [0, 1].

    Reference: Hein, Andriushchenko and Bitterwolf 2019, arXiv:1812.05720: 15 x 15 kernel, mirrored border.
    """
    checks.floats("smoothed", images)
    return stretched(blurred(images, _uniformly(key, images, 1.0, 2.5)))


def contrast_stretched(key: Keys, images: Images) -> Images:
    """Push values apart by sigmoid(g (x - 0.5)), with g drawn from [5, 30]."""
    checks.floats("contrast_stretched", images)
    gain = per_example(_uniformly(key, images, 5.0, 30.0), images)
    return jax.nn.sigmoid(gain * (images - 0.5))


def acet_noise(key: Keys, images: Images) -> Images:
    """Smooth either uniform noise or the permuted pixels of an image, each with probability 1/2.

    Reference: Hein, Andriushchenko and Bitterwolf 2019, arXiv:1812.05720. There half of a batch is of either
      kind; a coin for each example does not depend on the batch.
    """
    checks.floats("acet_noise", images)
    keys = keys_for(key, len(images))
    coin = jax.vmap(jax.random.bernoulli)(fold(keys, 0))
    noise = uniform(fold(keys, 1), images.shape)
    pixels = permuted(fold(keys, 2), images)
    return smoothed(fold(keys, 3), jnp.where(per_example(coin, images), pixels, noise))


def ccu_noise(key: Keys, images: Images) -> Images:
    """Permute the pixels, blur with a deviation from [1, 2.5] pixels, and push the contrast.

    Reference: Meinke and Hein 2020, arXiv:1909.12180. Its code blurs across the channels too, this does not.
    """
    checks.floats("ccu_noise", images)
    keys = keys_for(key, len(images))
    pixels = permuted(fold(keys, 0), images)
    soft = blurred(pixels, _uniformly(fold(keys, 1), images, 1.0, 2.5))
    return contrast_stretched(fold(keys, 2), soft)


def blurred(images: Images, deviation: PerExample, *, reach: int = 7) -> Images:
    """Convolve each image with a Gaussian of its own, cut off `reach` pixels away, mirrored at the border."""
    offset = jnp.arange(-reach, reach + 1, dtype=images.dtype)
    weight = jnp.exp(-0.5 * jnp.square(offset[None] / deviation[:, None]))
    weight = weight / weight.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        sides = [(0, 0)] * 4
        sides[axis] = (reach, reach)
        wide = jnp.pad(images, sides, mode="symmetric")

        # Shifted copies weighted per example: a convolution would want one kernel for all.
        def add(i, total, wide=wide, axis=axis):
            shifted = jax.lax.dynamic_slice_in_dim(wide, i, total.shape[axis], axis)
            return total + per_example(weight[:, i], total) * shifted

        images = jax.lax.fori_loop(0, 2 * reach + 1, add, jnp.zeros_like(images))
    return images


def stretched(images: Images) -> Images:
    """Move the darkest value of every image to 0 and the brightest to 1; an image of one value becomes 0."""
    low, high = images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))
    span = per_example(high - low, images)
    # Rounding may exceed 1 by one unit in the last place.
    return jnp.clip(divide(images - per_example(low, images), jnp.broadcast_to(span, images.shape)), 0.0, 1.0)


def _uniformly(key: Keys, images: Images, low: float, high: float) -> Float[Array, "b"]:
    draw = jax.vmap(lambda k: jax.random.uniform(k, (), images.dtype, low, high))
    return draw(keys_for(key, len(images)))
