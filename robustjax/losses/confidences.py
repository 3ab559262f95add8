"""How sure a prediction is, from logits: what losses on OOD images minimise there and their attacks maximise.

Every one is a `Confidence`, larger for surer predictions and least where all classes are equally likely, but for
the last two. What training minimises and what the attack maximises are chosen apart, and need not be the same.

KL(U || p) is large also where one class is suppressed and no other is likely, so an adversary that maximises it
spends part of its budget there; one that maximises `log_confidence` does not.

Reference: Augustin, Meinke and Hein 2020, arXiv:2003.09461, the objectives its code offers. All are computed from
  log p, without the constants that guard the code's logarithms.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustjax import checks, logit
from robustjax.types import Logits, LogitsFn, Objective, PerExample

Confidence = Callable[[Logits], PerExample]

log_confidence = logit.log_confidence
ce_to_uniform = logit.ce_to_uniform


def over(confidence: Confidence, logits_fn: LogitsFn) -> Objective:
    """The objective of an attack on OOD images: a confident prediction."""
    return lambda x: confidence(logits_fn(x))


def kl_from_uniform(logits: Logits) -> PerExample:
    """Compute KL(U || p) = -log K - mean_k log p_k, in nats: `ce_to_uniform` less its minimum."""
    return logit.ce_to_uniform(logits) - math.log(logits.shape[-1])


def negative_entropy(logits: Logits) -> PerExample:
    """Compute sum_k p_k log p_k, in nats."""
    return -logit.entropy(logits)


def top(logits: Logits) -> PerExample:
    """Compute max_k p_k."""
    return jax.nn.softmax(logits).max(axis=-1)


def normalised(logits: Logits) -> PerExample:
    """Compute (max_k p_k - 1/K) / (1 - 1/K): 0 for the uniform distribution, 1 for certainty."""
    least = 1.0 / logits.shape[-1]
    return (top(logits) - least) / (1.0 - least)


def squared(logits: Logits) -> PerExample:
    """Compute (max_k p_k - 1/K)^2."""
    return jnp.square(top(logits) - 1.0 / logits.shape[-1])


def log_barrier(logits: Logits) -> PerExample:
    """Compute -log(1 + 1/K - max_k p_k): from 0 for the uniform distribution to log K for certainty."""
    return -jnp.log1p(1.0 / logits.shape[-1] - top(logits))


def bhattacharyya(logits: Logits) -> PerExample:
    """Compute -log sum_k sqrt(p_k / K), the Bhattacharyya distance to the uniform distribution."""
    half = 0.5 * (jax.nn.log_softmax(logits) - math.log(logits.shape[-1]))
    return -jax.nn.logsumexp(half, axis=-1)


def renyi(order: float) -> Confidence:
    """Compute the Renyi divergence from the uniform distribution, log(sum_k p_k^a K^(a-1)) / (a - 1), in nats.

    Args:
      order: a, above 0; 1 gives KL(p || U) and math.inf gives log(K max_k p_k), its limits.

    Raises:
      ValueError: if order is not positive.
    """
    checks.setting("renyi", "order", order, above=0)

    def confidence(logits: Logits) -> PerExample:
        log_k = math.log(logits.shape[-1])
        if order == 1:
            return log_k - logit.entropy(logits)
        if math.isinf(order):
            return log_k + logit.log_confidence(logits)
        return jax.nn.logsumexp(order * jax.nn.log_softmax(logits), axis=-1) / (order - 1.0) + log_k

    return confidence


def spread(logits: Logits) -> PerExample:
    """Compute max_k p_k - min_k p_k."""
    p = jax.nn.softmax(logits)
    return p.max(axis=-1) - p.min(axis=-1)


def logit_spread(logits: Logits) -> PerExample:
    """Compute max_k z_k - min_k z_k, which never saturates."""
    return logits.max(axis=-1) - logits.min(axis=-1)


def logit_excess(logits: Logits) -> PerExample:
    """Compute max_k z_k less the sum of the other logits.

    It changes with a constant added to all logits and has no minimum: for attacks rather than for training.
    """
    return 2.0 * logits.max(axis=-1) - logits.sum(axis=-1)


def acceptance(logits: Logits) -> PerExample:
    """Compute -log p of the last class, for networks whose last class means "none of these"."""
    return -jax.nn.log_softmax(logits)[..., -1]
