"""Free adversarial training: one backward pass updates both the network and the perturbation.

The perturbation joins the parameters, so that one gradient serves both, and an optimiser of its own ascends:

    free_model = free.parameters(model, shape=(128, 32, 32, 3))
    loss, tx = free.free(model), free.optimizer(sgd, Threat("linf", 8 / 255), step_size=8 / 255)
    state = training.start(key, free_model, tx)              # state.params is Free(network, delta)

Feed every batch m times in a row; the perturbation is carried over from one batch to the next.

Reference: Shafahi et al. 2019, arXiv:1904.12843, algorithm 1.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks, logit
from robustjax.numerics import per_example
from robustjax.threats import Threat
from robustjax.types import Batch, Loss, Model, Params, Radius, State


class Free(NamedTuple):
    """The network's parameters and the perturbation (b, ...), trained together."""

    network: Params
    delta: Array


def parameters(model: Model, *, shape: tuple[int, ...]) -> Model:
    """Add a zero perturbation of the batch's shape to what `init` returns; `apply` ignores it."""

    def init(key: PRNGKeyArray):
        params, state = model.init(key)
        return Free(params, jnp.zeros(shape, jnp.float32)), state

    def apply(params: Free, state: State, x, *, train: bool = False, key: PRNGKeyArray | None = None):
        return model.apply(params.network, state, x, train=train, key=key)

    def features(params: Free, state: State, x):
        return model.features(params.network, state, x)

    return Model(init, apply, features)


def free(model: Model) -> Loss:
    """Compute the cross-entropy at clip(x + delta, 0, 1), to be descended in the network and ascended in delta.

    Args:
      model: the classifier, without the perturbation.

    Returns:
      A loss over `Free` parameters and a `Batch` of the perturbation's size; metrics `risk` (nats) and
      `robust_accuracy`.
    """

    def loss(params: Free, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("free", batch)
        attacked = jnp.clip(batch.image + params.delta, 0.0, 1.0)
        logits, state = model.apply(params.network, state, attacked, train=True, key=key)
        risk = logit.cross_entropy(logits, batch.label).mean()
        return risk, (state, {"risk": risk, "robust_accuracy": logit.correct(logits, batch.label).mean()})

    return loss


def optimizer(
    tx: optax.GradientTransformation, threat: Threat, *, step_size: Radius
) -> optax.GradientTransformation:
    """Descend the network with `tx`, and move delta by one steepest step inside the ball.

    Args:
      tx: the network's optimiser.
      threat: the ball; its box is about images and does not bind delta, the loss clips instead.
      step_size: length of delta's step, in the units of x; eps in the paper.
    """
    checks.threat("free.optimizer", threat)
    checks.setting("free.optimizer", "step_size", step_size, least=0)
    ball = dataclasses.replace(threat, lower=-jnp.inf, upper=jnp.inf)

    def init(params: Any):
        return tx.init(params.network)

    def update(updates: Any, state: Any, params: Any = None):
        if params is None:
            raise ValueError("free.optimizer: params is None, must be given to update")
        network, state = tx.update(updates.network, state, params.network)
        moved = params.delta + per_example(step_size, params.delta) * ball.steepest(updates.delta)
        moved = ball.project(moved, jnp.zeros_like(moved))
        return Free(network, moved - params.delta), state

    return optax.GradientTransformation(init, update)
