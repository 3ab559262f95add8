"""FMN: the nearest adversarial point in linf, l2, l1 and l0, by projected steps whose radius follows the outcome."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.minimum_norm import DUAL, Hunt, Linearisation, Rule, annealed, hunt, unit
from robustjax.attacks.solver import Solver
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import TINY, Norm, constant, norm, per_example
from robustjax.threats import Threat
from robustjax.types import PerExample, Radius

LAST_GAMMA, LAST_STEP = 1e-4, 1e-5


def fmn(
    threat: Threat,
    *,
    steps: int = 100,
    step_size: Radius = 1.0,
    gamma: float = 0.05,
    start: Start = at_origin,
) -> Solver:
    """Step along the gradient and project onto a ball, which shrinks or grows with the outcome at its points.

        x <- project(x + a g / |g|_2)

    Before a point of positive merit is met, the radius is |d| + |value| / |gradient|_dual, where the linearised
    boundary begins, and a share gamma more. After that it changes by gamma: down after such a point, at most to
    the distance of the nearest, and up after any other. In l0, where the linearised boundary tells no radius, it
    begins at 1 and changes by at least 1.

    Args:
      threat: norm and box. Its radius decides only what counts as found: a nearest point further away is kept in
        the state but not returned. With eps = inf, every one counts.
      steps: gradients; a last forward pass looks at what the radius allows.
      step_size: a, length of the first step in l2, in the units of x, one number or one per example; it falls
        to 1e-5 along half a cosine, in l0 to a / 100.
      gamma: first relative change of the radius, in (0, 1); it falls to 1e-4.
      start: the first point, projected; x itself, or a random one for restarts.
    Returns:
      A solver whose result is the nearest point of positive merit, where there is one within the radius, and
      the point of highest merit within the radius elsewhere. What it maximises must be `signed`, as `logit.margin` is.
    Raises:
      ValueError: if steps is less than 1, or step_size or gamma is out of range.

    Reference: Pintor et al. 2021, arXiv:2102.12827 (algorithm 1), without the search along the line from an
      adversarial start. Projections are onto ball and box at once, not one after the other, and the guess of the
      radius, which the paper takes as it is, goes beyond the boundary. The paper counts features in l0, here
      `Threat` says what counts.
    """
    checks.threat("fmn", threat, l0=True)
    checks.count("fmn", "steps", steps)
    checks.setting("fmn", "step_size", step_size, above=0)
    checks.setting("fmn", "gamma", gamma, above=0, below=1)

    kind = None if threat.norm == "l0" else checks.norm("fmn", threat.norm)
    last = LAST_STEP if kind else 0.01 * jnp.asarray(step_size)

    def begin(first: Array, origin: Array) -> PerExample:
        del origin
        return constant(first, jnp.inf if kind else 1.0)

    def counted(state: Hunt, here: Linearisation, change: PerExample) -> PerExample:
        fewer = jnp.minimum(state.memory - 1.0, jnp.floor(state.memory * (1.0 - change)))
        more = jnp.maximum(state.memory + 1.0, jnp.floor(state.memory * (1.0 + change)))
        radius = jnp.where(here.merit > 0, jnp.minimum(fewer, state.kept.distance), more)
        return jnp.clip(radius, 0.0, float(state.x[0].size))

    def measured(kind: Norm, state: Hunt, here: Linearisation, change: PerExample) -> PerExample:
        steep, nearest = norm(here.grad, DUAL[kind]), state.kept.distance
        rest = jnp.where(steep > TINY, jnp.abs(here.value) / jnp.maximum(steep, TINY), jnp.inf)
        guess = norm(state.x - state.origin, kind) + rest
        # Without going beyond it, the guess comes ever nearer to a boundary and may never cross it.
        larger = jnp.where(jnp.isfinite(nearest), state.memory, guess) * (1.0 + change)
        smaller = jnp.minimum(state.memory * (1.0 - change), nearest)
        return jnp.where(here.merit > 0, smaller, larger)

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, PerExample]:
        change = annealed(state.step, steps, gamma, LAST_GAMMA)
        radius = measured(kind, state, here, change) if kind else counted(state, here, change)
        length = per_example(annealed(state.step, steps, jnp.asarray(step_size), last), state.x)
        # One after the other, ball and box leave points short of the radius, and the guess behind the boundary.
        ball = dataclasses.replace(threat, eps=radius, exact=True)
        return ball.project(state.x + length * unit(here.grad), state.origin), radius

    return hunt("fmn", threat, Rule(begin, follow), steps=steps, start=start)
