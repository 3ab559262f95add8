"""Scores of an image after one small gradient step (input pre-processing): ODIN, and Mahalanobis with it."""

import jax
import jax.numpy as jnp

from robustjax import checks
from robustjax.ood.logit_scores import tempered_margin
from robustjax.ood.scores import Score, scored
from robustjax.types import Inputs, LogitsFn, Number, PerExample


def preprocessed(score: Score, magnitude: Number) -> Score:
    """Step once along the sign of a score's gradient, then score: ID images gain more by it than OOD ones.

    The step is treated as a constant by gradients (straight through): values are exact, and slopes are those of
    the score where the step leads. `score` itself is a surrogate without the step: give `score_attacks.raised` and
    `lowered` both, and they keep the point at which this score is worst.

    Args:
      score: with a slope where it is used; a saturated probability has none.
      magnitude: length of the step per feature, in the units of x; the result is not cut to the box.

    Reference: Liang et al. 2018, arXiv:1706.02690, and Lee et al. 2018, arXiv:1807.03888. A slope of exactly 0
      counts as negative, as the sign of the published loss does there.
    """

    def moved(x: Inputs) -> PerExample:
        slope = jax.grad(lambda z: score(z).sum())(jax.lax.stop_gradient(x))
        step = magnitude * jnp.where(slope > 0, 1.0, -1.0).astype(x.dtype)
        return score(x + jax.lax.stop_gradient(step))

    return moved


def odin(logits_fn: LogitsFn, *, temperature: Number = 1000.0, magnitude: Number = 0.0014) -> Score:
    """Score by the largest probability at a high temperature, after a step that raises it.

    Ranks like the published probability, in the units of logits: `logit_scores.tempered_margin` after `preprocessed`.

    Args:
      logits_fn: the network.
      temperature: T > 0.
      magnitude: length of the step per pixel. Published for DenseNet: 0.0014 (CIFAR-10), 0.0028 (most of
        CIFAR-100); ALOE uses 0.0014 for both and 0.0004 for GTSRB.
    Raises:
      ValueError: for a known temperature that is not positive.

    Reference: Liang et al. 2018, arXiv:1706.02690, with the step in pixels, where the networks normalise inside.
    """
    checks.number("odin", "temperature", temperature, above=0)
    checks.number("odin", "magnitude", magnitude)
    return preprocessed(scored(logits_fn, lambda z: tempered_margin(z, temperature=temperature)), magnitude)
