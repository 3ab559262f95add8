"""Group DRO: minimise the risk of the worst group, by weights on groups that follow their losses.

The weights are part of the network's state, so that a step stays a pure function and a run resumes exactly. Their
logarithms are kept: a weight itself would underflow to 0 after a long time of low losses, and never come back.

    groups_model = group_dro.weighted(model, groups=4)
    loss = group_dro.group_dro(groups_model)               # or adversarial_group_dro(groups_model, attack)
    state = training.start(key, groups_model, tx)          # state.state is Weighted(network, log_weights)

Feed batches with `image`, `label` and `group`, best with every group equally often.

Reference: Sagawa et al. 2020, arXiv:1911.08731, algorithm 1. A group that a batch lacks keeps its weight before
  all are normalised; the authors' code lets it grow by its adjustment.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks, logit
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.numerics import divide
from robustjax.types import Attack, Images, Labels, Loss, Model, Number, Params, State, frozen


class GroupBatch(NamedTuple):
    """Images with their labels and groups, numbered from 0; a negative group counts nowhere."""

    image: Images
    label: Labels
    group: Labels


class Weighted(NamedTuple):
    """The state of the network, and the logarithms of how much each group counts."""

    network: State
    log_weights: Float[Array, "g"]

    @property
    def weights(self) -> Float[Array, "g"]:
        """How much each group counts, adding up to 1."""
        return jax.nn.softmax(self.log_weights)


def weighted(model: Model, *, groups: int) -> Model:
    """Add even weights of groups to the state that `init` returns; `apply` hands them on.

    Raises:
      ValueError: if groups is below 1.
    """
    checks.count("group_dro.weighted", "groups", groups)

    def init(key: PRNGKeyArray):
        params, state = model.init(key)
        return params, Weighted(state, jnp.full(groups, -math.log(groups)))

    def apply(params: Params, state: Weighted, x, *, train: bool = False, key: PRNGKeyArray | None = None):
        out, network = model.apply(params, state.network, x, train=train, key=key)
        return out, state._replace(network=network)

    def features(params: Params, state: Weighted, x):
        return model.features(params, state.network, x)

    return Model(init, apply, features)


def group_dro(
    model: Model, *, step_size: Number = 0.01, adjustment: Number = 0.0, sizes: Sequence[int] = ()
) -> Loss:
    """Minimise sum_g q_g L_g with q_g <- q_g exp(step_size (L_g + adjustment / sqrt(n_g))), normalised.

    Args:
      model: made by `weighted`.
      step_size: of the weights, per update.
      adjustment: C; small groups generalise worse than their loss shows.
      sizes: n_g, members of each group in the training set; needed with an adjustment.

    Returns:
      A loss over a `GroupBatch`; metrics `risk` (nats, weighted), `accuracy` and `worst` (the loss of the worst
      group in the batch, nats).

    Raises:
      ValueError: if a known step size is negative, or an adjustment has no sizes.
    """
    risk = _risk("group_dro", model, step_size, adjustment, sizes)

    def loss(params: Params, state: Weighted, batch: Any, key: PRNGKeyArray):
        checks.batch("group_dro", batch)
        return risk(params, state, batch, batch.image, key)

    return loss


def adversarial_group_dro(
    model: Model,
    attack: Attack,
    *,
    step_size: Number = 0.01,
    adjustment: Number = 0.0,
    sizes: Sequence[int] = (),
) -> AdversarialLoss:
    """Take the same risk at attacked images: the worst group under the worst perturbation.

    Args:
      model: made by `weighted`; the attack sees it frozen, in evaluation mode.
      attack: as in `adversarial`.
      step_size, adjustment, sizes: as in `group_dro`.

    Returns:
      A loss over a `GroupBatch`; metrics as in `group_dro`, with `robust_accuracy` for `accuracy`.

    Raises:
      ValueError: as `group_dro`.
    """
    risk = _risk("adversarial_group_dro", model, step_size, adjustment, sizes)

    def find(params, state, batch: Any, key):
        checks.batch("adversarial_group_dro", batch)
        return attack(key, frozen(model, params, state), batch.image, batch.label).x

    def robust(params, state, batch: Any, attacked, key):
        value, (state, metrics) = risk(params, state, batch, attacked, key)
        metrics["robust_accuracy"] = metrics.pop("accuracy")
        return value, (state, metrics)

    return AdversarialLoss(find, robust)


def _risk(name: str, model: Model, step_size: Number, adjustment: Number, sizes: Sequence[int]):
    checks.number(name, "step_size", step_size, least=0)
    checks.number(name, "adjustment", adjustment)
    none = checks.is_zero(adjustment)
    if not none and (not len(sizes) or not min(sizes) >= 1):
        raise ValueError(
            f"{name}: sizes is {list(sizes)}, must count at least 1 in each group to adjust for it"
        )
    margin = 0.0 if none else adjustment / jnp.sqrt(jnp.asarray(np.asarray(sizes), jnp.float32))

    def risk(params: Params, state: Weighted, batch: Any, image: Images, key: PRNGKeyArray):
        checks.group_numbers(name, batch.group, count=len(image), most=state.log_weights.shape[0])
        logits, state = model.apply(params, state, image, train=True, key=key)
        own = logit.cross_entropy(logits, batch.label)
        member = jax.nn.one_hot(batch.group, state.log_weights.shape[0], dtype=own.dtype)  # none for -1
        count = member.sum(axis=0)
        loss = divide(own @ member, count)
        grown = jnp.where(count > 0, step_size * (jax.lax.stop_gradient(loss) + margin), 0.0)
        log_weights = jax.nn.log_softmax(state.log_weights + grown)
        value = (jnp.exp(log_weights) * loss).sum()
        metrics = {
            "risk": value,
            "worst": jnp.where(count > 0, loss, -jnp.inf).max(),
            "accuracy": logit.correct(logits, batch.label).mean(),
        }
        return value, (state._replace(log_weights=log_weights), metrics)

    return risk
