"""SimBA: one coordinate at a time, forth or back, by values only."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from robustjax import checks
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.numerics import constant, keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Number, PerExample

Basis = Literal["pixels", "dct"]


class Tried(NamedTuple):
    """Where a search stands, one row per example; `order` is that of the coordinates to be tried."""

    origin: Array
    x: Array
    value: PerExample
    order: Int[Array, "b m"]
    place: Int[Array, "b"]
    back: Bool[Array, "b"]
    found: Found
    step: Int[Array, "b"]


def simba(
    threat: Threat,
    *,
    queries: int = 5000,
    step_size: Number = 0.2,
    basis: Basis = "pixels",
    frequencies: int | None = None,
) -> Solver:
    """Move along one vector of an orthonormal basis, forth or else back, and keep what raises the objective.

    Args:
      threat: where the result must lie; moves are projected onto it.
      queries: how many points each example may ask about, the first of them the example itself.
      step_size: length of a move, in the units of x.
      basis: "pixels", single features, or "dct", cosines over height and width of one channel.
      frequencies: how many of the lowest cosines of each side to use; all by default.
    Returns:
      An ascent that can also be driven in segments, one query per iteration. Never worse than its start.
    Raises:
      ValueError: if queries is less than 1, step_size not positive, or the basis unknown.

    Reference: Guo et al. 2019, arXiv:1905.07121. Coordinates are drawn without return, in an order of its own for each
      example, and anew from the beginning when all were tried. Moves are projected onto the threat, where the authors
      let the distance grow with the root of the number of moves.
    """
    checks.threat("simba", threat)
    checks.count("simba", "queries", queries)
    checks.setting("simba", "step_size", step_size, above=0)
    if basis not in ("pixels", "dct"):
        raise ValueError(f"simba: basis is {basis!r}, must be 'pixels' or 'dct'")
    if frequencies is not None:
        checks.count("simba", "frequencies", frequencies)
        if basis == "pixels":
            raise ValueError(f"simba: frequencies is {frequencies}, must be None in the basis of pixels")

    def init(key: Keys, x: Array) -> Tried:
        x = entered("simba", threat, x)
        height, width, channels = _image(x)
        rows, columns = (min(side, frequencies or side) for side in (height, width))
        count = rows * columns * channels
        order = jax.vmap(lambda k: jax.random.permutation(k, count))(keys_for(key, len(x)))
        first = threat.project(x, x)
        zero = constant(x, 0, jnp.int32)
        order = order.astype(jnp.int32) + zero[:, None]  # varies over devices as x does
        back = constant(x, False, jnp.bool)
        return Tried(x, first, constant(x, -jnp.inf), order, zero, back, nothing_yet(first), zero)

    def advance(objective: ValueAndMerit, state: Tried, count: Count) -> Tried:
        def move(state: Tried) -> Tried:
            where = jnp.take_along_axis(state.order, state.place[:, None], axis=1)[:, 0]
            vector = _vector(where, state.x, basis, frequencies)
            sign = per_example(jnp.where(state.back, -1.0, 1.0), vector)
            moved = threat.project(state.x + sign * step_size * vector, state.origin)
            x = select(state.step == 0, state.x, moved)
            value, merit = objective(x)
            wins = (value > state.value) | (state.step == 0)
            turning = ~wins & ~state.back
            following = (state.place + 1) % state.order.shape[1]
            return state._replace(
                x=select(wins, x, state.x),
                value=jnp.where(wins, value, state.value),
                place=jnp.where(turning | (state.step == 0), state.place, following),
                back=turning,
                found=better(state.found, Found(x, merit)),
            )

        return repeat(move, state, count, queries)

    return Solver(init, advance, lambda state: state.found, queries, "simba")


def _image(x: Array) -> tuple[int, int, int]:
    shape = x.shape[1:]
    height, width = shape[:2] if len(shape) > 1 else (1, *shape, 1)[:2]
    return height, width, math.prod(shape) // (height * width)


def _vector(where: Int[Array, "b"], like: Array, basis: Basis, frequencies: int | None) -> Array:
    """Make the vectors of an orthonormal basis with the given numbers, in the shape of `like`."""
    height, width, channels = _image(like)
    if basis == "pixels":
        return jax.nn.one_hot(where, height * width * channels, dtype=like.dtype).reshape(like.shape)
    columns = min(width, frequencies or width)
    place, channel = where // channels, where % channels
    down, along = _cosines(height)[place // columns], _cosines(width)[place % columns]
    colour = jax.nn.one_hot(channel, channels, dtype=like.dtype)
    whole = down[:, :, None, None] * along[:, None, :, None] * colour[:, None, None, :]
    return whole.astype(like.dtype).reshape(like.shape)


def _cosines(side: int) -> Array:
    """Make the orthonormal vectors of the cosine transform (type 2), one per row."""
    k, n = np.arange(side)[:, None], np.arange(side)[None, :]
    rows = np.sqrt(2.0 / side) * np.cos(np.pi * (n + 0.5) * k / side)
    rows[0] /= np.sqrt(2.0)
    return jnp.asarray(rows, jnp.float32)
