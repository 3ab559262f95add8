"""Bisection on the bits of floats: exact thresholds without a sort, at every scale."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.numerics import constant
from robustjax.types import Mask, PerExample

INFINITY = 0x7F800000  # the bits of float32 inf; those of the floats below it are in their order


def least(holds: Callable[[PerExample], Mask], like: Array) -> PerExample:
    """Find the smallest float32 t >= 0 for which `holds(t)`, true from there on; inf if for no finite one.

    It takes 31 evaluations of `holds` whatever the scale, and every device takes as many.

    Args:
      holds: a condition per example that, as t grows, becomes true and stays so.
      like: any array (b, ...), for the number of examples.
    """

    def value(rank: Array) -> PerExample:
        return jax.lax.bitcast_convert_type(rank, jnp.float32)

    def add_bit(i, failing):
        more = failing + (jnp.int32(1) << (30 - i))
        last = jnp.minimum(more - 1, INFINITY)
        return jnp.where((last < INFINITY) & ~holds(value(last)), more, failing)

    # The count of floats that fail is also the rank of the first that does not.
    return value(jax.lax.fori_loop(0, 31, add_bit, constant(like, 0, jnp.int32)))
