"""Scores of features by one vector for each class: SHE's patterns, and the class means on the unit sphere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide, norm
from robustjax.ood.openmax import correct
from robustjax.ood.scores import Features
from robustjax.types import PerExample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Patterns:
    """A last layer and one stored pattern for each class: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    patterns: Float[Array, "k d"]

    def __call__(self, features: Features) -> PerExample:
        """Compute the inner product with the pattern of the predicted class."""
        first = (features @ self.kernel + self.bias[None]).argmax(axis=1)
        return (features * self.patterns[first]).sum(axis=1)


def she(features: np.ndarray, label: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> Patterns:
    """Store the mean feature of the correctly classified images of each class; score by the inner product with it.

    Args:
      features: of training data (n, d).
      label: their classes (n,).
      kernel, bias: of the last layer.
    Raises:
      ValueError: if shapes or labels do not fit, a value is not finite, or a class has no image.

    Reference: Zhang et al. 2023, SHE, ICLR. A class without a correctly classified image stores the mean of all its
      images, where OpenOOD stores NaN.
    """
    found = checks.rows("she", "features", features)
    w, b = checks.last_layer("she", found.shape[1], kernel, bias)
    y = checks.labels("she", label, count=len(found), classes=len(b))
    logits = found @ w + b
    own = [correct(logits, y, c, found) for c in range(len(b))]
    if empty := [c for c, rows in enumerate(own) if not len(rows)]:
        raise ValueError(f"she: class {empty[0]} has no training image, every class must have at least one")
    patterns = np.stack([rows.mean(axis=0) for rows in own])
    return Patterns(*(jnp.asarray(a, jnp.float32) for a in (w, b, patterns)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Prototypes:
    """Unit vectors, one for each class: a form of features."""

    prototypes: Float[Array, "k d"]

    def __call__(self, features: Features) -> PerExample:
        """Compute the cosine of the angle to the nearest prototype; 0 for a feature vector of zeros."""
        along = jnp.matmul(features, self.prototypes.T, precision="highest")
        return divide(along, norm(features, "l2")[:, None]).max(axis=1)


def prototypes(features: np.ndarray, label: np.ndarray) -> Prototypes:
    """Average the features of each class on the unit sphere; score by the largest cosine.

    Args:
      features: of training data (n, d).
      label: their classes (n,).
    Raises:
      ValueError: if a feature is not finite, labels do not fit, or the unit features of a class sum to 0.

    Reference: the prototypes that Ming et al. 2023, CIDER, arXiv:2203.04450, train with, here of any network.
    """
    found = checks.rows("prototypes", "features", features)
    y = checks.labels("prototypes", label, count=len(found))
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    means = np.stack([unit[y == c].mean(axis=0) for c in np.unique(y)])
    length = np.linalg.norm(means, axis=1, keepdims=True)
    if length.min() <= 1e-12:
        raise ValueError("prototypes: the unit features of a class sum to 0, must have a direction")
    return Prototypes(jnp.asarray(means / length, jnp.float32))
