"""What every iterative solver is: init, advance and finish over a state whose rows are examples."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from robustjax import logit
from robustjax.numerics import constant, per_example
from robustjax.threats import Threat
from robustjax.types import Attack, Found, Labels, Logits, LogitsFn, Objective, PerExample

Count = int | Int[Array, ""]
ValueAndMerit = Callable[[Array], tuple[Array, PerExample]]  # x -> (value to ascend, merit to keep points by)
OfLogits = Callable[[Logits, Labels], Array]  # such as logit.cross_entropy


class Solver(NamedTuple):
    """An iterative search that may be stopped, looked at, thinned out and continued.

    The state is a pytree of arrays that lead with the batch, its counters included: between two calls of
    `advance` its rows may be dropped, reordered, padded and joined with those of other batches.

    `init(key, x)` draws the start. It evaluates nothing, so a network is compiled once, in the loop.
    `advance(objective, state, count)` makes `count` iterations; as a traced int32, one trace serves segments
    of every length. Rows that have made all their `length` iterations stay as they are.
    `finish(state)` gives the feasible point of highest merit so far and its merit, -inf before any.

    Called as a function it is an `Ascent`, for an objective that is its own merit.
    """

    init: Callable[[PRNGKeyArray, Array], Any]
    advance: Callable[[ValueAndMerit, Any, Count], Any]
    finish: Callable[[Any], Found]
    length: int

    def __call__(self, key: PRNGKeyArray, objective: Objective, x: Array) -> Found:
        """Run all iterations."""
        state = self.advance(own_merit(objective), self.init(key, x), self.length)
        return jax.lax.stop_gradient(self.finish(state))


def as_attack(solver: Solver, loss: OfLogits = logit.cross_entropy) -> Attack:
    """Turn a solver into an attack on a classifier: ascend a loss, return the point of highest margin.

    Searches for the nearest point beyond a boundary (`boundary`, `carlini_wagner`, `fmn`, `deepfool`) want a loss that
    is zero there, such as `logit.margin`: cross-entropy is positive everywhere, which looks like arrived to them.
    """

    def attack(key: PRNGKeyArray, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        state = solver.advance(classified(logits_fn, y, loss), solver.init(key, x), solver.length)
        return jax.lax.stop_gradient(solver.finish(state))

    return attack


def own_merit(objective: Objective) -> ValueAndMerit:
    """Keep points by the objective itself."""

    def both(x: Array) -> tuple[PerExample, PerExample]:
        value = objective(x)
        return value, value

    return both


def classified(logits_fn: LogitsFn, y: Labels, loss: OfLogits) -> ValueAndMerit:
    """Ascend `loss(logits, y)` but keep points by their margin, both from one forward pass.

    The point kept is misclassified if any point met was, which the point of highest loss need not be.
    """

    def both(x: Array) -> tuple[Array, PerExample]:
        logits = logits_fn(x)
        return loss(logits, y), logit.margin(logits, y)

    return both


def until_found(solver: Solver) -> Solver:
    """Let every row rest at its first point of positive merit, whatever the length of the segments."""

    def advance(objective: ValueAndMerit, state: Any, count: Count) -> Any:
        def once(_, state):
            resting = solver.finish(state).value > 0
            return select(resting, state, solver.advance(objective, state, 1))

        return jax.lax.fori_loop(0, count, once, state)

    return solver._replace(advance=advance)


def repeat(move: Callable[[Any], Any], state: Any, count: Count, length: int) -> Any:
    """Apply `move`, `count` times, to the rows of a state whose `step` is below `length`, and count there.

    `move` may count steps too: those that it passed over.
    """

    def once(_, state):
        moved = move(state)
        return select(state.step < length, moved._replace(step=moved.step + 1), state)

    return jax.lax.fori_loop(0, count, once, state)


def select(mask: Bool[Array, "b"], yes: Any, no: Any) -> Any:
    """Take whole rows from one pytree where the mask is true, from the other where it is not."""

    def rows(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(rows, yes, no)


def check_finite(name: str, threat: Threat) -> None:
    """Refuse an infinite radius, which is fine for a projection but not as the unit of a step.

    Raises:
      ValueError: if the radius is known to be infinite.
    """
    if isinstance(threat.eps, int | float) and math.isinf(threat.eps):
        raise ValueError(f"{name}: eps is {threat.eps}, must be finite")


def nothing_yet(x: Array) -> Found:
    """Hold a feasible point that nobody has evaluated, so that any value beats it."""
    return Found(x, constant(x, -jnp.inf))


def better(old: Found, new: Found) -> Found:
    """Keep, per example, the point of larger value; a value that is NaN never wins."""
    wins = (new.value > old.value) | jnp.isnan(old.value)
    return Found(jnp.where(per_example(wins, new.x), new.x, old.x), jnp.where(wins, new.value, old.value))
