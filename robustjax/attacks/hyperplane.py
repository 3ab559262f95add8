"""The shortest way to a hyperplane inside a box, in linf, l2 and l1, without a sort."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.attacks.bisection import least
from robustjax.numerics import Norm, constant, divide, norm, per_example
from robustjax.types import Mask, PerExample

Rows = Float[Array, "b d"]


def onto_hyperplane(
    kind: Norm,
    normal: Float[Array, "b ..."],
    gap: PerExample,
    point: Float[Array, "b ..."],
    lower: float | Array,
    upper: float | Array,
) -> Float[Array, "b ..."]:
    """Find the shortest d with <normal, d> = -gap and lower <= point + d <= upper.

    Each feature moves against sign(gap) normal_i, at most by its room p_i to the box: by min(t, p_i) in linf, by
    min(t |normal_i|, p_i) in l2, and in l1 by p_i where |normal_i| > t and by one share of p_i where it is t. The
    one number t comes from bisection in l1 and from Newton's method elsewhere, exactly and in a handful of
    steps, because what is reached is concave and piecewise linear in t. Where the box does not reach the hyperplane, d
    leads to its corner.

    Args:
      kind: the norm in which d is short.
      normal: w of the hyperplane; where it is 0, d is 0.
      gap: <w, point> - b, one per example.
      point: where to start, inside the box.
      lower, upper: the box, broadcast against point; -inf and inf for none.

    Reference: Croce and Hein 2020, arXiv:1907.02044, which sorts. Features that tie in l1 share the move.
    """
    up, down = (
        (edge + jnp.zeros_like(point)).reshape(point.shape[0], -1) for edge in (upper - point, point - lower)
    )
    shape, normal = (
        normal.shape,
        normal.reshape(normal.shape[0], -1),
    )  # loops over flat rows become vector code
    # At scale 1 neither squares of tiny gradients underflow nor sums of large ones overflow.
    scale = norm(normal, "linf")
    slope = divide(jnp.abs(normal), per_example(scale, normal))
    needed = divide(jnp.abs(gap), scale)
    away = -jnp.sign(normal) * per_example(jnp.sign(gap), normal)
    # No feature need go further than where it meets the hyperplane alone; that bounds rooms without a box.
    room = jnp.where(away > 0, up, down)
    room = jnp.clip(room, 0.0, divide(jnp.broadcast_to(per_example(needed, slope), slope.shape), slope))

    def reached(move: Array) -> PerExample:
        return (slope * move).sum(axis=1)

    if kind == "l1":

        def little_above(t: PerExample) -> Mask:
            return reached(jnp.where(slope > per_example(t, slope), room, 0.0)) < needed

        t = per_example(least(little_above, slope), slope)
        whole, part = jnp.where(slope > t, room, 0.0), jnp.where(slope == t, room, 0.0)
        share = jnp.clip(divide(needed - reached(whole), reached(part)), 0.0, 1.0)
        return (away * (whole + per_example(share, part) * part)).reshape(shape)

    pace = slope if kind == "l2" else jnp.ones_like(slope)
    t = _meeting(slope, pace, room, needed)
    out_of_reach = reached(room) <= needed
    moved = jnp.minimum(per_example(t, slope) * pace, room)
    return (away * jnp.where(per_example(out_of_reach, room), room, moved)).reshape(shape)


def _meeting(slope: Rows, pace: Rows, room: Rows, needed: PerExample) -> PerExample:
    """Solve sum_i slope_i min(t pace_i, room_i) = needed for the smallest t; anything where there is none.

    From the left, every step of Newton's method on a concave function stays on the left, so that t only grows; a row
    whose t grows no more is done and stays as it is, whatever the others do.
    """

    def further(t: PerExample) -> PerExample:
        free = per_example(t, pace) * pace < room
        rest = needed - jnp.where(free, 0.0, slope * room).sum(axis=1)
        return divide(rest, jnp.where(free, slope * pace, 0.0).sum(axis=1))

    def go_on(state: tuple[PerExample, Mask]) -> Array:
        return state[1].any()

    def step(state: tuple[PerExample, Mask]) -> tuple[PerExample, Mask]:
        t, growing = state
        ahead = further(t)
        growing = growing & (ahead > t)
        return jnp.where(growing, ahead, t), growing

    none = constant(slope, 0.0)
    return jax.lax.while_loop(go_on, step, (none, needed > none))[0]
