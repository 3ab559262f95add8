"""Gates: what to do with an input whose score is low. One decision per input, by a threshold from held-out images.

Thresholds are `metrics.threshold_keeping(calibration, 1 - rate)`, with rate 0 for the lowest score of all, or
`conformal.threshold(calibration, miss=rate)` with its guarantee: of n scores the floor(rate (n + 1))-th smallest,
which for a score that is minus a distance s is the ceil((n + 1) (1 - rate))-th smallest s.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import ArrayLike

from robustjax.ood.metrics import threshold_keeping, vector
from robustjax.ood.scores import FeaturesFn, Form, Score
from robustjax.types import Inputs, Mask, Number, PerExample

Decide = Callable[[Inputs], Mask]  # True where an input is routed to the translator, or rejected


class Gate(NamedTuple):
    """A score and the threshold below which inputs are routed.

    With a `jax.tree_util.Partial` as score it is an argument for compiled functions.

    Attributes:
      score: larger on ID images.
      threshold: the least score that passes.
      scale: the unit of `gap`, in the units of the score.
    """

    score: Score
    threshold: Number
    scale: Number = 1.0

    def gap(self, x: Inputs) -> PerExample:
        """Compute how far below the threshold each input scores: positive where it is routed."""
        return (self.threshold - self.score(x)) / self.scale

    def __call__(self, x: Inputs) -> Mask:
        """Say which inputs are routed; a score that is NaN is."""
        return ~(self.score(x) >= self.threshold)


def gated(score: Score, threshold: float, *, calibration: ArrayLike | None = None) -> Gate:
    """Make a gate whose gap is measured in standard deviations of calibration scores.

    Args:
      score: larger on ID images.
      threshold: from held-out training images, never from test images.
      calibration: scores (n,) that set the unit; by default the unit is |threshold|, for distances, or 1 where the
        threshold is 0 or infinite.
    """
    if calibration is not None:
        scale = float(np.std(vector("gated", calibration, -np.inf)))
    else:
        scale = abs(threshold) if np.isfinite(threshold) else 1.0
    return Gate(score, jnp.float32(threshold), jnp.float32(scale if scale > 0 else 1.0))


def score_of(features_fn: FeaturesFn, form: Form) -> Score:
    """Score images by a form of their features, as an argument for compiled functions.

    Like `scores.scored`; both parts must be pytrees: a `jax.tree_util.Partial` and a form such as `ssd.Clusters`.
    """
    return jax.tree_util.Partial(_scored, features_fn, form)


def _scored(features_fn: FeaturesFn, form: Form, x: Inputs) -> PerExample:
    return form(features_fn(x))


def never(x: Inputs) -> PerExample:
    """Score everything as ID: the gate of a classifier without a defence."""
    return x.reshape(x.shape[0], -1)[:, 0] * 0.0


def always(x: Inputs) -> PerExample:
    """Score everything as OOD: the gate of a translator in front of every input."""
    return never(x) - 1.0


def together(gate: Gate) -> Decide:
    """Decide once for a whole batch, by its mean score: for comparison only.

    Batches of adversarial examples look perfectly separable that way, single queries mean nothing, and the
    decision on an input depends on its batch-mates. Never a default here.
    """

    def decide(x: Inputs) -> Mask:
        return jnp.broadcast_to(gate.score(x).mean() < gate.threshold, x.shape[:1])

    return decide


def window_threshold(key: PRNGKeyArray, scores: ArrayLike, *, window: int, share: float = 0.95) -> float:
    """Take the threshold that keeps a share of a random window of scores, as is done beside `together`.

    Raises:
      ValueError: if window is not in [1, n].
    """
    values = vector("window_threshold", scores, -np.inf)
    if not 1 <= window <= values.size:
        raise ValueError(f"window_threshold: window is {window}, must be in [1, {values.size}]")
    start = int(jax.random.randint(key, (), 0, values.size - window + 1))
    return threshold_keeping(values[start : start + window], share)


def with_reject(correct: ArrayLike, rejected: ArrayLike) -> dict[str, float]:
    """Evaluate a classifier that abstains where the gate would route.

    Args:
      correct: (n,) whether the class is right.
      rejected: (n,) whether the gate refused the input.
    Returns:
      accepted_accuracy, of what was accepted (NaN if nothing was); rejection_rate; right_and_accepted and
      wrong_and_accepted, shares of all. An adversary succeeds only with what is accepted and wrong.
    Raises:
      ValueError: if the two differ in length.
    """
    right, out = np.asarray(correct).astype(bool), np.asarray(rejected).astype(bool)
    if right.shape != out.shape or right.ndim != 1 or right.size == 0:
        raise ValueError(
            f"with_reject: correct is {right.shape} and rejected {out.shape}, must be equal and (n,)"
        )
    accepted = ~out
    return {
        "accepted_accuracy": float(right[accepted].mean()) if accepted.any() else float("nan"),
        "rejection_rate": float(out.mean()),
        "right_and_accepted": float((right & accepted).mean()),
        "wrong_and_accepted": float((~right & accepted).mean()),
    }
