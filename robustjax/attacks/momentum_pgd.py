"""Projected gradient ascent with momentum over normalised gradients, as solvers, plain and monotone."""

import jax.numpy as jnp
from jaxtyping import Array

from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.pgd import Start, at_origin
from robustjax.attacks.solver import Solver, check_finite, select
from robustjax.numerics import constant, divide, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Number, Radius


def momentum_pgd(
    threat: Threat, *, steps: int, step_size: Radius, momentum: Number = 0.9, start: Start | None = None
) -> Solver:
    """Step along the sum v <- m v + g / |g|_1 of normalised gradients, project, and keep the best point.

    The same search as `pgd.pgd` with momentum, which is one compiled loop of fixed length.

    Args:
      threat: where the result must lie.
      steps: gradient steps; with the first point that makes steps + 1 evaluations.
      step_size: length of a step in the threat's norm, in the units of x; one number or one per example.
      momentum: m in [0, 1].
      start: the first point, projected; x itself by default, which is then never lost to a worse one.

    Raises:
      ValueError: if steps or a known step_size is negative, or eps is infinite.

    Reference: the training attack of Augustin, Meinke and Hein 2020, arXiv:2003.09461 (ArgminPGD in their code).
    """
    _check("momentum_pgd", threat, steps, step_size)

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        del stage
        return after._replace(memory=_velocity(before, momentum))

    rule = Rule(_at_rest(step_size), _propose(momentum), review)
    return gradient_ascent(threat, rule, [(1.0, steps)], start or at_origin)


def monotone(
    threat: Threat,
    *,
    steps: int,
    step_size: Radius,
    momentum: Number = 0.9,
    shrink: Number = 0.5,
    start: Start | None = None,
) -> Solver:
    """Take only steps that do not lower the objective; after one that would, go back and make shorter ones.

    Args:
      threat, steps, step_size, momentum, start: as in `momentum_pgd`.
      shrink: what a refused step multiplies all later steps of that example by, in (0, 1).

    Raises:
      ValueError: as `momentum_pgd`, or if a known shrink is outside (0, 1).

    Reference: MonotonePGD in the code of Augustin, Meinke and Hein 2020, arXiv:2003.09461. There a refused step
      keeps its own gradient and the step its length. Here point, gradient and velocity all go back, so that a step
      of the same length would be refused forever.
    """
    _check("monotone", threat, steps, step_size)
    if isinstance(shrink, int | float) and not 0 < shrink < 1:
        raise ValueError(f"monotone: shrink is {shrink}, must be in (0, 1)")

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        del stage
        refused = after.value < before.value
        return after._replace(
            x=select(refused, before.x, after.x),
            grad=select(refused, before.grad, after.grad),
            value=select(refused, before.value, after.value),
            memory=select(refused, before.memory, _velocity(before, momentum)),
            step_size=jnp.where(refused, shrink * before.step_size, before.step_size),
        )

    rule = Rule(_at_rest(step_size), _propose(momentum), review)
    return gradient_ascent(threat, rule, [(1.0, steps)], start or at_origin)


def _at_rest(step_size: Radius):
    def begin(stage: Stage, state: AscentState) -> AscentState:
        del stage
        length = constant(state.x, jnp.asarray(step_size, jnp.float32))
        return state._replace(step_size=length, memory=jnp.zeros_like(state.x))

    return begin


def _propose(momentum: Number):
    def propose(stage: Stage, state: AscentState) -> Array:
        ahead = stage.threat.steepest(_velocity(state, momentum), state.x)
        return state.x + per_example(state.step_size, state.x) * ahead

    return propose


def _velocity(state: AscentState, momentum: Number) -> Array:
    length = per_example(norm(state.grad, "l1"), state.grad)
    return momentum * state.memory + divide(state.grad, length)


def _check(name: str, threat: Threat, steps: int, step_size: Radius) -> None:
    if steps < 0:
        raise ValueError(f"{name}: steps is {steps}, must be at least 0")
    if isinstance(step_size, int | float) and not step_size >= 0:
        raise ValueError(f"{name}: step_size is {step_size}, must be at least 0")
    check_finite(name, threat)
