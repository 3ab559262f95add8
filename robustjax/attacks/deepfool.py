"""DeepFool: a near adversarial point, by one projection after the other onto the linearised boundary."""

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.fab import leads
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.minimum_norm import Hunt, Linearisation, Rule, facing, hunt
from robustjax.attacks.solver import Solver, select
from robustjax.threats import Threat
from robustjax.types import Number


def deepfool(threat: Threat, *, steps: int = 50, overshoot: Number = 0.02) -> Solver:
    """Go to the linearised boundary, a little beyond, and again until the merit is positive.

    With d the sum of the shortest ways, x = clip(origin + (1 + overshoot) d). Rows that have arrived rest. On a
    linear function one step arrives, at 1 + overshoot times the smallest distance; elsewhere the result is a
    quick estimate, near but not nearest.

    The objective (the `ValueAndMerit` of `advance`) may also have several values per example, (b, m): several
    boundaries, of which each step takes the nearest, at the price of m gradients. All must be zero on their boundary.
    `as_attack` takes `fab.leads`, one for each wrong class, as the paper does.

    Args:
      threat: norm and box. Its radius decides only what counts as found: a point further away is kept in the
        state but not returned. With eps = inf, every one counts.
      steps: the most gradients to take; a last forward pass looks at what the radius allows.
      overshoot: how far to go beyond, relative to the whole way.
    Returns:
      A solver whose result is the point it arrived at, where that is within the radius, and the point of
      highest merit within the radius elsewhere.
    Raises:
      ValueError: if steps is less than 1, overshoot is negative or the norm is l0.

    Reference: Moosavi-Dezfooli et al. 2016, arXiv:1511.04599. Ways are the shortest inside the box, where the
      paper knows no box; in l1 that moves as few features as possible.
    """
    checks.threat("deepfool", threat)
    kind = checks.norm("deepfool", threat.norm)
    checks.count("deepfool", "steps", steps)
    checks.setting("deepfool", "overshoot", overshoot, least=0)

    def begin(first: Array, origin: Array) -> Array:
        return first - origin

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, Array]:
        way = onto_hyperplane(kind, here.grad, here.value, state.x, threat.lower, threat.upper)
        ways = state.memory + way
        x = jnp.clip(state.origin + (1.0 + overshoot) * ways, threat.lower, threat.upper)
        arrived = jnp.isfinite(state.kept.distance)
        return select(arrived, (state.x, state.memory), (x, ways))

    rule, look = Rule(begin, follow), facing(kind)
    return hunt("deepfool", threat, rule, steps=steps, look=look, loss=leads)
