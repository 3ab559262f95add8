"""Projected gradient ascent over a threat: as one loop, as a solver, in one step, and monotone."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.solver import Solver, better, check_finite, entered, given_back, seen_as, select
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, divide, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Ascent, Found, Keys, Number, Objective, Radius


def pgd(
    threat: Threat,
    *,
    steps: int,
    step_size: Radius,
    momentum: Number = 0.0,
    start: Start | None = None,
    keep: Literal["best", "last"] = "best",
) -> Ascent:
    """Follow the steepest direction and project: z <- P(z + step_size * steepest(v)).

    v is the gradient, or with momentum m the sum m v + g / |g|_1 of normalised gradients.

    Args:
      threat: where the result must lie.
      steps: gradient evaluations.
      step_size: length of a step in the threat's norm, in the units of x; one number or one per example. In l0 the
        largest change of a feature, before the projection: some 8 widths of the box.
      momentum: m in [0, 1].
      start: the first point; by default uniform in the threat. `starts` has others.
      keep: return the best point met, or the last one as training often does; "last" costs one forward pass
        less where its value is not used.

    Returns:
      An ascent (key, objective, x) -> Found: a feasible point, cut from the gradient, and its value. It costs
      `steps` gradients and one more forward pass. With "best" it is never worse than its start.

    Raises:
      ValueError: if steps or a known step_size is negative, or keep is unknown.

    Reference: Madry et al. 2018, arXiv:1706.06083; momentum as in Dong et al. 2018, arXiv:1710.06081. In l0 it is
      PGD-l0 of Croce and Hein 2019, arXiv:1909.05040, where the gradient is divided by the sum of its entries, not
      by the largest, and any start is projected. Gradients that are not finite count as zero, so that the result is
      always feasible.
    """
    checks.threat("pgd", threat, l0=True)
    checks.count("pgd", "steps", steps, least=0)
    checks.setting("pgd", "step_size", step_size, least=0)
    checks.per_point("pgd", "step_size", step_size, np.size(step_size))
    checks.setting("pgd", "momentum", momentum, least=0)
    if keep not in ("best", "last"):
        raise ValueError(f"pgd: keep is {keep!r}, must be 'best' or 'last'")
    has_momentum = not checks.is_zero(momentum)

    def ascend(key: Keys, objective: Objective, x: Array) -> Found:
        given, x = x, entered("pgd", threat, x)
        seen = seen_as(given, objective)
        slope = jax.value_and_grad(_summed(seen), has_aux=True)

        def step(_, carry):
            z, velocity, best = carry
            (_, value), grad = slope(z)
            if best is not None:
                best = better(best, Found(z, value))
            grad = jnp.where(jnp.isfinite(grad), grad, 0.0)
            if velocity is not None:
                velocity = grad = momentum * velocity + divide(grad, per_example(norm(grad, "l1"), grad))
            z = z + per_example(step_size, z) * threat.steepest(grad, z)
            return threat.project(z, x), velocity, best

        first = threat.project((start or threat.sample)(key, x).astype(x.dtype), x)
        velocity = jnp.zeros_like(x) if has_momentum else None
        # Not yet worth anything: the loop itself evaluates the first point.
        best = Found(first, constant(first, -jnp.inf)) if keep == "best" else None
        z, _, best = jax.lax.fori_loop(0, steps, step, (first, velocity, best))
        last = Found(z, seen(z))
        return given_back(last if best is None else better(best, last), given, objective)

    return ascend


def fgsm(threat: Threat, *, step_size: Radius | None = None) -> Ascent:
    """Take one steepest step from x itself, by default to the edge of the ball.

    Args:
      threat: where the result must lie.
      step_size: length of the step, in the units of x; `threat.eps` by default.

    Reference: Goodfellow et al. 2015, arXiv:1412.6572; other norms by their steepest direction.
    """
    checks.threat("fgsm", threat)
    length = threat.eps if step_size is None else step_size
    return pgd(threat, steps=1, step_size=length, start=at_origin, keep="last")


def pgd_solver(
    threat: Threat,
    *,
    steps: int,
    step_size: Radius,
    momentum: Number = 0.0,
    start: Start | None = None,
) -> Solver:
    """Make the same search as `pgd` as a solver, which can be driven in segments by evaluation suites.

    It keeps the best point. `pgd` is one loop of fixed length, which compiles and runs faster inside a loss.

    Args:
      threat, steps, step_size, momentum, start: as in `pgd`. Steps make steps + 1 evaluations with the first point.

    Raises:
      ValueError: if steps or a known step_size is negative, or eps is infinite.

    Reference: Madry et al. 2018, arXiv:1706.06083; with momentum the training attack of Augustin, Meinke and Hein 2020,
      arXiv:2003.09461 (ArgminPGD in their code).
    """
    _check("pgd_solver", threat, steps, step_size, momentum)
    if checks.is_zero(momentum):

        def begin(stage: Stage, state: AscentState) -> AscentState:
            del stage
            return state._replace(memory=())

        def propose(stage: Stage, state: AscentState) -> Array:
            return state.x + per_example(step_size, state.x) * stage.threat.steepest(state.grad, state.x)

        def keep(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
            del stage, before
            return after

        rule = Rule(begin, propose, keep)
    else:

        def remember(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
            del stage
            return after._replace(memory=_velocity(before, momentum))

        rule = Rule(_at_rest(step_size), _propose(momentum), remember)
    return gradient_ascent("pgd_solver", threat, rule, [(1.0, steps)], start or threat.sample)


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
      threat, steps, step_size, momentum, start: as in `pgd_solver`; the start is x itself by default.
      shrink: what a refused step multiplies all later steps of that example by, in (0, 1).

    Raises:
      ValueError: as `pgd_solver`, or if a known shrink is outside (0, 1).

    Reference: MonotonePGD in the code of Augustin, Meinke and Hein 2020, arXiv:2003.09461. There a refused step
      keeps its own gradient and the step its length. Here point, gradient and velocity all go back, so that a step
      of the same length would be refused forever.
    """
    _check("monotone", threat, steps, step_size, momentum)
    checks.setting("monotone", "shrink", shrink, above=0, below=1)

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
    return gradient_ascent("monotone", threat, rule, [(1.0, steps)], start or at_origin)


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


def _check(name: str, threat: Threat, steps: int, step_size: Radius, momentum: Number) -> None:
    checks.count(name, "steps", steps, least=0)
    checks.setting(name, "step_size", step_size, least=0)
    checks.setting(name, "momentum", momentum, least=0)
    check_finite(name, threat, l0=True)


def _summed(objective: Objective):
    # One gradient of the sum is the gradient of every example, and one plain backward pass.
    def total(z):
        value = objective(z)
        checks.values("pgd", value, len(z))
        return value.sum(), value

    return total
