"""Training of a diffusion: predict the noise that was mixed into images, at random times."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks
from robustjax.models.diffusion import Denoiser, Process
from robustjax.numerics import fold, keys_for
from robustjax.types import Batch, Loss, Model, Params, State


def denoising(denoiser: Denoiser, process: Process, *, latest: float = 1.0) -> Loss:
    """Minimise the mean squared error of predicted noise.

    Args:
      denoiser: what is trained.
      process: how images become noise.
      latest: times are uniform from 0.001 up to this; purification only ever sees times up to its own.
    Returns:
      A loss over a `Batch`; metric `noise`, the error itself, which is 1 for a network that predicts nothing.
    Raises:
      ValueError: if latest is not in (0.001, 1].

    Reference: Ho, Jain and Abbeel 2020, arXiv:2006.11239 (the simple loss), in continuous time.
    """
    checks.number("denoising", "latest", latest, above=0.001, most=1)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("denoising", batch, labelled=False)
        keys = keys_for(key, batch.image.shape[0])
        t = jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32, 0.001, latest))(fold(keys, 0))
        noise = jax.vmap(lambda k: jax.random.normal(k, batch.image.shape[1:]))(fold(keys, 1))
        noisy = process.noisy(2.0 * batch.image - 1.0, t, noise)
        error = jnp.square(denoiser.predict(params, noisy, t) - noise).mean()
        return error, (state, {"noise": error})

    return loss


def trainable(denoiser: Denoiser) -> Model:
    """Give a denoiser the form that `training.start` wants; its state is empty, and it is never applied."""

    def apply(params, state, x, *, train=False, key=None):
        del train, key
        return denoiser.predict(params, 2.0 * x - 1.0, jnp.zeros(x.shape[0])), state

    return Model(lambda key: (denoiser.init(key), {}), apply, lambda params, state, x: {})
