"""Auto-PGD: projected gradient ascent with momentum that sets its own step size, per example."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robustjax import checks
from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.solver import Solver, check_finite, select
from robustjax.attacks.sparse import sparse
from robustjax.attacks.starts import Start, gaussian_start, rim
from robustjax.numerics import per_example
from robustjax.threats import Threat
from robustjax.types import PerExample


def apgd(
    threat: Threat,
    *,
    steps: int = 100,
    rho: float = 0.75,
    start: Start | None = None,
    compat: Literal["official"] | None = None,
) -> Solver:
    """Ascend with momentum; at checkpoints halve the step of whoever stalls and return to its best point.

    In l1 the step is sparse instead, without momentum, and its sparsity follows that of the best point.

    Args:
      threat: where the result must lie; in l1 its `density` plays no role.
      steps: gradient steps; with the first point that makes steps + 1 evaluations.
      rho: share of rising steps between two checkpoints below which the step size is halved.
      start: the first point, projected; by default random on the rim: in linf one feature at distance eps,
        in l2 on the sphere, in l1 a projected normal draw.
      compat: "official" compares the first step with 0 instead of the start's value, like the authors' code.
    Returns:
      An ascent that can also be driven in segments.
    Raises:
      ValueError: if steps is less than 1, rho is outside [0, 1], eps is infinite or compat is unknown.

    Reference: Croce and Hein 2020, arXiv:2003.01690 (linf, l2), and 2021, arXiv:2103.01208 (l1). Unlike the
      authors' code, the first step is compared with the start (see compat), and the point returned is the one
      of highest merit, where theirs is the last misclassified one.
    """
    checks.count("apgd", "steps", steps)
    check_finite("apgd", threat)
    rule = _rule("apgd", threat, rho, start is None, compat)
    return gradient_ascent("apgd", threat, rule, [(1.0, steps)], start or rim(threat))


def apgd_shrinking(
    threat: Threat,
    *,
    steps: int = 100,
    stages: Sequence[tuple[float, float]] = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4)),
    rho: float = 0.75,
    start: Start | None = None,
    compat: Literal["official"] | None = None,
) -> Solver:
    """Run APGD in larger balls first and carry the best point inwards: the published l1 recipe.

    Args:
      threat: where the result must lie.
      steps: gradient steps in all stages together.
      stages: (multiple of eps, share of the steps); shares are rounded up, the last stage gets the rest.
      rho: as in `apgd`.
      start: the first point, projected to the first ball; by default x plus standard normal noise.
      compat: as in `apgd`.
    Raises:
      ValueError: if the last multiple is not 1 or a stage has no step, and as for `apgd`.

    Reference: Croce and Hein 2021, arXiv:2103.01208.
    """
    checks.count("apgd_shrinking", "steps", steps)
    lengths = [math.ceil(round(share * steps, 6)) for _, share in stages[:-1]]
    lengths.append(steps - sum(lengths))
    if not stages or stages[-1][0] != 1.0:
        raise ValueError(
            f"apgd_shrinking: stages are {tuple(stages)}, must end with the threat's own radius, 1.0"
        )
    if min(lengths) < 1:
        raise ValueError(f"apgd_shrinking: {steps} steps give stages of {lengths}, each must have at least 1")
    check_finite("apgd_shrinking", threat)
    series = [(scale, length) for (scale, _), length in zip(stages, lengths, strict=True)]
    rule = _rule("apgd_shrinking", threat, rho, False, compat)
    return gradient_ascent("apgd_shrinking", threat, rule, series, start or gaussian_start(1.0))


def _rule(name: str, threat: Threat, rho: float, random_start: bool, compat: str | None) -> Rule:
    checks.setting(name, "rho", rho, least=0, most=1)
    if compat not in (None, "official"):
        raise ValueError(f"{name}: compat is {compat!r}, must be 'official' or None")
    return sparse(random_start) if threat.norm == "l1" else momentum(rho, compat == "official")


class Checks(NamedTuple):
    """What the checkpoints need: rising steps and all steps since the last one, its distance, its success."""

    rises: Int[Array, "b"]
    since: Int[Array, "b"]
    period: Int[Array, "b"]
    halved: Bool[Array, "b"]
    best: PerExample


def momentum(rho: float, first_from_zero: bool) -> Rule:
    """Step along the steepest direction plus a quarter of the last move; halve the step of whoever stalls."""

    def begin(stage: Stage, state: AscentState) -> AscentState:
        none = jnp.zeros_like(state.step)
        checks = Checks(none, none, jnp.maximum(22 * stage.steps // 100, 1), none == 0, state.value)
        value = jnp.zeros_like(state.value) if first_from_zero else state.value
        return state._replace(step_size=2.0 * stage.threat.eps, memory=checks, value=value)

    def propose(stage: Stage, state: AscentState) -> Array:
        steepest = per_example(state.step_size, state.x) * stage.threat.steepest(state.grad)
        ahead = stage.threat.project(state.x + steepest, state.origin)
        share = per_example(jnp.where(stage.age == 1, 1.0, 0.75), state.x)
        return state.x + share * (ahead - state.x) + (1.0 - share) * (state.x - state.x_prev)

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        old: Checks = before.memory
        rises = old.rises + (after.value > before.value).astype(jnp.int32)
        since = old.since + 1
        due = since == old.period
        swings = rises.astype(jnp.float32) <= rho * old.period.astype(jnp.float32)
        stalls = ~old.halved & (old.best >= after.best.value)
        halve = due & (swings | stalls)

        shorter = old.period - jnp.maximum(3 * stage.steps // 100, 1)
        none = jnp.zeros_like(since)
        fresh = Checks(
            none, none, jnp.maximum(shorter, jnp.maximum(6 * stage.steps // 100, 1)), halve, after.best.value
        )
        return after._replace(
            # The move before the return stays in the momentum, as in the published runs.
            x=select(halve, after.best.x, after.x),
            grad=select(halve, after.best.grad, after.grad),
            step_size=jnp.where(halve, 0.5 * after.step_size, after.step_size),
            memory=select(due, fresh, old._replace(rises=rises, since=since)),
        )

    return Rule(begin, propose, review)
