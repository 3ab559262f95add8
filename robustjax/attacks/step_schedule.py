"""Attacks that take more steps as training goes on, in one compiled program."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax.attacks.solver import Count, Solver, run
from robustjax.types import Ascent, Found, Keys, Objective


def first_steps(solver: Solver, steps: Count) -> Ascent:
    """Stop a solver after some of its steps, a number that may be traced.

    Under `training.scheduled` the loss of update t is then
    `adversarial(model, against(first_steps(pgd_solver(threat, steps=20, ...), rising(t, ...))))`.

    Args:
      solver: such as `pgd_solver` or `apgd`, built for the largest number of steps.
      steps: how many to take after the evaluation of the first point; more than the solver has change nothing.

    Returns:
      An ascent that costs steps + 1 gradients.
    """

    def ascend(key: Keys, objective: Objective, x: Array) -> Found:
        return run(solver, key, objective, x, steps + 1)

    return ascend


def rising(update: Int[Array, ""] | int, *, first: int, last: int, over: int) -> Int[Array, ""]:
    """Count steps from `first`, at update 0, evenly up to `last`, from update `over` on.

    Raises:
      ValueError: if first is negative, last is below it or over is less than 1.
    """
    if not 0 <= first <= last or over < 1:
        raise ValueError(
            f"rising: first, last, over are {first}, {last}, {over}, "
            "must be at least 0, at least first and at least 1"
        )
    # Integers all the way: a float32 product may fall just below the number it stands for.
    done = jnp.minimum(jnp.asarray(update, jnp.int32), over)
    return first + (last - first) * done // over
