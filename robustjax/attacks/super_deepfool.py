"""SuperDeepFool: DeepFool to the boundary, then along its normal there; the nearest adversarial point in l2."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from robustjax import checks
from robustjax.attacks.fab import leads
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.minimum_norm import Hunt, Linearisation, Rule, facing, hunt, unit
from robustjax.attacks.solver import Solver, select
from robustjax.numerics import constant, per_example
from robustjax.threats import Threat
from robustjax.types import Number, PerExample


class Way(NamedTuple):
    """What the search keeps, one row per example.

    `along` says whether the point looked at now is a projection onto the normal; once such a point is adversarial the
    search has `arrived`, and halves the segment from the origin to `end`, whose ends are `near` and `far`.
    """

    along: Bool[Array, "b"]
    arrived: Bool[Array, "b"]
    end: Array
    near: PerExample
    far: PerExample


def super_deepfool(threat: Threat, *, steps: int = 50, overshoot: Number = 0.02) -> Solver:
    """Alternate DeepFool with a projection onto the normal of the boundary, then halve the way that is left.

        x <- clip(x + (1 + overshoot) d) until the merit is positive, d the shortest way to the linearised boundary;
        x <- clip(origin + <x - origin, w> w), w the unit gradient there; again, unless the merit is still positive

    At the nearest point of a smooth boundary the way from the origin is along the normal, which DeepFool alone does not
    see to. On a linear function without a binding box the first point is already on the normal, 1 + overshoot times as
    far as the nearest one; halvings take the rest off.

    The objective may also have several values per example, as for `deepfool`.

    Args:
      threat: l2 norm and box. Its radius decides only what counts as found: a point further away is kept in the
        state but not returned. With eps = inf, every one counts.
      steps: points looked at, for DeepFool, projections and halvings together; a last forward pass looks at what the
        radius allows.
      overshoot: how far DeepFool goes beyond, relative to each way.
    Returns:
      A solver whose result is the nearest point of positive merit, where there is one within the radius, and
      the point of highest merit within the radius elsewhere.
    Raises:
      ValueError: if the norm is not l2, steps is less than 1 or overshoot is negative.

    Reference: Abdollahpoor et al. 2023, arXiv:2303.12481 (SDF with as many DeepFool steps as it takes and one
      projection). Ways are the shortest inside the box, which the paper does not know; halvings are made with the steps
      that are left, where the paper has ten.
    """
    checks.threat("super_deepfool", threat)
    if threat.norm != "l2":
        raise ValueError(f"super_deepfool: norm is {threat.norm!r}, must be 'l2'")
    checks.count("super_deepfool", "steps", steps)
    checks.setting("super_deepfool", "overshoot", overshoot, least=0)

    def begin(first: Array, origin: Array) -> Way:
        del origin
        no = constant(first, False, jnp.bool)
        return Way(no, no, first, constant(first, 0.0), constant(first, 1.0))

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, Way]:
        way, adversarial = state.memory, here.merit > 0
        # An image that is misclassified is its own nearest point: the segment has length 0.
        arriving = ~way.arrived & adversarial & (way.along | (state.step == 0))
        end = select(arriving, state.x, way.end)
        near = jnp.where(way.arrived & ~adversarial, 0.5 * (way.near + way.far), way.near)
        far = jnp.where(way.arrived & adversarial, 0.5 * (way.near + way.far), way.far)
        arrived, along = way.arrived | arriving, ~way.arrived & ~arriving & adversarial

        to = onto_hyperplane("l2", here.grad, here.value, state.x, threat.lower, threat.upper)
        normal, delta = unit(here.grad), state.x - state.origin
        length = (delta * normal).reshape(len(delta), -1).sum(axis=1)
        x = select(
            arrived,
            state.origin + per_example(0.5 * (near + far), end) * (end - state.origin),
            select(
                along, state.origin + per_example(length, normal) * normal, state.x + (1.0 + overshoot) * to
            ),
        )
        return jnp.clip(x, threat.lower, threat.upper), Way(along, arrived, end, near, far)

    rule, look = Rule(begin, follow), facing("l2")
    return hunt("super_deepfool", threat, rule, steps=steps, look=look, loss=leads)
