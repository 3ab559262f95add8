"""Square: random search that changes one window at a time and asks for values only, never for gradients."""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robustjax import checks
from robustjax.attacks import square_windows
from robustjax.attacks.flatten import flat_box, flattened
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    check_finite,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.attacks.starts import Start
from robustjax.numerics import Norm, constant, divide, keys_for, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Found, Keys, PerExample


class Queries(NamedTuple):
    """Where a search stands, one row per example: `x` has the highest objective so far, `found` the merit."""

    key: Keys
    origin: Array
    x: Array
    value: PerExample
    found: Found
    step: Int[Array, "b"]


class Draw(NamedTuple):
    """What one proposal leaves to chance: two windows of one size, how to lay out the bumps, and signs."""

    rows: Int[Array, "b"]
    columns: Int[Array, "b"]
    corner: Int[Array, "b 2"]
    second: Int[Array, "b 2"]
    sideways: Bool[Array, "b"]
    sign: Float[Array, "b 1 1 c"]


def square(
    threat: Threat,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    start: Start | None = None,
    made: int = 0,
    compat: Literal["official"] | None = None,
) -> Solver:
    """Propose to change a random window, keep what raises the objective, and let the windows shrink.

    In linf a window moves to the edge of the ball, one sign per channel. In l2 and l1 two bumps of opposite
    signs replace a window and take over the budget of a second one. The first dimensions of an example are
    height and width; a vector of d features counts as an image of 1 x d.

    Args:
      threat: where the result must lie.
      queries: proposals; with the start that makes queries + 1 evaluations. The windows shrink after 10, 50,
        200, 500, ... queries, however many there are.
      p_init: share of the features in the first window.
      start: the first point, projected; by default vertical stripes in linf, tiles of bumps in l2 and l1.
      made: queries that count as made before the first one, so that a search from a good start begins with smaller
        windows.
      compat: "official" draws one window for the whole batch and never the last offset, as the authors' code
        does; the result for an image then depends on its batch.
    Returns:
      An ascent that can also be driven in segments, one forward pass per iteration. In linf an iteration passes
      over a query that would ask about the point it already has; it counts as made.
    Raises:
      ValueError: if queries is negative, p_init is outside (0, 1], eps is infinite, the norm is l0 or compat is
        unknown.

    Reference: Andriushchenko et al. 2020, arXiv:1912.00049 (linf, l2), and Croce and Hein 2021,
      arXiv:2103.01208 (l1). Windows are drawn per example. Those too large for a narrow image become
      rectangles, and the tiles of the l2 and l1 start cover images of every size.
    """
    checks.count("square", "queries", queries, least=0)
    checks.count("square", "made", made, least=0)
    checks.setting("square", "p_init", p_init, above=0, most=1)
    if compat not in (None, "official"):
        raise ValueError(f"square: compat is {compat!r}, must be 'official' or None")

    check_finite("square", threat)
    kind = checks.norm("square", threat.norm)

    def init(key: Keys, x: Array) -> Queries:
        x = entered("square", threat, x)
        first, rest = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, x.shape[0]))
        tiles = partial(_tiles, kind)
        if start is None:
            drawn = (_stripes if kind == "linf" else tiles)(threat, first, _as_images(x)).reshape(x.shape)
        else:
            drawn = start(first, x).astype(x.dtype)
        first = threat.project(drawn, x)
        return Queries(rest, x, first, constant(x, -jnp.inf), nothing_yet(first), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Queries, count: Count) -> Queries:
        shape, box = state.x.shape, flat_box(threat, state.x)

        def move(state: Queries) -> Queries:
            grid, origin = _as_images(state.x.reshape(shape)), _as_images(state.origin.reshape(shape))

            def proposed(draw: Draw) -> Array:
                proposal = (edge if kind == "linf" else moved_bumps)(threat, origin, grid, draw)
                return box.project(proposal.reshape(state.x.shape), state.origin)

            if kind == "linf" and compat is None:
                # A window often is where it would move to; what was evaluated before need not be again.
                draw, following = _two_draws(state.key, state.step, grid, p_init, made)
                same = (proposed(draw) == state.x).reshape(len(state.x), -1).all(axis=1)
                same &= (state.step > 0) & (state.step < queries)
                draw, step = select(same, following, draw), state.step + same.astype(jnp.int32)
            else:
                shared, step = compat == "official", state.step
                draw = _draw(kind, state.key, step, grid, p_init, shared, made)
            x = select(step == 0, state.x, proposed(draw))
            value, merit = objective(x.reshape(shape))
            # The start has -inf to beat, which everything but NaN does.
            ahead = better(Found(state.x, state.value), Found(x, value))
            found = better(state.found, Found(x, merit))
            return state._replace(x=ahead.x, value=ahead.value, found=found, step=step)

        rows, back = flattened(state, shape)
        return back(repeat(move, rows, count, queries + 1))

    return Solver(init, advance, lambda state: state.found, queries + 1, "square")


def edge(threat: Threat, origin: Array, x: Array, draw: Draw) -> Array:
    """Move the window to x = origin + eps sign."""
    inside = _window(draw, draw.corner, x)
    return jnp.where(inside, origin + per_example(threat.eps, x) * draw.sign, x)


def moved_bumps(threat: Threat, origin: Array, x: Array, draw: Draw) -> Array:
    """Put bumps into the first window, clear the second one, and give the first the budget of both."""
    kind, delta = checks.norm("square", threat.norm), x - origin
    eps, total = per_example(threat.eps, x), per_example(norm(delta, kind), x)
    first, second = _window(draw, draw.corner, x), _window(draw, draw.second, x)
    both = _per_channel(kind, jnp.where(first | second, delta, 0.0))
    channels = x.shape[-1]
    if kind == "l2":
        spare = jnp.maximum(jnp.square(eps) - jnp.square(total), 0.0) / channels
        budget = jnp.sqrt(spare + jnp.square(both))
    else:
        # Times the number of channels, as in the published code; the projection takes back what is too much.
        budget = (jnp.maximum(eps - total, 0.0) / channels + both) * channels

    here = jnp.where(first, delta, 0.0)
    size = draw.rows, draw.columns, draw.corner[:, 0], draw.corner[:, 1], draw.sideways
    bumps = square_windows.bumps(kind, *size, *x.shape[1:3]) * draw.sign + divide(
        here, _per_channel(kind, here)
    )
    bumps = budget * divide(bumps, _per_channel(kind, bumps))
    delta = jnp.where(first, bumps, jnp.where(second, 0.0, delta))
    if kind == "l2":
        delta = eps * divide(delta, per_example(norm(delta, kind), delta))
    return origin + delta


def _draw(kind: Norm, keys: Keys, step: Array, x: Array, p_init: float, shared: bool, made: int = 0) -> Draw:
    height, width, channels = x.shape[1:]
    sides = square_windows.sides(height, width, p_init, odd=kind != "linf")
    rows, columns = jnp.asarray(sides)[square_windows.phase(step + made - 1)].T
    folded = jax.vmap(jax.random.fold_in)(keys, step)
    u = jax.vmap(lambda k: jax.random.uniform(k, (5 + channels,)))(folded)
    place, sign = u[:, :5], u[:, 5:]
    if shared:
        place = jnp.broadcast_to(place[:1], place.shape)
        sign = jnp.broadcast_to(sign[:1], sign.shape) if kind == "linf" else sign
    offsets = jnp.stack([height - rows, width - columns], axis=1) + (0 if shared else 1)

    def corner(u: Array) -> Array:
        return jnp.floor(u * offsets.astype(jnp.float32)).astype(jnp.int32)

    sideways = place[:, 4] < 0.5
    return Draw(
        rows, columns, corner(place[:, :2]), corner(place[:, 2:4]), sideways, _signs(sign)[:, None, None]
    )


def _two_draws(keys: Keys, step: Array, x: Array, p_init: float, made: int = 0) -> tuple[Draw, Draw]:
    """Draw the proposals of this step and of the next, as rows of one batch."""
    twice, steps = jnp.concatenate([keys, keys]), jnp.concatenate([step, step + 1])
    both = _draw("linf", twice, steps, x, p_init, False, made)
    return jax.tree.map(lambda a: a[: len(step)], both), jax.tree.map(lambda a: a[len(step) :], both)


def _stripes(threat: Threat, keys: Keys, x: Array) -> Array:
    """Start with vertical stripes of x +- eps."""
    u = jax.vmap(lambda k: jax.random.uniform(k, (1, *x.shape[2:])))(keys)
    return x + per_example(threat.eps, x) * _signs(u)


def _tiles(kind: Norm, threat: Threat, keys: Keys, x: Array) -> Array:
    """Start with bumps in tiles, five to a side or a little more, signs drawn per tile and channel."""
    height, width, channels = x.shape[1:]
    rows, columns = max(height // 5, 1), max(width // 5, 1)
    down, right = math.ceil(height / rows), math.ceil(width / columns)
    u = jax.vmap(lambda k: jax.random.uniform(k, (down, right, channels + 1)))(keys)

    def cropped(whole: Array) -> Array:
        top, left = (down * rows - height) // 2, (right * columns - width) // 2
        return whole[..., top : top + height, left : left + width, :]

    def spread(tiles: Array) -> Array:
        return cropped(jnp.repeat(jnp.repeat(tiles, rows, axis=-3), columns, axis=-2))

    # Both layouts of one tile: one above the other, and side by side.
    r, c, zero = (jnp.full(2, n, jnp.int32) for n in (rows, columns, 0))
    bumps = square_windows.bumps(kind, r, c, zero, zero, jnp.array([False, True]), rows, columns)
    upright, sideways = cropped(jnp.tile(bumps, (1, down, right, 1)))
    delta = jnp.where(spread(u[..., :1]) < 0.5, sideways, upright) * spread(_signs(u[..., 1:]))
    if kind == "l2":
        delta = per_example(threat.eps, x) * divide(delta, per_example(norm(delta, "l2"), delta))
    return x + delta


def _as_images(x: Array) -> Float[Array, "b h w c"]:
    shape = x.shape[1:]
    height, width = shape[:2] if len(shape) > 1 else (1, *shape, 1)[:2]
    return x.reshape(x.shape[0], height, width, -1)


def _window(draw: Draw, corner: Array, x: Array) -> Array:
    return square_windows.window(draw.rows, draw.columns, corner[:, 0], corner[:, 1], *x.shape[1:3])


def _per_channel(kind: Norm, x: Array) -> Float[Array, "b 1 1 c"]:
    total = jnp.square(x) if kind == "l2" else jnp.abs(x)
    total = total.sum(axis=(1, 2), keepdims=True)
    return jnp.sqrt(total) if kind == "l2" else total


def _signs(u: Array) -> Array:
    return jnp.where(u < 0.5, -1.0, 1.0)
