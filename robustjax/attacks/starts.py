"""First points in random directions, as the published APGD and FAB draw them."""

import jax
from jaxtyping import Array, PRNGKeyArray

from robustjax.attacks.pgd import Start
from robustjax.attacks.solver import check_finite
from robustjax.numerics import divide, keys_for, norm, per_example
from robustjax.threats import Threat


def rim(threat: Threat) -> Start:
    """Start where the ball ends: x + eps u / |u| with u uniform (linf) or normal (l2); x + u in l1.

    Raises:
      ValueError: if eps is infinite.

    Reference: Croce and Hein 2020, arXiv:2003.01690, and 2021, arXiv:2103.01208. In linf one feature lies at
      distance eps; in l1 the projection decides how far the start is.
    """
    check_finite("rim", threat)

    def start(key: PRNGKeyArray, x: Array) -> Array:
        u = _direction(threat, key, x)
        return x + u if threat.norm == "l1" else x + per_example(threat.eps, x) * _unit(threat, u)

    return start


def halfway(threat: Threat) -> Start:
    """Start at half the radius in a random direction, uniform (linf) or normal (l2, l1).

    Raises:
      ValueError: if eps is infinite.

    Reference: Croce and Hein 2020, arXiv:1907.02044.
    """
    check_finite("halfway", threat)

    def start(key: PRNGKeyArray, x: Array) -> Array:
        return x + 0.5 * per_example(threat.eps, x) * _unit(threat, _direction(threat, key, x))

    return start


def _direction(threat: Threat, key: PRNGKeyArray, x: Array) -> Array:
    def draw(k):
        if threat.norm == "linf":
            return jax.random.uniform(k, x.shape[1:], x.dtype, -1.0, 1.0)
        return jax.random.normal(k, x.shape[1:], x.dtype)

    return jax.vmap(draw)(keys_for(key, x.shape[0]))


def _unit(threat: Threat, u: Array) -> Array:
    return divide(u, per_example(norm(u, threat.norm), u))
