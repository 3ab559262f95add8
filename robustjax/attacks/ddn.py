"""DDN: the nearest adversarial point in l2, by steps on spheres whose radius follows the outcome."""

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks, logit
from robustjax.attacks.minimum_norm import Hunt, Linearisation, Rule, annealed, hunt, unit
from robustjax.attacks.solver import Solver
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, norm, per_example
from robustjax.threats import Threat
from robustjax.types import PerExample, Radius

LONGEST, SHORTEST = 1.0, 0.01  # steps of the paper, in units of x


def ddn(
    threat: Threat,
    *,
    steps: int = 100,
    init_eps: Radius = 1.0,
    gamma: float = 0.05,
    start: Start = at_origin,
) -> Solver:
    """Decouple direction and norm: step along the gradient, then move to a sphere around the origin.

    The sphere is by `gamma` smaller than the last one after a point of positive merit, larger after any other:

        d <- d + a g / |g|,   r <- (1 -+ gamma) r,   x <- clip(origin + r d / |d|)

    Args:
      threat: l2 norm and box. Its radius decides only what counts as found: a nearest point further away is kept
        in the state but not returned. With eps = inf, every one counts.
      steps: gradients; a last forward pass looks at what the radius allows.
      init_eps: the first radius, in the units of x; a number, or one per example.
      gamma: how much a radius changes, relative to itself; in (0, 1).
      start: the first point, projected; x itself, or a random one for restarts.
    Returns:
      A solver whose result is the nearest point of positive merit, where there is one within the radius, and
      the point of highest merit within the radius elsewhere.
    Raises:
      ValueError: if the norm is not l2, steps is less than 1, or init_eps or gamma is out of range.

    Reference: Rony et al. 2018, arXiv:1811.09600, with its steps from 1 to 0.01 along half a cosine. Points are
      not rounded to bytes, a gradient of zero leaves the direction as it is, and no sphere is larger than the
      box.
    """
    checks.threat("ddn", threat)
    if threat.norm != "l2":
        raise ValueError(f"ddn: norm is {threat.norm!r}, must be 'l2'")
    checks.count("ddn", "steps", steps)
    checks.setting("ddn", "init_eps", init_eps, above=0)
    checks.setting("ddn", "gamma", gamma, above=0, below=1)

    def begin(first: Array, origin: Array) -> PerExample:
        del origin
        return constant(first, init_eps)

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, PerExample]:
        corner = jnp.maximum(state.origin - threat.lower, threat.upper - state.origin)
        radius = state.memory * jnp.where(here.merit > 0, 1.0 - gamma, 1.0 + gamma)
        # The norm of an infinite box is not a number.
        radius = jnp.minimum(radius, norm(jnp.minimum(corner, 1e18), "l2"))
        length = per_example(annealed(state.step, steps, LONGEST, SHORTEST), state.x)
        ahead = state.x - state.origin + length * unit(here.grad)
        x = state.origin + per_example(radius, ahead) * unit(ahead)
        return jnp.clip(x, threat.lower, threat.upper), radius

    rule = Rule(begin, follow)
    return hunt("ddn", threat, rule, steps=steps, start=start, loss=logit.cross_entropy, needs="signed merit")
