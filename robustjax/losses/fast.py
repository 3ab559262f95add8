"""Fast adversarial training: one gradient step from a random start."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks
from robustjax.attacks.pgd import pgd
from robustjax.numerics import keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Ascent, Found, Number, Objective, Radius


def fgsm_rs(threat: Threat, *, step_size: Radius | None = None) -> Ascent:
    """Take one step of 1.25 eps from a uniform start and project; use it in `adversarial`.

    Args:
      threat: where the result must lie.
      step_size: length of the step, in the units of x; 1.25 eps by default.

    Reference: Wong, Rice and Kolter 2020, arXiv:2001.03994. They attack the network in train mode; here attacks
      see running BatchNorm statistics, as everywhere.
    """
    checks.threat("fgsm_rs", threat)
    length = 1.25 * threat.eps if step_size is None else step_size
    return pgd(threat, steps=1, step_size=length, keep="last")


def n_fgsm(threat: Threat, *, noise: Number = 2.0, step_size: Radius | None = None) -> Ascent:
    """Take one step of eps from noise of `noise` eps around x, without projecting back onto the ball.

    The result may lie up to (noise + 1) eps away: it is made for training, and is no attack to report.

    Args:
      threat: its norm gives the step, its box is kept, its ball is not.
      noise: half-width of the uniform noise, in multiples of eps.
      step_size: length of the step, in the units of x; eps by default.

    Reference: de Jorge et al. 2022, arXiv:2202.01181, linf in the paper; the noise is uniform in every norm.
    """
    checks.threat("n_fgsm", threat)
    checks.number("n_fgsm", "noise", noise, least=0)
    length = threat.eps if step_size is None else step_size
    checks.setting("n_fgsm", "step_size", length, least=0)

    def ascend(key: PRNGKeyArray, objective: Objective, x: Array) -> Found:
        keys = keys_for(key, x.shape[0])
        unit = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
        noisy = jnp.clip(x + noise * per_example(threat.eps, x) * unit, threat.lower, threat.upper)
        grad = jax.grad(lambda z: objective(z).sum())(noisy)
        moved = noisy + per_example(length, x) * threat.steepest(
            jnp.where(jnp.isfinite(grad), grad, 0.0), noisy
        )
        moved = jax.lax.stop_gradient(jnp.clip(moved, threat.lower, threat.upper))
        return Found(moved, objective(moved))

    return ascend
