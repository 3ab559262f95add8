"""Scores of features and the last layer that reads them: distances to its decision boundaries, angles, gradients.

Each is a form of features; `kernel` (d, k) and `bias` (k,) are those of the last layer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide, norm
from robustjax.ood.scores import Features
from robustjax.types import Number, PerExample

CLOSE = 1e-8  # a distance from the mean below this counts as this


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Boundaries:
    """A last layer, distances between its class vectors, and where features are measured from: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    apart: Float[Array, "k k"]
    origin: Float[Array, "d"]

    def __call__(self, features: Features) -> PerExample:
        """Average the distances to the decision boundaries, relative to the distance from the origin."""
        logits = features @ self.kernel + self.bias[None]
        first = logits.argmax(axis=1)
        gaps = divide(logits.max(axis=1, keepdims=True) - logits, self.apart[first])
        away = jnp.maximum(norm(features - self.origin[None], "l2"), CLOSE)
        return gaps.sum(axis=1) / ((logits.shape[1] - 1) * away)


def fdbd(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, centred: bool = True) -> Boundaries:
    """Score by the mean distance of features to the decision boundaries, over their distance from the training mean.

    The boundary between the predicted class y and c lies at (z_y - z_c) / |w_y - w_c|.

    Args:
      features: of training data (n, d).
      kernel, bias: of the last layer.
      centred: measure the denominator from the mean of training features; else from 0.
    Raises:
      ValueError: if shapes do not fit or a value is not finite.

    Reference: Liu and Qin 2024, arXiv:2312.11536. OpenOOD sums where the paper and this average; it chooses `centred`
      on validation images. Two classes with the same vector have no boundary: it counts 0.
    """
    found = checks.rows("fdbd", "features", features)
    w, b = checks.last_layer("fdbd", found.shape[1], kernel, bias)
    apart = np.linalg.norm(w[:, :, None] - w[:, None, :], axis=0)
    origin = found.mean(axis=0) if centred else np.zeros(found.shape[1])
    return Boundaries(*(jnp.asarray(a, jnp.float32) for a in (w, b, apart, origin)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Collapsed:
    """A last layer, the mean of features and the weight of their norm: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    origin: Float[Array, "d"]
    alpha: Float[Array, ""]

    def __call__(self, features: Features) -> PerExample:
        """Project the class vector on the centred feature, and add the norm of the feature."""
        first = (features @ self.kernel + self.bias[None]).argmax(axis=1)
        away = features - self.origin[None]
        along = (self.kernel.T[first] * away).sum(axis=1) / jnp.maximum(norm(away, "l2"), CLOSE)
        return along + self.alpha * jnp.abs(features).sum(axis=1)


def nci(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, alpha: Number = 1e-4) -> Collapsed:
    """Score by w_y . (h - m) / |h - m| + alpha |h|_1: neural collapse aligns ID features with their class vectors.

    Args:
      features: of training data (n, d), with mean m.
      kernel, bias: of the last layer.
      alpha: weight of the norm, at least 0.
    Raises:
      ValueError: if shapes do not fit, a value is not finite, or alpha is negative.

    Reference: Liu and Qin 2025, arXiv:2311.01479; alpha as in OpenOOD, which chooses it on validation images.
    """
    checks.number("nci", "alpha", alpha, least=0)
    found = checks.rows("nci", "features", features)
    w, b = checks.last_layer("nci", found.shape[1], kernel, bias)
    origin = found.mean(axis=0)
    return Collapsed(*(jnp.asarray(a, jnp.float32) for a in (w, b, origin, alpha)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class LastGradient:
    """A last layer: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]

    def __call__(self, features: Features) -> PerExample:
        """Compute |h|_1 sum_k |p_k - 1 / K|."""
        logits = features @ self.kernel + self.bias[None]
        excess = jax.nn.softmax(logits) - 1 / logits.shape[1]
        return jnp.abs(features).sum(axis=1) * jnp.abs(excess).sum(axis=1)


def gradnorm(kernel: np.ndarray, bias: np.ndarray) -> LastGradient:
    """Score by the l1 norm of the gradient that cross-entropy to the uniform prediction has in the last kernel.

    That gradient is h (p - 1/K)^T, so its norm is |h|_1 |p - 1/K|_1. Where p has saturated only |h|_1 has a slope: an
    attack needs a surrogate, such as `logit_scores.msp_margin`.

    Args:
      kernel, bias: of the last layer.
    Raises:
      ValueError: if shapes do not fit or a value is not finite.

    Reference: Huang, Geng and Li 2021, arXiv:2110.00218, temperature 1. OpenOOD's cross-entropy sums over the classes:
      K times this.
    """
    w, b = checks.last_layer("gradnorm", len(np.atleast_1d(np.asarray(kernel))), kernel, bias)
    return LastGradient(jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32))


def dice(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, percentile: float = 90.0) -> Array:
    """Keep the weights of the last kernel that contribute most, mean feature times weight, and set the others to 0.

    Args:
      features: of training data (n, d).
      kernel, bias: of the last layer.
      percentile: share of the weights that go, in per cent, in [0, 100): those whose contribution is not above it.
    Returns:
      The kernel, to be read by `shaping.head` with the bias.
    Raises:
      ValueError: if shapes do not fit, a value is not finite, or percentile is out of range.

    Reference: Sun and Li 2022, arXiv:2111.09805; 90 for CIFAR-10 and in OpenOOD, 70 for ImageNet.
    """
    checks.number("dice", "percentile", percentile, least=0, below=100)
    found = checks.rows("dice", "features", features)
    w, _ = checks.last_layer("dice", found.shape[1], kernel, bias)
    share = found.mean(axis=0)[:, None] * w
    return jnp.asarray(np.where(share > np.percentile(share, percentile), w, 0.0), jnp.float32)
