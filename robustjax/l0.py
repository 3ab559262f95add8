"""What l0 counts: pixels or features that differ, and the choice of the few that matter most."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robustjax.numerics import constant, per_example
from robustjax.types import Radius

Box = float | Array  # an edge, broadcast against the points


def width(shape: tuple[int, ...], channels: int | None) -> int:
    """Say how many neighbouring features count as one: all channels of images (b, h, w, c), unless told otherwise.

    Raises:
      ValueError: if the features do not divide into so many.
    """
    if channels is None:
        return shape[-1] if len(shape) == 4 else 1
    if math.prod(shape[1:]) % channels:
        raise ValueError(f"l0: channels is {channels}, must divide the features of points of shape {shape}")
    return channels


def units(x: Array, channels: int | None) -> Array:
    """Lay out what counts as one: (b, m, c), pixels with their channels or single features."""
    return x.reshape(len(x), -1, width(x.shape, channels))


def changed(x: Array, origin: Array, channels: int | None) -> Bool[Array, "b m"]:
    """Mark the pixels or features where x is not the origin, to the bit."""
    return units(x != origin, channels).any(axis=2)


def spread(chosen: Bool[Array, "b m"], like: Array) -> Bool[Array, "b ..."]:
    """Mark all features of the chosen pixels, in the shape of `like`."""
    wide = like.size // max(chosen.size, 1)
    return jnp.repeat(chosen, wide, axis=1).reshape(like.shape)


def nearest(x: Array, origin: Array, lower: Box, upper: Box, eps: Radius, channels: int | None) -> Array:
    """Find the nearest point in l2 of all that lie in the box and differ from the origin in at most eps places.

    Let p be x clipped to the box. Taking the place i from the origin to p lowers the squared distance by
    |x_i - o_i|^2 - |x_i - p_i|^2, whatever the others do: the places of the largest gain are moved.
    """
    inside = jnp.clip(x, lower, upper)
    move, way = inside - origin, x - origin
    # The difference of squares as a product: it neither cancels nor is negative.
    gain = jnp.where(move == 0.0, 0.0, move * (2.0 * way - move))
    chosen = largest(units(gain, channels).sum(axis=2), eps)
    return jnp.where(spread(chosen, x), inside, origin)


def largest(size: Float[Array, "b m"], count: Radius) -> Bool[Array, "b m"]:
    """Choose the `count` largest of non-negative numbers, of equal ones the first; all where there are fewer.

    Args:
      size: what they matter.
      count: how many, rounded down; one number or one per example. It may be traced.
    """
    whole = jnp.floor(jnp.clip(jnp.asarray(count, jnp.float32), 0.0, float(size.shape[1])))
    wanted = constant(size, whole, jnp.int32)
    threshold = per_example(kth_largest(size, wanted), size)
    above, ties = size > threshold, size == threshold
    left = wanted - above.sum(axis=1, dtype=jnp.int32)
    return above | (ties & (jnp.cumsum(ties, axis=1, dtype=jnp.int32) <= per_example(left, size)))


def kth_largest(size: Array, count: int | Int[Array, "b"]) -> Float[Array, "b"]:
    """Find a threshold that at least `count` entries reach, and no more than that but for ties.

    Bisection on the bits of the non-negative floats is exact and needs no sort. For a count of 0 it is NaN.
    """
    flat = size.reshape(size.shape[0], -1).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(flat, jnp.int32)

    def halve(i, found):
        raised = found | (jnp.int32(1) << (30 - i))
        enough = (bits >= raised[:, None]).sum(axis=1) >= count
        return jnp.where(enough, raised, found)

    found = jax.lax.fori_loop(0, 31, halve, constant(bits, 0, jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
