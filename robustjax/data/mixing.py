"""Two training images made one, with their labels in the same shares: MixUp and CutMix.

Two neighbours in the batch are mixed with each other: the order of a batch is random already, and on many devices no
image travels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.numerics import fold, keys_for, per_example
from robustjax.types import Batch, Images, Keys, Labels, Number, PerExample, SoftLabels

Mixer = Callable[[Keys, Images, Images], tuple[Images, PerExample]]  # with the share of the first


def blended(*, alpha: Number = 1.0) -> Mixer:
    """Build MixUp's mixture: share x + (1 - share) other, the share from Beta(alpha, alpha), drawn for each image.

    Args:
      alpha: positive; 1 draws uniformly, a small one leaves most images nearly as they are.
    Raises:
      ValueError: if a known alpha is not positive; called, if the images do not fit.

    Reference: Zhang et al. 2018, arXiv:1710.09412; the authors draw one share for a batch.
    """
    checks.number("blended", "alpha", alpha, above=0)

    def mix(key: Keys, x: Images, other: Images) -> tuple[Images, PerExample]:
        _alike("blended", x, other)
        share = _shares(keys_for(key, len(x)), alpha)
        weight = per_example(share, x)
        return weight * x + (1.0 - weight) * other, share

    return mix


def pasted(*, alpha: Number = 1.0) -> Mixer:
    """Build CutMix's mixture: a window of the other image is pasted over x, at the same place.

    Its sides are those of the image times the root of 1 - Beta(alpha, alpha), in whole pixels, its centre is uniform
    over the image, and what lies outside is cut off. The share of x is counted in pixels after that.

    Args:
      alpha: positive; 1 draws uniformly.
    Raises:
      ValueError: if a known alpha is not positive; called, if the images do not fit.

    Reference: Yun et al. 2019, arXiv:1905.04899, equations 1 and 2; the authors draw one window for a batch, and a
      window of an odd number of pixels is one smaller in their code.
    """
    checks.number("pasted", "alpha", alpha, above=0)

    def mix(key: Keys, x: Images, other: Images) -> tuple[Images, PerExample]:
        _alike("pasted", x, other)
        keys = keys_for(key, len(x))
        side = jnp.sqrt(1.0 - _shares(fold(keys, 0), alpha))
        inside = jnp.ones((len(x), 1, 1), bool)
        for axis in (1, 2):
            length = x.shape[axis]
            size = jnp.floor(side * length).astype(jnp.int32)
            centre = jax.vmap(lambda k, n=length: jax.random.randint(k, (), 0, n))(fold(keys, axis))
            first = centre - size // 2
            at = jnp.arange(length)
            covered = (at[None] >= first[:, None]) & (at[None] < (first + size)[:, None])
            inside = inside & (covered[:, :, None] if axis == 1 else covered[:, None, :])
        kept = 1.0 - inside.mean(axis=(1, 2), dtype=jnp.float32)
        return jnp.where(inside[..., None], other, x), kept

    return mix


MIXERS: dict[str, Callable[..., Mixer]] = {"mixup": blended, "cutmix": pasted}


def with_neighbours(key: Keys, batch: Batch, mixer: Mixer, *, classes: int) -> Batch:
    """Mix the first and second image of a batch with each other, the third and fourth, ..., and their labels alike.

    Args:
      key: one, or one per image.
      batch: images with labels, an even number.
      mixer: `blended()` or `pasted()`.
      classes: how many there are.
    Returns:
      The mixed images, with soft labels (b, classes).
    Raises:
      ValueError: if the batch is none or odd, or classes is below 2.
    """
    checks.batch("with_neighbours", batch)
    if len(batch.image) % 2:
        raise ValueError(
            f"with_neighbours: the batch has {len(batch.image)} images, must have an even number"
        )
    image, share = mixer(key, batch.image, _swapped(batch.image))
    own, other = soft(batch.label, classes), soft(_swapped(batch.label), classes)
    return Batch(image, share[:, None] * own + (1.0 - share[:, None]) * other)


def soft(label: Labels, classes: int) -> SoftLabels:
    """Give all probability to the label.

    Raises:
      ValueError: if classes is below 2.
    """
    checks.count("soft", "classes", classes, least=2)
    return jax.nn.one_hot(label, classes, dtype=jnp.float32)


def _swapped(rows: Array) -> Array:
    return rows.reshape(len(rows) // 2, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)


def _shares(keys: Keys, alpha: Number) -> PerExample:
    return jax.vmap(lambda k: jax.random.beta(k, alpha, alpha))(keys)


def _alike(who: str, x: Images, other: Images) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{who}: images have shapes {x.shape} and {other.shape}, must be equal")
