"""Scenes under many lights, one picture below the other as `data.lit` packs them: pairs of lights, and single ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from robustjax import checks
from robustjax.data.augment import Augment, chain
from robustjax.numerics import fold, keys_for
from robustjax.perturbations.pairs import ImagePair, Pairs
from robustjax.types import Images, Keys

IGNORE = 255  # the label of a pixel whose class is not known


class Labelled(NamedTuple):
    """Images and the class of each of their pixels, (b, h, w)."""

    image: Images
    label: Int[Array, "b h w"]


def relit(lights: int = 25) -> Pairs:
    """Pair a scene under one light with the same scene under another, both drawn anew each time.

    Raises:
      ValueError: if there are fewer than two lights.
    """
    checks.count("relit", "lights", lights, least=2)

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        first = _drawn(fold(keys, 0), 0, lights)
        return ImagePair(
            under(x, first, lights), under(x, (first + _drawn(fold(keys, 1), 1, lights)) % lights, lights)
        )

    return pairs


def any_light(lights: int = 25) -> Callable[[Keys, Images], Images]:
    """Build (key, scenes) -> each under a light drawn at random."""
    return lambda key, x: under(x, _drawn(keys_for(key, x.shape[0]), 0, lights), lights)


def under(x: Images, light: int | Int[Array, "b"], lights: int = 25) -> Float[Array, "b rows w c"]:
    """Cut out the picture of each scene under a light, by its number."""
    stacked = x.reshape(x.shape[0], lights, x.shape[1] // lights, *x.shape[2:])
    number = jnp.broadcast_to(jnp.asarray(light, jnp.int32), (x.shape[0],))
    return jax.vmap(lambda scene, i: scene[i])(stacked, number)


def with_labels(*augments: Augment) -> Callable[[PRNGKeyArray, Labelled], Labelled]:
    """Augment images and the classes of their pixels alike; what moves in from outside counts as unknown."""
    augment = chain(*augments)

    def augmented(key: Keys, given: Labelled) -> Labelled:
        # One up and wrapped, so that unknown ones are 0 as the border is.
        marks = ((given.label.astype(jnp.int32) + 1) % (IGNORE + 1)).astype(given.image.dtype)
        out = augment(key, jnp.concatenate([given.image, marks[..., None]], axis=-1))
        label = jnp.rint(out[..., -1]).astype(jnp.int32) - 1
        return Labelled(out[..., :-1], jnp.where(label < 0, IGNORE, label))

    return augmented


def _drawn(keys: Keys, low: int, high: int) -> Array:
    return jax.vmap(lambda k: jax.random.randint(k, (), low, high))(keys)
