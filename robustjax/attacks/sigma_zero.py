"""Sigma-zero: the fewest pixels, by Adam on a smooth count of them and a threshold below which changes are undone."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks, l0
from robustjax.attacks.adam import Moments, adam, rest
from robustjax.attacks.minimum_norm import Hunt, Linearisation, Rule, annealed, hunt
from robustjax.attacks.solver import Solver
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, divide, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Number, PerExample


class Memory(NamedTuple):
    """What the search carries along: Adam's moments, and the size below which a change is undone."""

    moments: Moments
    threshold: PerExample


def sigma_zero(
    threat: Threat,
    *,
    steps: int = 1000,
    step_size: Number = 1.0,
    sigma: Number = 1e-3,
    threshold: Number = 0.3,
    factor: Number = 0.01,
    start: Start = at_origin,
) -> Solver:
    """Descend max(-value, 0) + mean_i |d_i|^2 / (|d_i|^2 + sigma), then undo the changes that are small.

    d_i is the change of a pixel or feature. The gradient, scaled to largest entry 1, goes through Adam; the result is
    clipped to the box, and places that change by less than a threshold return to the origin. The threshold rises where
    the last point had positive merit and falls elsewhere, by `factor` times the step size.

    Args:
      threat: l0 norm and box. Its radius decides only what counts as found: a nearest point of more places is kept
        in the state but not returned. With eps = inf, every one counts.
      steps: gradients; a last forward pass looks at what the radius allows.
      step_size: of Adam, in widths of the box; it falls to a tenth along half a cosine.
      sigma: of the smooth count, in squared widths of the box: the smaller, the sharper.
      threshold: the first one, in widths of the box.
      factor: how fast it moves, relative to the step size.
      start: the first point, projected; x itself, or a random one for restarts.
    Returns:
      A solver whose result is the nearest point of positive merit, where there is one within the radius, and
      the point of highest merit within the radius elsewhere. What it climbs must be `signed`, as `logit.margin` is.
    Raises:
      ValueError: if the norm is not l0, the box is infinite, steps is less than 1, or another setting is out of range.

    Reference: Cina et al. 2024, arXiv:2402.01879, with the constants of the authors' code. The paper counts features;
      where pixels count, d_i is the change of all channels, its size their largest in the threshold and their l2 norm
      in the count. The last point is looked at too, and so is the nearest one, projected onto the radius.
    """
    checks.threat("sigma_zero", threat, l0=True)
    if threat.norm != "l0":
        raise ValueError(f"sigma_zero: norm is {threat.norm!r}, must be 'l0'")
    checks.finite_box("sigma_zero", threat.lower, threat.upper)
    checks.count("sigma_zero", "steps", steps)
    for name, value in (("step_size", step_size), ("sigma", sigma)):
        checks.setting("sigma_zero", name, value, above=0)
    for name, value in (("threshold", threshold), ("factor", factor)):
        checks.setting("sigma_zero", name, value, least=0)

    def begin(first: Array, origin: Array) -> Memory:
        del origin
        return Memory(rest(first), constant(first, threshold))

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, Memory]:
        side = threat.side
        moved = state.x - state.origin
        # What is misclassified has nothing more to lose: there the count alone is descended.
        lost = per_example(jnp.where(here.value < 0, 1.0, 0.0), moved)
        grad = _slope_of_count(moved / side, sigma, threat.channels) - lost * side * here.grad
        grad = divide(grad, per_example(norm(grad, "linf"), grad))
        way, moments = adam(state.memory.moments, grad, state.step)
        length = annealed(state.step, steps, step_size, 0.1 * step_size)
        x = jnp.clip(state.x - side * per_example(length, way) * way, threat.lower, threat.upper)
        change = factor * annealed(state.step + 1, steps, step_size, 0.1 * step_size)
        least = jnp.clip(state.memory.threshold + jnp.where(here.merit > 0, change, -change), 0.0, 1.0)
        size = jnp.abs(l0.units(x - state.origin, threat.channels)).max(axis=2)
        kept = l0.spread(size >= side * per_example(least, size), x)
        return jnp.where(kept, x, state.origin), Memory(moments, least)

    rule = Rule(begin, follow)
    return hunt("sigma_zero", threat, rule, steps=steps, start=start)


def _slope_of_count(moved: Array, sigma: Number, channels: int | None) -> Array:
    """Differentiate mean_i s_i / (s_i + sigma), with s_i the squared size of a place."""
    places = l0.units(moved, channels)
    square = jnp.square(places).sum(axis=2, keepdims=True)
    slope = 2.0 * places * sigma / jnp.square(square + sigma) / places.shape[1]
    return slope.reshape(moved.shape)
