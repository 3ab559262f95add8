"""Projected gradient ascent over a threat, and its one-step form."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax.numerics import constant, divide, keys_for, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Ascent, Found, Number, Objective, Radius

Start = Callable[[PRNGKeyArray, Array], Array]  # (key, x) -> the first point, before projection


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
      step_size: length of a step in the threat's norm, in the units of x; one number or one per example.
      momentum: m in [0, 1].
      start: the first point; by default uniform in the threat. `at_origin` and `gaussian` are others.
      keep: return the best point met, or the last one as training often does; "last" costs one forward pass
        less where its value is not used.

    Returns:
      An ascent (key, objective, x) -> Found: a feasible point, cut from the gradient, and its value. It costs
      `steps` gradients and one more forward pass. With "best" it is never worse than its start.

    Raises:
      ValueError: if steps or a known step_size is negative, or keep is unknown.

    Reference: Madry et al. 2018, arXiv:1706.06083; momentum as in Dong et al. 2018, arXiv:1710.06081. Gradients
      that are not finite count as zero, so that the result is always feasible.
    """
    if steps < 0:
        raise ValueError(f"pgd: steps is {steps}, must be at least 0")
    if isinstance(step_size, int | float) and not step_size >= 0:
        raise ValueError(f"pgd: step_size is {step_size}, must be at least 0")
    if keep not in ("best", "last"):
        raise ValueError(f"pgd: keep is {keep!r}, must be 'best' or 'last'")
    heavy = not (isinstance(momentum, int | float) and momentum == 0)

    def ascend(key: PRNGKeyArray, objective: Objective, x: Array) -> Found:
        slope = jax.value_and_grad(_summed(objective), has_aux=True)

        def climb(_, carry):
            z, velocity, best = carry
            (_, value), grad = slope(z)
            if best is not None:
                best = better(best, Found(z, value))
            grad = jnp.where(jnp.isfinite(grad), grad, 0.0)
            if velocity is not None:
                velocity = grad = momentum * velocity + divide(grad, per_example(norm(grad, "l1"), grad))
            z = z + per_example(step_size, z) * threat.steepest(grad, z)
            return threat.project(z, x), velocity, best

        first = threat.project((start or threat.sample)(key, x), x)
        velocity = jnp.zeros_like(x) if heavy else None
        # Not yet worth anything: the loop itself evaluates the first point.
        best = Found(first, constant(first, -jnp.inf)) if keep == "best" else None
        z, _, best = jax.lax.fori_loop(0, steps, climb, (first, velocity, best))
        last = Found(z, objective(z))
        return jax.lax.stop_gradient(last if best is None else better(best, last))

    return ascend


def fgsm(threat: Threat, *, step_size: Radius | None = None) -> Ascent:
    """Take one steepest step from x itself, by default to the edge of the ball.

    Args:
      threat: where the result must lie.
      step_size: length of the step, in the units of x; `threat.eps` by default.

    Reference: Goodfellow et al. 2015, arXiv:1412.6572; other norms by their steepest direction.
    """
    length = threat.eps if step_size is None else step_size
    return pgd(threat, steps=1, step_size=length, start=at_origin, keep="last")


def at_origin(key: PRNGKeyArray, x: Array) -> Array:
    """Start at x itself."""
    del key
    return x


def gaussian(scale: Number) -> Start:
    """Start at x plus normal noise of the given standard deviation, in the units of x."""

    def start(key: PRNGKeyArray, x: Array) -> Array:
        keys = keys_for(key, x.shape[0])
        return x + scale * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)

    return start


def better(old: Found, new: Found) -> Found:
    """Keep, per example, the point of larger value; a value that is NaN never wins."""
    wins = (new.value > old.value) | jnp.isnan(old.value)
    return Found(jnp.where(per_example(wins, new.x), new.x, old.x), jnp.where(wins, new.value, old.value))


def _summed(objective: Objective):
    # One gradient of the sum is the gradient of every example, and one plain backward pass.
    def total(z):
        value = objective(z)
        return value.sum(), value

    return total
