"""Arithmetic that respects the batch: per-example norms, safe division, masked means, keys and packing."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from robustjax.types import Keys, Mask, PerExample

Norm = Literal["linf", "l2", "l1"]
AnyNorm = Literal["linf", "l2", "l1", "l0"]  # of a threat; l0 counts, it measures no length
Function = TypeVar("Function", bound=Callable[..., Any])
TINY = 1e-30  # far below any gradient that float32 resolves, far above its smallest normal number


def in_float32(function: Function) -> Function:
    """Compute a function with its products of float32 numbers in float32, on every device.

    By default a TPU rounds their factors to bfloat16 and a GPU to TF32: enough to train and to attack with, not for a
    number that is printed, such as a verdict, a score or a bound. On a CPU nothing changes.
    """

    # Fields stay: jit would put them in the place of its own methods.
    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    same: Any = run
    return same


def default_precision() -> str | None:
    """Name the precision that products take where they name none, as `jax.default_matmul_precision` sets it."""
    config: Any = jax.config
    return config.jax_default_matmul_precision


def per_example(value: ArrayLike, like: Array) -> Array:
    """Shape a scalar or one value per example (b,) so that it broadcasts against `like` (b, ...)."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (like.ndim - 1)) if value.ndim == 1 else value


def constant(like: Array, value: ArrayLike, dtype: DTypeLike = jnp.float32) -> Array:
    """Give every example of `like` (b, ...) the same value, or its own from (b,): shape (b,).

    It is built from `like` so that under shard_map it varies over the same mesh axes, as loop carries must.
    """
    return jnp.full_like(like.reshape(like.shape[0], -1)[:, 0], value, dtype=dtype)


def toward(origin: Array, point: Array) -> Array:
    """Give points in the dtype of their origin, rounded towards it: none is further away than it was.

    To the nearest number, bfloat16 would move a feature of 0.9 by up to 0.002, out of a small ball.
    """
    if point.dtype == origin.dtype:
        return point
    centre, rounded = origin.astype(point.dtype), point.astype(origin.dtype)
    beyond = jnp.abs(rounded.astype(point.dtype) - centre) > jnp.abs(point - centre)
    back = jnp.nextafter(jax.lax.stop_gradient(rounded), origin) - rounded
    rounded = rounded + jax.lax.stop_gradient(jnp.where(beyond, back, jnp.zeros_like(back)))
    return jnp.where(point == centre, origin, rounded)


def norm(x: Float[Array, "b ..."], kind: Norm) -> PerExample:
    """Measure each example over all its features, safely differentiable at zero."""
    flat = jnp.abs(x.reshape(x.shape[0], -1))
    if kind == "linf":
        return flat.max(axis=1)
    if kind == "l1":
        return flat.sum(axis=1)
    if kind != "l2":
        raise ValueError(f"norm: norm is {kind!r}, must be one of {', '.join(get_args(Norm))}")
    # Scaling by the largest entry keeps squares of tiny gradients (1e-25 and below) from underflowing to zero.
    largest = jax.lax.stop_gradient(jnp.maximum(flat.max(axis=1), TINY))
    square = jnp.square(flat / largest[:, None]).sum(axis=1)
    return largest * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def divide(numerator: Array, denominator: Array) -> Array:
    """Divide, with 0 where the denominator is not positive; no NaN reaches the gradient either."""
    positive = denominator > TINY
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)


def masked_mean(values: PerExample, mask: Mask) -> Float[Array, ""]:
    """Average the values where the mask is true; 0 if it is nowhere."""
    return divide(jnp.where(mask, values, 0.0).sum(), mask.sum().astype(values.dtype))


def keys_for(key: Keys, count: int) -> Key[Array, "n"]:
    """Give every example its own key: `fold_in(key, i)`, or the keys themselves if there is one per example.

    Drawing per example makes the result for an image independent of its neighbours, of padding and of devices. With
    one key it still depends on the place i in the batch; give keys that are folded with the number of each example in
    its data set where that must not matter, as evaluation suites do.

    Raises:
      ValueError: for a legacy uint32 key, or if there are keys for another number of examples.
    """
    if not isinstance(key, jax.Array):
        raise ValueError(
            f"keys_for: key is {key!r:.60}, must be made by jax.random.key, such as jax.random.key(0)"
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"keys_for: key has dtype {key.dtype}, must be made by jax.random.key")
    if key.ndim == 1:
        if key.shape[0] != count:
            raise ValueError(
                f"keys_for: {key.shape[0]} keys given, must be one key or {count}, one per example"
            )
        return key
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def fold(key: Key[Array, "b"], data: ArrayLike) -> Key[Array, "b"]:
    """Fold a number into each of one key per example.

    Make the keys per example first (`keys_for`): folding before would give an example another key when it
    comes with its own.
    """
    return jax.vmap(jax.random.fold_in, (0, None))(key, data)


def pack(first: Array, second: Array) -> Array:
    """Join two batches into one, interleaved so that every device keeps its own rows.

    With sizes n and m and g their greatest common divisor, the result is g groups of n/g rows of `first`
    then m/g rows of `second`. A plain concatenation would move rows between devices (all-to-all).
    """
    chex.assert_equal_shape_suffix([first, second], first.ndim - 1)
    groups = math.gcd(first.shape[0], second.shape[0])
    parts = [a.reshape(groups, a.shape[0] // groups, *a.shape[1:]) for a in (first, second)]
    return jnp.concatenate(parts, axis=1).reshape(-1, *first.shape[1:])


def unpack(both: Array, sizes: tuple[int, int] | None = None) -> tuple[Array, Array]:
    """Undo `pack`; `sizes` are the rows of each batch, equal by default."""
    half = both.shape[0] // 2
    first, second = sizes or (half, half)
    if first + second != both.shape[0]:
        raise ValueError(
            f"unpack: sizes are {(first, second)}, must add up to the {both.shape[0]} rows given"
        )
    groups = math.gcd(first, second)
    grouped = both.reshape(groups, -1, *both.shape[1:])
    cut = first // groups
    return (
        grouped[:, :cut].reshape(first, *both.shape[1:]),
        grouped[:, cut:].reshape(second, *both.shape[1:]),
    )
