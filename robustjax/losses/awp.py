"""Adversarial weight perturbation, a wrapper around any loss with an inner attack."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.numerics import TINY
from robustjax.types import Loss, Number, Params, State


def awp(loss: AdversarialLoss, *, gamma: Number = 0.005) -> Loss:
    """Take the risk, and its gradient, at weights moved against the training: w + v, |v_l| = gamma |w_l|.

    The images are attacked once, at w. In each layer v is the gradient of the risk there, scaled to the
    relative length gamma; only arrays of two or more dimensions (kernels) move. BatchNorm statistics are
    updated by the second pass alone. On many devices v is that of the global batch, under jit with a sharded
    batch and under shard_map with replicated parameters alike.

    Args:
      loss: such as `adversarial(...)` or `trades(...)`.
      gamma: relative size of the weight perturbation; the paper uses 0.01 with adversarial training and 0.005
        with TRADES.

    Returns:
      A loss over the same batches, with the metrics of the wrapped one, at the moved weights.

    Raises:
      ValueError: if a known gamma is negative.

    Reference: Wu, Xia and Wang 2020, arXiv:2004.05884, equation 9 with one ascent step (K2 = 1). The step is the
      normalised gradient; the authors' proxy optimiser takes an SGD step and then rescales it to the same length.
    """
    checks.number("awp", "gamma", gamma, least=0)

    def perturbed(params: Params, state: State, batch, key: PRNGKeyArray):
        inner, outer = jax.random.split(key)
        attacked = jax.lax.stop_gradient(loss.attack(params, state, batch, inner))
        here = jax.lax.stop_gradient(params)
        slope = jax.grad(lambda p: loss.risk(p, state, batch, attacked, outer)[0])(here)
        moved = jax.tree.map(lambda w, v: w + jax.lax.stop_gradient(v), params, _scaled(here, slope, gamma))
        return loss.risk(moved, state, batch, attacked, outer)

    return perturbed


def _scaled(params: Params, slope: Params, gamma: Number) -> Params:
    def layer(w, g):
        if w.ndim < 2:
            return jnp.zeros_like(w)
        return gamma * jnp.linalg.norm(w) / jnp.maximum(jnp.linalg.norm(g), TINY) * g

    return jax.tree.map(layer, params, slope)
