"""Linear relaxation with slopes that are optimised: every slope gives a bound, the best one is searched by gradient."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from robustjax.bounds import backward, rounding
from robustjax.bounds.activations import curve_of
from robustjax.bounds.affine import Ball
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.backward import Moved, Values, curves_before, least, relaxations_of, turnings
from robustjax.bounds.curves import has_chord_above
from robustjax.bounds.program import Program, Wire

_RATE = 0.05  # of Adam, in parts of the range of slopes
_FAST_RATE = 0.2  # for few steps
STEPS = 30


def least_optimised(
    program: Program,
    ball: Ball,
    values: Values,
    weights: Mapping[Wire, Float[Array, "rows ..."]],
    *,
    steps: int = STEPS,
    rate: float = _RATE,
) -> Float[Array, " rows"]:
    """Bound sums of weighted values from below over a ball, as `backward.least`, with slopes that are optimised.

    The lines below and above every curve are turned for each row on its own; the intervals that they hold over stay.
    The best bound of all steps is kept for each row.

    Args:
      program, ball: of one example.
      values: intervals of every value, from `by_intervals` or `by_relaxation`.
      weights: of one value, a row for each bound.
      steps: of Adam.
      rate: its step size, in parts of the range of slopes.

    Reference: Xu et al. 2021, arXiv:2011.13824, alpha-CROWN, which optimises slopes of ReLU, those behind the intervals
      too.
    """
    ((wire, weight),) = weights.items()
    rows = weight.shape[0]
    still = {
        line.outputs[0]: jnp.zeros_like(values[line.outputs[0]].low) for line in curves_before(program, wire)
    }
    turned_above = {
        line.outputs[0]
        for line in curves_before(program, wire)
        if (curve := curve_of(line)) is not None and not has_chord_above(curve)
    }
    # Below and, but for ReLU, above.
    turns: tuple[dict[Wire, Array], dict[Wire, Array]] = tuple(  # pyright: ignore[reportAssignmentType]
        {
            out: jnp.zeros((rows, *v.shape), weight.dtype) + program.zero
            for out, v in still.items()
            if out in chosen
        }
        for chosen in (set(still), turned_above)
    )
    slacks = rounding.slacks(program, values) if program.outward else {}
    start = turnings(program, wire, values)
    first = least(program, ball, relaxations_of(program, values, slacks=slacks), weights)
    if not still:
        return first

    def bound(turns: tuple[dict[Wire, Array], dict[Wire, Array]]) -> Float[Array, " rows"]:
        def row(weight: Array, turns: tuple[dict[Wire, Array], dict[Wire, Array]]) -> Array:
            below, above = turns
            moved: Moved = {out: Interval(below[out], above.get(out, still[out])) for out in still}
            relaxations = relaxations_of(program, values, moved, slacks, start)
            return least(program, ball, relaxations, {wire: weight[None]})[0]

        return jax.vmap(row)(weight, turns)

    adam = optax.adam(rate)

    def step(carry, _):
        turns, state, best = carry
        (_, now), slope = jax.value_and_grad(lambda t: ((found := bound(t)).sum(), found), has_aux=True)(
            turns
        )
        slope = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), -g, 0.0), slope)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a number to a whole one
            change, state = adam.update(slope, state)
        turns = jax.tree.map(lambda t, c: jnp.clip(t + c, -1.0, 1.0), turns, change)
        return (turns, state, jnp.fmax(best, now)), None

    (turns, _, best), _ = jax.lax.scan(step, (turns, adam.init(turns), first), None, length=steps)
    return jnp.fmax(best, bound(turns))


def tightened(program: Program, ball: Ball, values: Values, *, chunk: int, steps: int) -> Values:
    """Tighten the intervals that curves are bounded over: the slopes behind either end of each number are optimised.

    From the first value on, and only for numbers that are open, see `backward.open_numbers`: what these are is known
    before a value's turn by the intervals that were tightened before.

    Args:
      program, ball: of one example.
      values: intervals of every value, from `by_relaxation`; they are kept where they are tighter.
      chunk: numbers at a time; each has slopes of its own for every curve before it, for each end.
      steps: of Adam.

    Reference: Xu et al. 2021, arXiv:2011.13824, alpha-CROWN with intermediate bounds.
    """
    tight: Values = {program.x: ball.hull}
    read = backward.read_by_curves(program)
    for number, line in enumerate(program.lines):
        for out, found in zip(line.outputs, backward.intervals(program, line, tight), strict=True):
            tight[out] = Interval(
                jnp.maximum(found.low, values[out].low), jnp.minimum(found.high, values[out].high)
            )
        before = program._replace(lines=program.lines[: number + 1])
        for out in line.outputs:
            if out not in read or not curves_before(before, out):
                continue

            def least_of(rows: Array, before: Program = before, out: Wire = out) -> Array:
                return least_optimised(before, ball, tight, {out: rows}, steps=steps, rate=_FAST_RATE)

            chosen = backward.open_numbers(program, out, tight[out])
            tight[out] = backward.narrowed(tight[out], chosen, least_of, chunk)
    return tight
