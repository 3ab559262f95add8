"""What published attacks on detectors maximise in place of the score.

On the side they are not made for they are weaker than the score itself, so that detectors look better than they are;
beside it they help where its gradient misleads. `attacks.objectives.ce_to_uniform` also raises OOD images.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import logit
from robustjax.ood.logit_scores import entropy_log
from robustjax.ood.reject_scores import rejection_margin
from robustjax.types import LogitsFn, Objective


def toward_uniform(logits_fn: LogitsFn) -> Objective:
    """Make ID images unconfident: mean_k log p_k. Reference: ALOE, Chen et al. 2020, arXiv:2003.09711."""
    return lambda x: -logit.ce_to_uniform(logits_fn(x))


def certain(logits_fn: LogitsFn) -> Objective:
    """Make OOD images confident: minus the entropy, flat where they are. Reference: arXiv:2003.09711."""
    return lambda x: -logit.entropy(logits_fn(x))


def certain_log(logits_fn: LogitsFn) -> Objective:
    """Make OOD images confident: minus the logarithm of the entropy, which keeps its slope."""
    return lambda x: entropy_log(logits_fn(x))


def uncertain_log(logits_fn: LogitsFn) -> Objective:
    """Make ID images unconfident: the logarithm of the entropy."""
    return lambda x: -entropy_log(logits_fn(x))


def away_from_rejection(logits_fn: LogitsFn, *, classes: int) -> Objective:
    """Keep OOD images from being rejected: -log of the probability of the reject classes.

    Its slope is lost where rejection is certain; that of `reject_scores.rejection_margin` is not.

    Args:
      logits_fn: of a network whose reject classes follow after `classes` others.
      classes: of the ID data.

    Reference: ATOM, Chen et al. 2021, arXiv:2006.15207.
    """
    return lambda x: jax.nn.softplus(rejection_margin(logits_fn(x), classes=classes))


def toward_class(logits_fn: LogitsFn, target: int | Int[Array, ""]) -> Objective:
    """Raise one class, the same for all examples, by its log odds z_t - logsumexp of the others."""

    def objective(x: Array) -> Array:
        logits = logits_fn(x)
        own = jnp.arange(logits.shape[-1]) == target
        aimed = jnp.where(own, logits, 0.0).sum(axis=-1)
        return aimed - jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)

    return objective
