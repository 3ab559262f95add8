"""The evidence lower bound of a conditional autoencoder: reconstruct perturbed images, stay near the prior."""

from collections.abc import Callable, Sequence
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks
from robustjax.models.cvae import CVAE, Gaussian, Likelihood, error
from robustjax.numerics import fold, keys_for
from robustjax.perturbations.pairs import ImagePair, Pairs
from robustjax.types import Batch, Loss, Number, Params, State


def kl(posterior: Gaussian, prior: Gaussian) -> Float[Array, "b k"]:
    """Measure KL(posterior || prior) of each latent, in nats."""
    gap = posterior.log_variance - prior.log_variance
    # exp(a) - 1 - a loses everything where the two nearly agree.
    spread = jnp.expm1(gap) - gap
    moved = jnp.square(posterior.mean - prior.mean) * jnp.exp(-prior.log_variance)
    return 0.5 * (spread + moved)


def elbo(model: CVAE, *, beta: Number = 1.0, likelihood: Likelihood = "gaussian") -> Loss:
    """Minimise E_q[error] + beta KL(q || p), by one latent per example drawn from the posterior q.

    With squares this is a Gaussian likelihood of variance beta / 2.

    Args:
      model: all three networks are trained.
      beta: weight of the divergence; a schedule by `training.scheduled` and `interpolated`.
      likelihood: see `error`.
    Returns:
      A loss over `ImagePair`; metrics `reconstruction` (sum over pixels) and `kl` (nats), means over the batch.
    Raises:
      ValueError: if the likelihood is unknown or a known beta negative.

    Reference: Sohn et al. 2015 (conditional autoencoders); Higgins et al. 2017 (beta); as in Wong and Kolter 2020,
      arXiv:2007.08450, but with the mean over the batch, where they take the sum.
    """
    if likelihood not in get_args(Likelihood):
        raise ValueError(
            f"elbo: likelihood is {likelihood!r}, must be one of {', '.join(get_args(Likelihood))}"
        )
    checks.number("elbo", "beta", beta, least=0)

    def loss(params: Params, state: State, batch: ImagePair, key: PRNGKeyArray):
        checks.image_pair("elbo", *batch)
        x, target = batch
        prior, state = model.prior(params, state, x, train=True)
        posterior, state = model.posterior(params, state, x, target, train=True)
        keys = keys_for(key, x.shape[0])
        noise = jax.vmap(lambda k: jax.random.normal(k, (model.dimension,), posterior.mean.dtype))(keys)
        raw, state = model.decode(params, state, x, posterior.sample(noise), train=True)
        reconstruction = error(raw, target, likelihood, model.link).mean()
        divergence = kl(posterior, prior).sum(axis=1).mean()
        return reconstruction + beta * divergence, (
            state,
            {"reconstruction": reconstruction, "kl": divergence},
        )

    return loss


def on_pairs(loss: Loss, pairs: Pairs) -> Loss:
    """Turn a loss over `ImagePair` into one over a `Batch`, with new perturbations at every step."""

    def drawn(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("on_pairs", batch, labelled=False)
        keys = keys_for(key, batch.image.shape[0])
        return loss(params, state, pairs(fold(keys, 0), batch.image), fold(keys, 1))

    return drawn


def interpolated(knots: Sequence[float], values: Sequence[float]) -> Callable[[Number], Array]:
    """Build a schedule that is linear between knots and constant outside: of beta, or of a learning rate.

    Args:
      knots: growing times, in any unit, such as epochs.
      values: at the knots.
    Raises:
      ValueError: if the two differ in length, or the knots do not grow.
    """
    if len(knots) != len(values) or not knots or list(knots) != sorted(set(knots)):
        raise ValueError(
            f"interpolated: knots are {tuple(knots)}, must grow, with one of {tuple(values)} each"
        )
    # On the host: settings are checked by this before a run may touch a device.
    at, worth = np.asarray(knots, np.float32), np.asarray(values, np.float32)
    return lambda t: jnp.interp(jnp.asarray(t, jnp.float32), at, worth)
