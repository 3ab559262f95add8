"""Projected gradient ascent in whole levels of an 8-bit image."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.gradient_ascent import evaluate
from robustjax.attacks.solver import better, entered, nothing_yet, own_merit
from robustjax.numerics import keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Ascent, Found, Keys, Objective


def uint8_pgd(
    threat: Threat,
    *,
    steps: int,
    step: int = 1,
    levels: int = 255,
    start: Literal["origin", "uniform"] = "origin",
    keep: Literal["best", "last"] = "best",
) -> Ascent:
    """Move every pixel by whole multiples of 1 / levels, so that an 8-bit image stays one.

    The moves are counted in whole numbers. Published code moves pixels and truncates x - origin to levels, where
    2.9999998 becomes 2: from radius 4 on, most pixels then never get further than 3 levels away.

    Args:
      threat: in linf; a radius between two levels is rounded down.
      steps: gradient evaluations.
      step: how many levels a pixel moves at once.
      levels: per unit of x.
      start: at x, or uniform among the levels in the ball; with truncation a ball of radius 1 has only x.
      keep: the best point met, or the last one as ALOE does.
    Returns:
      An ascent; it costs `steps` gradients and one more forward pass.
    Raises:
      ValueError: if the threat is not linf, steps is negative, or step, levels, start or keep is out of range.

    Reference: the attacks of ALOE, Chen et al. 2020, arXiv:2003.09711, and of ATOM, arXiv:2006.15207, without the
      truncation. The start is uniform, where ATOM's rounding gives the outermost levels half the weight.
    """
    checks.threat("uint8_pgd", threat)
    if threat.norm != "linf":
        raise ValueError(f"uint8_pgd: threat is {threat.norm}, must be linf")
    checks.count("uint8_pgd", "steps", steps, least=0)
    checks.count("uint8_pgd", "step", step)
    checks.count("uint8_pgd", "levels", levels)
    if start not in ("origin", "uniform") or keep not in ("best", "last"):
        raise ValueError(
            f"uint8_pgd: start is {start!r} and keep {keep!r}, must be 'origin' or 'uniform', 'best' or 'last'"
        )

    def ascend(key: Keys, objective: Objective, x: Array) -> Found:
        x = entered("uint8_pgd", threat, x)
        # A thousandth of a level allows for the rounding of 8 / 255 and of pixels, and no more.
        reach = jnp.floor(per_example(threat.eps, x) * levels + 1e-3)
        low = jnp.maximum(-reach, jnp.ceil((threat.lower - x) * levels - 1e-3))
        high = jnp.minimum(reach, jnp.floor((threat.upper - x) * levels + 1e-3))

        def point(moved: Array) -> Array:
            return jnp.clip(x + moved / levels, threat.lower, threat.upper)

        def gradient_ascent(_, carry: tuple[Array, Found]) -> tuple[Array, Found]:
            moved, best = carry
            value, _, grad = evaluate(own_merit(objective), point(moved))
            best = better(best, Found(point(moved), value))
            return jnp.clip(moved + step * jnp.sign(grad), low, high), best

        moved = jnp.zeros_like(x)
        if start == "uniform":
            share = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype))(keys_for(key, x.shape[0]))
            moved = jnp.clip(jnp.floor(share * (2 * reach + 1)) - reach, low, high)
        moved, best = jax.lax.fori_loop(0, steps, gradient_ascent, (moved, nothing_yet(x)))
        last = Found(point(moved), objective(point(moved)))
        return jax.lax.stop_gradient(better(best, last) if keep == "best" else last)

    return ascend
