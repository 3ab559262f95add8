"""Relative foreground sensitivity: is a classifier hurt more by noise on the object or on the rest?

With core masks of Salient ImageNet in place of object masks, accuracy under noise outside the core is its core
accuracy, accuracy under noise on the core its spurious accuracy, and the same formula its RCS.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robustjax import logit
from robustjax.analysis.groups import class_balanced
from robustjax.numerics import fold, keys_for, norm
from robustjax.types import Images, Keys, Labels, LogitsFn, Radius

Noise = Callable[[Keys, Images, Array, Radius], Images]  # noise.gaussian or noise.of_length


class Noisy(NamedTuple):
    """What noise on one part of each image did, at every level, averaged over trials.

    Attributes:
      hit: (b, r) how often the prediction was right.
      probability: (b, r) of the true class.
      length: (b, r) l2 norm of what the noise changed, after clipping.
    """

    hit: Float[Array, "b r"]
    probability: Float[Array, "b r"]
    length: Float[Array, "b r"]


class Parts(NamedTuple):
    """The same for noise on the object and on the rest, each pair with the same random numbers."""

    foreground: Noisy
    background: Noisy


def under_noise(
    noise: Noise, levels: Sequence[float] | Float[Array, "r"], *, trials: int = 1
) -> Callable[..., Parts]:
    """Build a per-example measurement of a classifier under noise on either part.

    Args:
      noise: `noise.gaussian` or `noise.of_length`.
      levels: what it takes; for images of h x w the published l2 levels, made for 224 x 224, are to be scaled
        by sqrt(h w / 224^2).
      trials: how many draws to average.

    Returns:
      (key, logits_fn, x, mask, y) -> Parts, where mask (b, h, w) is 1 on the object; key is one or one per
      example.

    Raises:
      ValueError: if trials is below 1 or there are no levels.

    Reference: Moayeri et al. 2022, arXiv:2201.10766 (RIVAL10); Singla and Feizi 2022, arXiv:2110.04301.
    """
    strengths = jnp.asarray(levels, jnp.float32)
    if trials < 1 or strengths.size < 1:
        raise ValueError(
            f"sensitivity.under_noise: {trials} trials of {strengths.size} levels, must be at least one of each"
        )

    def measure(key: Keys, logits_fn: LogitsFn, x: Images, mask: Array, y: Labels) -> Parts:
        keys = keys_for(key, x.shape[0])

        def once(index: Array) -> Noisy:
            part, level, trial = jnp.unravel_index(index, (2, strengths.size, trials))
            where = jnp.where(part == 0, mask, 1.0 - mask)
            noisy = noise(fold(keys, trial), x, where, strengths[level])
            logits = logits_fn(noisy)
            own = jnp.exp(-logit.cross_entropy(logits, y))
            return Noisy(logit.correct(logits, y), own, norm(noisy - x, "l2"))

        # One pass of a loop for each draw, so that nothing is held for all levels but three numbers an image.
        found = jax.lax.map(once, jnp.arange(2 * strengths.size * trials))
        means = jax.tree.map(
            lambda a: a.reshape(2, -1, trials, a.shape[-1]).mean(axis=2).swapaxes(1, 2), found
        )
        return Parts(*(jax.tree.map(lambda a, i=i: a[i], means) for i in range(2)))

    return measure


def relative(foreground: ArrayLike, background: ArrayLike) -> np.ndarray:
    """Compute (b - f) / (2 min(m, 1 - m)) with m = (f + b) / 2, in [-1, 1]; 0 where m is 0 or 1.

    That is the difference of accuracies over the largest difference that their mean allows. With accuracies
    under noise it is RFS (object and rest) or RCS (core and rest); with the true class's probabilities of single
    images it is their iRFS. Large means: relies on the object.

    Args:
      foreground: accuracy under noise on the object, any shape.
      background: accuracy under noise on the rest.
    """
    f, b = np.asarray(foreground, np.float64), np.asarray(background, np.float64)
    mean = (f + b) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    return np.where(room > 1e-12, (b - f) / np.where(room > 1e-12, room, 1.0), 0.0)


def rfs(foreground: ArrayLike, background: ArrayLike, label: ArrayLike) -> np.ndarray:
    """Compute the relative foreground sensitivity of each level, from class-balanced accuracies.

    It confounds where a network looks with how much noise it bears at all, which adversarial training raises:
    compare networks of equal accuracy, and do not report it alone.

    Args:
      foreground: `Noisy.hit` (n, r) under noise on the object.
      background: the same under noise on the rest.
      label: (n,).
    """
    return relative(class_balanced(foreground, label), class_balanced(background, label))
