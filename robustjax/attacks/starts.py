"""First points of a search: x itself, normal noise, and random directions as published attacks draw them."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.solver import check_finite
from robustjax.numerics import Norm, divide, keys_for, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Number

Start = Callable[[Keys, Array], Array]  # (key, x) -> the first point, before projection


def at_origin(key: Keys, x: Array) -> Array:
    """Start at x itself."""
    del key
    return x


def gaussian_start(scale: Number) -> Start:
    """Start at x plus normal noise of the given standard deviation, in the units of x."""
    checks.number("gaussian_start", "scale", scale, least=0)

    def start(key: Keys, x: Array) -> Array:
        keys = keys_for(key, x.shape[0])
        return x + scale * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)

    return start


def rim(threat: Threat) -> Start:
    """Start where the ball ends: x + eps u / |u| with u uniform (linf) or normal (l2); x + u in l1.

    Raises:
      ValueError: if eps is infinite or the norm is l0.

    Reference: Croce and Hein 2020, arXiv:2003.01690, and 2021, arXiv:2103.01208. In linf one feature lies at
      distance eps; in l1 the projection decides how far the start is.
    """
    check_finite("rim", threat)
    kind = checks.norm("rim", threat.norm)

    def start(key: Keys, x: Array) -> Array:
        u = _direction(kind, key, x)
        return x + u if kind == "l1" else x + per_example(threat.eps, x) * _unit(kind, u)

    return start


def halfway(threat: Threat) -> Start:
    """Start at half the radius in a random direction, uniform (linf) or normal (l2, l1).

    Raises:
      ValueError: if eps is infinite or the norm is l0.

    Reference: Croce and Hein 2020, arXiv:1907.02044.
    """
    check_finite("halfway", threat)
    kind = checks.norm("halfway", threat.norm)

    def start(key: Keys, x: Array) -> Array:
        return x + 0.5 * per_example(threat.eps, x) * _unit(kind, _direction(kind, key, x))

    return start


def random_radius(threat: Threat) -> Start:
    """Start at a uniform share of the radius in a random direction, uniform (linf) or normal (l2, l1).

    In many dimensions that is much nearer to x than `Threat.sample`, uniform in the ball, which lies at its surface.

    Raises:
      ValueError: if eps is infinite or the norm is l0.

    Reference: the attacks in latents of Wong and Kolter 2020, arXiv:2007.08450.
    """
    check_finite("random_radius", threat)
    kind = checks.norm("random_radius", threat.norm)

    def start(key: Keys, x: Array) -> Array:
        directions, shares = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, x.shape[0]))
        share = jax.vmap(lambda k: jax.random.uniform(k, (), x.dtype))(shares)
        return x + per_example(threat.eps * share, x) * _unit(kind, _direction(kind, directions, x))

    return start


def _direction(kind: Norm, key: Keys, x: Array) -> Array:
    def draw(k):
        if kind == "linf":
            return jax.random.uniform(k, x.shape[1:], x.dtype, -1.0, 1.0)
        return jax.random.normal(k, x.shape[1:], x.dtype)

    return jax.vmap(draw)(keys_for(key, x.shape[0]))


def _unit(kind: Norm, u: Array) -> Array:
    return divide(u, per_example(norm(u, kind), u))
