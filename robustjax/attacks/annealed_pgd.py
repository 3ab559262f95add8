"""PGD whose steps fall to zero along half a cosine, in one or several stages."""

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.solver import Solver, check_finite
from robustjax.attacks.starts import Start
from robustjax.numerics import per_example
from robustjax.threats import Threat
from robustjax.types import Number


def annealed_pgd(
    threat: Threat, *, steps: int, stages: int = 1, first: Number = 2.0, start: Start | None = None
) -> Solver:
    """Follow the steepest direction and project, in steps from `first` radii down to almost none.

        x <- project(x + first eps (1 + cos(pi i / n)) / 2 steepest(gradient)),  i = 0 ... n - 1

    The first steps lead to corners of the ball, the last ones settle. Every stage begins again at the full step, from
    the point of highest objective of the stage before.

    Args:
      threat: where the result must lie.
      steps: gradient steps in all stages together; every stage also evaluates its first point.
      stages: equal parts; the last gets what is left over.
      first: the first step of each stage, in radii.
      start: the first point, projected; by default drawn from the threat.
    Returns:
      An ascent that can also be driven in segments.
    Raises:
      ValueError: if stages is less than 1 or more than steps, first is not positive, eps is infinite or the norm is l0.

    Reference: the schedule of Ma et al. 2020, arXiv:2006.13726, and of Xie et al. 2024, arXiv:2411.15210; the stages'
      first points are theirs only as far as the best point is the last one.
    """
    checks.count("annealed_pgd", "stages", stages)
    checks.count("annealed_pgd", "steps", steps, least=stages)
    checks.setting("annealed_pgd", "first", first, above=0)
    check_finite("annealed_pgd", threat)
    lengths = [steps // stages] * (stages - 1) + [steps - steps // stages * (stages - 1)]

    def begin(stage: Stage, state: AscentState) -> AscentState:
        del stage
        return state._replace(memory=())

    def propose(stage: Stage, state: AscentState) -> Array:
        done = (stage.age - 1).astype(jnp.float32) / stage.steps.astype(jnp.float32)
        length = first * stage.threat.eps * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return state.x + per_example(length, state.x) * stage.threat.steepest(state.grad, state.x)

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        del stage, before
        return after

    rule = Rule(begin, propose, review)
    return gradient_ascent("annealed_pgd", threat, rule, [(1.0, n) for n in lengths], start or threat.sample)
