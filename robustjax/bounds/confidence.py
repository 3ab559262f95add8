"""How sure a prediction can be at most, and is at least, over a threat: certificates for OOD detectors.

Around OOD images an attack finds how sure the network can be made, from below; these bounds say it from above, so that
every worst case stands between the two: attacked <= true <= certified.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robustjax import checks
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.enclosure import differences
from robustjax.ood.metrics import auroc_pessimistic
from robustjax.ood.scores import Score
from robustjax.threats import Threat
from robustjax.types import Labels, LogitsFn, PerExample

Differences = Float[Array, "b k k"]  # [k, j] is at least z_k - z_j


def log_confidence(between: Differences) -> Interval:
    """Bound max_k log p_k over a threat, from bounds on the differences of logits.

    log p_k = -log sum_j exp(z_j - z_k), where each z_j - z_k is between -between[k, j] and between[j, k].
    """
    high = -jax.nn.logsumexp(-between, axis=-1)
    low = -jax.nn.logsumexp(between, axis=-2)
    return Interval(low.max(axis=-1), high.max(axis=-1))


def lead(between: Differences) -> Interval:
    """Bound the largest logit less the second, 0 at ties: max_k min_{j != k} (z_k - z_j)."""
    own = jnp.eye(between.shape[-1], dtype=bool)
    high = jnp.where(own, jnp.inf, between).min(axis=-1).max(axis=-1)
    low = jnp.where(own, jnp.inf, -jnp.swapaxes(between, -1, -2)).min(axis=-1).max(axis=-1)
    return Interval(jnp.maximum(low, 0.0), jnp.maximum(high, 0.0))


def margin(between: Differences, label: Labels) -> PerExample:
    """Bound max_{j != y} z_j - z_y from above: where it is negative no point of the threat is misclassified."""
    checks.answers("margin", between[..., 0], label)
    toward = jnp.take_along_axis(between, label[:, None, None], axis=-1)[..., 0]
    return jnp.where(jax.nn.one_hot(label, between.shape[-1], dtype=bool), -jnp.inf, toward).max(axis=-1)


def widest(between: Differences) -> PerExample:
    """Bound the largest difference of any two logits; the log confidence is at most this less log K."""
    return between.max(axis=(-1, -2))


def highest_msp(logits_fn: LogitsFn, threat: Threat) -> Score:
    """Certify how large the log of the maximal softmax probability can become around an OOD image."""
    return lambda x: log_confidence(differences(logits_fn, threat, x)).high


def lowest_msp(logits_fn: LogitsFn, threat: Threat) -> Score:
    """Certify how small the log of the maximal softmax probability can become around an image: for data."""
    return lambda x: log_confidence(differences(logits_fn, threat, x)).low


def guaranteed_auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Compute the AUROC that no attack on the images can undercut (GAUC); every tie counts against the detector.

    Args:
      inside: scores of ID images (n,): clean, where only OOD images are attacked, or `lowest_msp`.
      outside: upper bounds on the scores of OOD images (m,), of the same form: `highest_msp` beside log confidences.

    Reference: Bitterwolf, Meinke and Hein 2020, arXiv:2007.03797.
    """
    return auroc_pessimistic(inside, outside)
