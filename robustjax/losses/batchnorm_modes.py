"""What an attack inside a loss sees of the network: which statistics BatchNorm uses.

A `BatchNormMode` is (model, params, state, other, key) -> LogitsFn, where `other` are the clean images that share the
forward pass of the loss: OOD images for an attack on ID images, ID images for one on OOD images. The running
statistics are never updated by an attack, and no gradient flows to the parameters.

Reference: the choices in the training code of Chen et al. 2020, arXiv:2003.09711 (`own_batch`; that code also
  lets attacks update the running statistics) and 2021, arXiv:2006.15207 (`running`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import numerics
from robustjax.types import Images, Logits, LogitsFn, Model, Params, State, frozen

BatchNormMode = Callable[[Model, Params, State, Images, PRNGKeyArray], LogitsFn]


def running(model: Model, params: Params, state: State, other: Images, key: PRNGKeyArray) -> LogitsFn:
    """Attack the network in evaluation mode, with its running statistics: every image on its own."""
    del other, key
    return frozen(model, params, state)


def own_batch(model: Model, params: Params, state: State, other: Images, key: PRNGKeyArray) -> LogitsFn:
    """Attack the network in train mode, with the statistics of the attacked batch alone."""
    del other
    params, state = jax.lax.stop_gradient((params, state))

    def logits_fn(x: Images) -> Logits:
        return model.apply(params, state, x, train=True, key=key)[0].astype(jnp.float32)

    return logits_fn


def joint_batch(model: Model, params: Params, state: State, other: Images, key: PRNGKeyArray) -> LogitsFn:
    """Attack the network in train mode, with the statistics of the attacked batch and the other one together.

    Those are the statistics of the loss's own forward pass, but for the other batch's being clean. A gradient
    costs a pass over both batches.
    """
    alone = own_batch(model, params, state, other, key)

    def logits_fn(x: Images) -> Logits:
        return numerics.unpack(alone(numerics.pack(x, other)), (x.shape[0], other.shape[0]))[0]

    return logits_fn
