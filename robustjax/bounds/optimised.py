"""Linear relaxation with slopes that are optimised: every slope gives a bound, the best one is searched by gradient."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from robustjax.bounds import rounding
from robustjax.bounds.affine import Ball
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.backward import Moved, Values, curves_before, least, relaxations_of, turnings
from robustjax.bounds.program import Program, Wire

_RATE = 0.05  # of Adam, in parts of the range of slopes
STEPS = 30


def least_optimised(
    program: Program,
    ball: Ball,
    values: Values,
    weights: Mapping[Wire, Float[Array, "rows ..."]],
    *,
    steps: int = STEPS,
) -> Float[Array, " rows"]:
    """Bound sums of weighted values from below over a ball, as `backward.least`, with slopes that are optimised.

    The lines below and above every curve are turned for each row on its own; the intervals that they hold over stay.
    The best bound of all steps is kept for each row.

    Args:
      program, ball: of one example.
      values: intervals of every value, from `by_intervals` or `by_relaxation`.
      weights: of one value, a row for each bound.
      steps: of Adam.

    Reference: Xu et al. 2021, arXiv:2011.13824, alpha-CROWN, which optimises slopes of ReLU, those behind the intervals
      too.
    """
    ((wire, weight),) = weights.items()
    rows = weight.shape[0]
    turns = {
        line.outputs[0]: Interval(
            *(
                jnp.zeros((rows, *values[line.outputs[0]].low.shape), weight.dtype) + program.zero
                for _ in range(2)
            )
        )
        for line in curves_before(program, wire)
    }
    slacks = rounding.slacks(program, values) if program.outward else {}
    start = turnings(program, wire, values)
    first = least(program, ball, relaxations_of(program, values, slacks=slacks), weights)
    if not turns:
        return first

    def bound(turns: Moved) -> Float[Array, " rows"]:
        def row(weight: Array, moved: Moved) -> Array:
            relaxations = relaxations_of(program, values, moved, slacks, start)
            return least(program, ball, relaxations, {wire: weight[None]})[0]

        return jax.vmap(row)(weight, turns)

    adam = optax.adam(_RATE)

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
