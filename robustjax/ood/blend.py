"""One score of several, by a logistic regression of ID against OOD."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax.logistic_regression import l2, logistic
from robustjax.types import PerExample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Blend:
    """A weighted sum of scores: the log odds of ID, a form of stacked scores (b, s)."""

    weights: Float[Array, "s"]
    bias: Float[Array, ""]

    def __call__(self, scores: Float[Array, "b s"]) -> PerExample:
        """Compute the decision value; its sigmoid would saturate."""
        return (scores * self.weights[None]).sum(axis=-1) + self.bias


def blend(id_scores: np.ndarray, ood_scores: np.ndarray, *, strength: float = 1.0) -> Blend:
    """Weigh several scores, such as Mahalanobis distances of all layers, so that they separate ID from OOD.

    Minimises |w|^2 / 2 + C sum of logistic losses over scores scaled to deviation 1. Fit it on held-out data, not
    on what the scores were fitted to, and evaluate it on other OOD sets.

    Args:
      id_scores: scores of ID images (n, s).
      ood_scores: scores of OOD images (m, s).
      strength: C > 0, the inverse weight of the penalty.
    Raises:
      ValueError: if the shapes do not fit, a score is not finite, or strength is not positive.

    Reference: Lee et al. 2018, arXiv:1807.03888. Equal to scikit-learn on standardised scores.
    """
    a, b = np.asarray(id_scores, np.float64), np.asarray(ood_scores, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in a.shape or 0 in b.shape:
        raise ValueError(f"blend: scores are {a.shape} and {b.shape}, must be (n, s) and (m, s), not empty")
    both = np.concatenate([a, b])
    if not np.isfinite(both).all() or not strength > 0:
        raise ValueError(f"blend: scores must be finite, and strength is {strength}, must be positive")
    mean, deviation = both.mean(axis=0), both.std(axis=0)
    constant = deviation <= 1e-12 * np.abs(mean)
    scaled = np.where(constant, 0.0, (both - mean) / np.where(constant, 1.0, deviation))
    label = np.repeat([1, 0], [len(a), len(b)])
    with jax.enable_x64(True):  # scores of neighbouring layers are nearly collinear
        # Of two logits each has half of the penalty that their difference would have.
        layer = logistic(
            jnp.asarray(scaled),
            jnp.asarray(label),
            penalty=l2,
            classes=2,
            strength=strength / 2,
            steps=20_000,
            tolerance=1e-10,
        )
        w, bias = (np.asarray(value[..., 1] - value[..., 0]) for value in (layer.weight, layer.bias))
    weights = np.where(constant, 0.0, w / np.where(constant, 1.0, deviation))
    return Blend(jnp.asarray(weights, jnp.float32), jnp.asarray(bias - weights @ mean, jnp.float32))
