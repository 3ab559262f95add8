"""Sharpness-aware minimisation, plain and adaptive: wrappers around any loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.numerics import TINY
from robustjax.types import Loss, Number, Params, State


def sam(loss: Loss | AdversarialLoss, *, rho: Number = 0.05) -> Loss:
    """Take the risk, and its gradient, at weights moved against the training: w + rho g / |g|_2.

    g is the gradient at w and the norm is over all parameters together. An adversarial loss attacks once, at w; a
    loss that is no `AdversarialLoss` runs twice with the same key. BatchNorm statistics are updated by the first pass
    alone, at w. On many devices g is that of the global batch.

    Args:
      loss: what to wrap.
      rho: length of the step in the space of the weights.

    Returns:
      A loss over the same batches, with the metrics of the wrapped one, at w, and `sharpness`: by how much the risk
      is larger at the moved weights.

    Raises:
      ValueError: if a known rho is negative.

    Reference: Foret et al. 2021, arXiv:2010.01412, with p = 2 and one step; there each device moves by the gradient
      of its own part of the batch.
    """
    checks.number("sam", "rho", rho, least=0)

    def uphill(params: Params, slope: Params) -> Params:
        length = jnp.maximum(_norm(slope), TINY)
        return jax.tree.map(lambda g: (rho / length) * g, slope)

    return _moved(loss, uphill)


def asam(loss: Loss | AdversarialLoss, *, rho: Number = 1.0, eta: Number = 0.0) -> Loss:
    """Move each weight in proportion to its size: w + rho (|w| + eta)^2 g / |(|w| + eta) g|_2.

    Scaling weights in ways that leave the network's function alone then leaves the method alone too, with eta 0. All
    else is as in `sam`.

    Args:
      loss: what to wrap.
      rho: length of the step, relative to the weights.
      eta: lets weights that are 0 move; the paper uses 0.01.

    Raises:
      ValueError: if a known rho or eta is negative.

    Reference: Kwon et al. 2021, arXiv:2102.11600; biases are scaled like all parameters.
    """
    checks.number("asam", "rho", rho, least=0)
    checks.number("asam", "eta", eta, least=0)

    def uphill(params: Params, slope: Params) -> Params:
        size = jax.tree.map(lambda w: jnp.abs(w) + eta, params)
        scaled = jax.tree.map(jnp.multiply, size, slope)
        length = jnp.maximum(_norm(scaled), TINY)
        return jax.tree.map(lambda s, v: (rho / length) * s * v, size, scaled)

    return _moved(loss, uphill)


def _moved(loss: Loss | AdversarialLoss, uphill: Callable[[Params, Params], Params]) -> Loss:
    def perturbed(params: Params, state: State, batch, key: PRNGKeyArray):
        here = jax.lax.stop_gradient(params)
        risk = _of_weights(loss, here, state, batch, key)
        (low, (after, metrics)), slope = jax.value_and_grad(risk, has_aux=True)(here)
        step = jax.lax.stop_gradient(uphill(here, slope))
        value, _ = risk(jax.tree.map(jnp.add, params, step))
        return value, (after, {**metrics, "sharpness": value - low})

    return perturbed


def _of_weights(
    loss: Loss | AdversarialLoss, here: Params, state: State, batch, key: PRNGKeyArray
) -> Callable:
    """Fix everything but the weights: an adversarial loss at the images attacked here."""
    if not isinstance(loss, AdversarialLoss):
        return lambda params: loss(params, state, batch, key)
    split: AdversarialLoss = loss
    inner, outer = jax.random.split(key)
    attacked = jax.lax.stop_gradient(split.attack(here, state, batch, inner))
    return lambda params: split.risk(params, state, batch, attacked, outer)


def _norm(tree: Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))
