"""Adam's direction, with one age per example."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax.numerics import per_example


class Moments(NamedTuple):
    """Running means of the gradient and of its square."""

    first: Array
    second: Array


def rest(like: Array) -> Moments:
    """Begin with nothing."""
    return Moments(jnp.zeros_like(like), jnp.zeros_like(like))


def adam(moments: Moments, grad: Array, age: Int[Array, "b"]) -> tuple[Array, Moments]:
    """Divide the mean gradient by the root of its mean square, features one by one.

    Args:
      moments: of the gradients so far.
      grad: the next one, (b, ...).
      age: how many there were before, per example.
    Returns:
      The direction, of entries about 1 at most, and the new moments.

    Reference: Kingma and Ba 2014, arXiv:1412.6980, with its constants 0.9, 0.999 and 1e-8.
    """
    first = 0.9 * moments.first + 0.1 * grad
    second = 0.999 * moments.second + 0.001 * jnp.square(grad)
    count = per_example(age.astype(jnp.float32) + 1.0, grad)
    mean, square = first / (1.0 - 0.9**count), second / (1.0 - 0.999**count)
    return mean / (jnp.sqrt(square) + 1e-8), Moments(first, second)
