"""Projected gradient ascent as a solver that can be driven in segments, for evaluation suites."""

from jaxtyping import Array

from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.pgd import Start
from robustjax.attacks.solver import Solver, check_finite
from robustjax.numerics import per_example
from robustjax.threats import Threat
from robustjax.types import Number


def steady(threat: Threat, *, steps: int, step_size: Number, start: Start | None = None) -> Solver:
    """Follow the steepest direction with steps of one length, and project.

    The same search as `pgd.pgd`, which is one compiled loop for use inside a loss.

    Args:
      threat: where the result must lie.
      steps: gradient steps; with the first point that makes steps + 1 evaluations.
      step_size: length of a step, in the units of x.
      start: the first point, projected; uniform in the ball by default.
    Raises:
      ValueError: if steps is less than 1 or eps is infinite.

    Reference: Madry et al. 2018, arXiv:1706.06083.
    """
    if steps < 1:
        raise ValueError(f"steady: steps is {steps}, must be at least 1")
    check_finite("steady", threat)

    def begin(stage: Stage, state: AscentState) -> AscentState:
        del stage
        return state._replace(memory=())

    def propose(stage: Stage, state: AscentState) -> Array:
        return state.x + per_example(step_size, state.x) * stage.threat.steepest(state.grad, state.x)

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        del stage, before
        return after

    return gradient_ascent(threat, Rule(begin, propose, review), [(1.0, steps)], start or threat.sample)
