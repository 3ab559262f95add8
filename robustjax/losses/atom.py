"""NTOM and ATOM: one more class for what is none of these, taught on OOD images that still look ID."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robustjax import checks
from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.id_and_ood import check_weight, two_sided
from robustjax.types import Ascent, Logits, Model, Number, PerExample


def ntom(model: Model, *, weight: Number = 1.0) -> AdversarialLoss:
    """Minimise CE(f(x), y) + weight CE(f(z), K) for a network of K + 1 outputs.

    Args:
      model: the classifier, its last output meaning "none of these"; one forward pass serves both sides.
      weight: of the term on OOD images; batches hold twice as many OOD as ID images.

    Returns:
      A loss over a `Pair`; metrics `risk`, `excess` (nats) and `accuracy`.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Chen et al. 2021, arXiv:2006.15207, natural outlier mining.
    """
    check_weight("ntom", weight)
    return two_sided(model, weight=weight, penalty=confidences.acceptance)


def atom(
    model: Model,
    ood_ascent: Ascent,
    *,
    weight: Number = 1.0,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise CE(f(x), y) + weight CE(f(z'), K), where z' maximises the latter around an OOD image.

    Args:
      model, weight: as in `ntom`.
      ood_ascent: on OOD images. The paper moves half of them, linf eps 8/255, 5 steps of 2/255, the best iterate kept:
        `half_batch(pgd(...))`.
      batchnorm: what the ascent sees of the network.

    Returns:
      A loss over a `Pair`; metrics as of `ntom`, `excess` at the OOD images trained on.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Chen et al. 2021, arXiv:2006.15207, adversarial outlier mining.
    """
    check_weight("atom", weight)
    return two_sided(
        model, None, ood_ascent, weight=weight, penalty=confidences.acceptance, batchnorm=batchnorm
    )


def rejection(logits: Logits) -> PerExample:
    """Compute the log odds of the last class, which rank like its probability and never saturate."""
    return logits[..., -1] - jax.nn.logsumexp(logits[..., :-1], axis=-1)


def informative(rejected: Float[Array, "n"], *, count: int, quantile: float = 0.125) -> Int[Array, "count"]:
    """Select from a pool the OOD images that are rejected least, after leaving out a share of the very least.

    Once per epoch the paper scores a fresh pool with the current network and trains on what this selects:
    `pool[informative(scores, count=...)]`, with 2 N_data of 8 N_data.

    Args:
      rejected: one score per OOD image in the pool, larger for surer rejection, such as `rejection`.
      count: how many to select.
      quantile: share of the pool to leave out at the low end: images that may not be OOD, or cannot be learnt.

    Returns:
      Positions in the pool by rising score, ties in the order of the pool.

    Raises:
      ValueError: if quantile is outside [0, 1), or the pool holds too few above it.

    Reference: Chen et al. 2021, arXiv:2006.15207; 0.125 for all data sets.
    """
    checks.number("informative", "quantile", quantile, least=0, below=1)
    pool, skipped = rejected.shape[0], math.floor(quantile * rejected.shape[0])
    if not 0 < count <= pool - skipped:
        raise ValueError(
            f"informative: count is {count}, must be at least 1 and at most {pool - skipped}: "
            f"{skipped} of the {pool} in the pool are left out"
        )
    return jnp.argsort(rejected, stable=True)[skipped : skipped + count]
