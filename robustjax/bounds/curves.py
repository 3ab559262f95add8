"""Straight lines below and above a function of one number, from where it bends upwards, downwards or not at all.

Of a line only the slope is chosen; its offset is computed, so that every slope gives a bound. That makes slopes free
parameters, to be optimised.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.bounds.arithmetic import Interval

CONVEX, CONCAVE, STRAIGHT = 1, -1, 0
_HALVINGS = 26  # of a piece, in search of the point where it has a given slope


class Curve(NamedTuple):
    """A continuous function of one number.

    Attributes:
      fn: elementwise, and differentiable inside each piece.
      breaks: where pieces meet, rising; numbers, or arrays that broadcast against the argument.
      shapes: of each piece, one more than there are breaks: CONVEX, CONCAVE or STRAIGHT.
    """

    fn: Callable[[Array], Array]
    breaks: tuple[Array | np.ndarray | float, ...]
    shapes: tuple[int, ...]


class Lines(NamedTuple):
    """Two straight lines of one number, one below and one above a function over an interval."""

    low_slope: Array
    low_offset: Array
    high_slope: Array
    high_offset: Array


def _below_zero(curve: Curve) -> Curve:
    return Curve(lambda z: -curve.fn(z), curve.breaks, tuple(-shape for shape in curve.shapes))


def _slope(curve: Curve, z: Array) -> Array:
    return jax.jvp(curve.fn, (z,), (jnp.ones_like(z),))[1]


def _pieces(curve: Curve, x: Interval) -> list[tuple[Array, Array, int]]:
    """Cut an interval at the breaks; pieces that it does not reach have no width."""
    ends = [x.low, *(jnp.clip(jnp.asarray(b, x.low.dtype), x.low, x.high) for b in curve.breaks), x.high]
    return list(zip(ends[:-1], ends[1:], curve.shapes, strict=True))


def _halved(go_right: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """Find where a condition that holds on the left of some point stops to hold."""

    def once(_, ends):
        a, b = ends
        middle = 0.5 * (a + b)
        right = go_right(middle)
        return jnp.where(right, middle, a), jnp.where(right, b, middle)

    a, b = jax.lax.fori_loop(0, _HALVINGS, once, (a, b))
    return 0.5 * (a + b)


def lowest(curve: Curve, slope: Array, x: Interval) -> Array:
    """Bound f(z) - slope z from below over an interval: the offset of the line of that slope.

    A convex piece lies above its tangents, so a point where its slope is nearly the one given serves: what is missing
    is at most the difference of both times the width of the piece.
    """
    if CONVEX not in curve.shapes:  # then it is lowest at an end of a piece
        ends = [x.low, *(b for _, b, _ in _pieces(curve, x))]
        return functools.reduce(jnp.minimum, [curve.fn(z) - slope * z for z in ends])
    least = jnp.minimum(curve.fn(x.low) - slope * x.low, curve.fn(x.high) - slope * x.high)
    for a, b, shape in _pieces(curve, x):
        ends = jnp.minimum(curve.fn(a) - slope * a, curve.fn(b) - slope * b)
        if shape == CONVEX:
            # The search needs no gradient: at the point that it finds, the value does not depend on the point.
            still = jax.lax.stop_gradient
            at = still(_halved(lambda z: _slope(curve, z) < slope, still(a), still(b)))
            missing = jnp.abs(_slope(curve, at) - slope) * (b - a)
            inside = (_slope(curve, a) < slope) & (_slope(curve, b) > slope) & (a < b)
            ends = jnp.where(inside, jnp.minimum(ends, curve.fn(at) - slope * at - still(missing)), ends)
        least = jnp.minimum(least, ends)
    return least


def highest(curve: Curve, slope: Array, x: Interval) -> Array:
    """Bound f(z) - slope z from above over an interval."""
    return -lowest(_below_zero(curve), -slope, x)


def hull(curve: Curve, x: Interval) -> Interval:
    """Bound the function over an interval."""
    flat = jnp.zeros_like(x.low)
    return Interval(lowest(curve, flat, x), highest(curve, flat, x))


def slopes(curve: Curve, x: Interval) -> Interval:
    """Bound the slope of the function over an interval, from the ends of its pieces."""
    low, high = jnp.full_like(x.low, jnp.inf), jnp.full_like(x.low, -jnp.inf)
    for a, b, shape in _pieces(curve, x):
        # A straight piece may end in a kink, where its slope is not its own.
        at = [0.5 * (a + b)] if shape == STRAIGHT else [a, b]
        found = [_slope(curve, z) for z in at]
        there = (a < b) | (x.low == x.high)
        low = jnp.where(there, jnp.minimum(low, jnp.minimum(found[0], found[-1])), low)
        high = jnp.where(there, jnp.maximum(high, jnp.maximum(found[0], found[-1])), high)
    return Interval(low, high)


def lower_slope(curve: Curve, x: Interval) -> Array:
    """Choose the slope of the line below that comes nearest to the function on average over the interval.

    Its mean is its value at the midpoint, so of the lines tried the one that is highest there is taken: the chord, the
    tangents at the midpoint and at the ends, and those from an end to a piece that bends upwards. For ReLU that is
    slope 1 where more than half of the interval is positive, else 0; for convex functions the tangent at the midpoint.
    """
    middle = 0.5 * (x.low + x.high)
    width = x.high - x.low
    f_low, f_high = curve.fn(x.low), curve.fn(x.high)
    tried = [jnp.where(width > 0, (f_high - f_low) / jnp.where(width > 0, width, 1.0), 0.0)]
    points = [middle]
    if CONVEX in curve.shapes and len(curve.shapes) > 1:
        pieces = [(a, b) for a, b, shape in _pieces(curve, x) if shape == CONVEX]
        a, b = (jnp.stack([*ends, *ends]) for ends in zip(*pieces, strict=True))
        # The tangent at z passes an end (e, f(e)) where f(z) + f'(z) (e - z) = f(e).
        ends = jnp.stack([x.low] * len(pieces) + [x.high] * len(pieces))
        at_ends = jnp.stack([f_low] * len(pieces) + [f_high] * len(pieces))
        side = jnp.asarray([1.0] * len(pieces) + [-1.0] * len(pieces), a.dtype)
        side = side.reshape(-1, *(1,) * x.low.ndim)
        points += list(
            _halved(lambda z: side * (curve.fn(z) + _slope(curve, z) * (ends - z) - at_ends) > 0, a, b)
        )
    slopes = jnp.concatenate([jnp.stack(tried), _slope(curve, jnp.stack(points))])
    found = lowest(curve, slopes, Interval(*(jnp.broadcast_to(v, slopes.shape) for v in x)))
    best = jnp.argmax(found + slopes * middle[None], axis=0)
    return jnp.take_along_axis(slopes, best[None], axis=0)[0]


def upper_slope(curve: Curve, x: Interval) -> Array:
    """Choose the slope of the line above that comes nearest to the function on average over the interval."""
    return -lower_slope(_below_zero(curve), x)


def lines(curve: Curve, x: Interval) -> Lines:
    """Bound a function by the two lines that come nearest to it on average."""
    low, high = lower_slope(curve, x), upper_slope(curve, x)
    return Lines(low, lowest(curve, low, x), high, highest(curve, high, x))


class Turning(NamedTuple):
    """The slopes that lines start from, the range that they may be turned in, and which lines stay as they are."""

    start: Interval
    range: Interval
    low_stays: Array
    high_stays: Array


def turning(curve: Curve, x: Interval) -> Turning:
    """Prepare lines to be turned: they start from those that come nearest to the function on average.

    A line that meets the function at both ends stays: it is nearer than every other everywhere.
    """
    nearest = lines(curve, x)

    def meets(slope: Array, offset: Array) -> Array:
        at = [jnp.abs(slope * end + offset - curve.fn(end)) <= 1e-6 * (1 + jnp.abs(end)) for end in x]
        return at[0] & at[1]

    return Turning(
        Interval(nearest.low_slope, nearest.high_slope),
        slopes(curve, x),
        meets(nearest.low_slope, nearest.low_offset),
        meets(nearest.high_slope, nearest.high_offset),
    )


def turned(curve: Curve, x: Interval, moved: Interval, known: Turning | None = None) -> Lines:
    """Bound a function by lines of slopes that differ from the nearest ones' by some part of the range of its slopes.

    Args:
      curve, x: the function and the interval.
      moved: by which part of the range, below and above, from -1 to 1.
      known: from `turning`.
    """
    start, steep, low_stays, high_stays = known or turning(curve, x)

    def turn(slope: Array, by: Array, stays: Array) -> Array:
        other = jnp.clip(slope + by * (steep.high - steep.low), steep.low, steep.high)
        return jnp.where(stays, slope, other)

    low, high = turn(start.low, moved.low, low_stays), turn(start.high, moved.high, high_stays)
    return Lines(low, lowest(curve, low, x), high, highest(curve, high, x))


def has_chord_above(curve: Curve) -> bool:
    """Tell whether the curve bends upwards at its only break, as ReLU: the line above is the chord, and stays."""
    if curve.shapes != (STRAIGHT, STRAIGHT) or not checks.concrete(curve.breaks[0]):
        return False
    with jax.ensure_compile_time_eval():
        at = np.asarray(curve.breaks[0], np.float32).reshape(-1)[0]
        before, here, after = np.asarray(curve.fn(jnp.stack([at - 1, at, at + 1])))
    return bool(before + after >= 2 * here)
