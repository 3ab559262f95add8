"""Mahalanobis distances in feature space, fitted in float64 on the host to features of any rank."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.ood.scores import Features
from robustjax.types import PerExample

Shrinkage = float | Literal["ledoit-wolf"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Gaussians:
    """Normal distributions with one covariance, as a form of features: max_c -|(h - center) W - mean_c|^2 / 2.

    An argument for compiled functions, like parameters, and not a constant in them.
    """

    center: Float[Array, "d"]
    whitening: Float[Array, "d r"]
    means: Float[Array, "c r"]

    def __call__(self, features: Features) -> PerExample:
        """Compute minus half the squared Mahalanobis distance to the nearest mean."""
        # TF32 matrix products would cost more than the differences between near examples.
        white = jnp.matmul(features - self.center[None], self.whitening, precision="highest")
        return (-0.5 * jnp.square(white[:, None, :] - self.means[None]).sum(axis=-1)).max(axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Relative:
    """The distance to the classes relative to that to all data."""

    classes: Gaussians
    background: Gaussians

    def __call__(self, features: Features) -> PerExample:
        """Subtract the score of the background from that of the classes."""
        return self.classes(features) - self.background(features)


def mahalanobis(features: np.ndarray, label: np.ndarray, *, shrinkage: Shrinkage = 0.0) -> Gaussians:
    """Fit one mean per class and one covariance for all: log densities up to a constant.

    Directions without variance, beyond what rounding in float32 makes of it, are left out, as the
    pseudo-inverse does; with any shrinkage they count. Classes without an example have no mean.

    Args:
      features: of training data (n, d).
      label: their classes (n,).
      shrinkage: weight in [0, 1] of the identity with the same trace in the covariance, or "ledoit-wolf" for the
        weight of least expected error.
    Returns:
      A form: features (b, d) -> scores (b,), 0 at the means.
    Raises:
      ValueError: if there is no feature or one that is not finite, label has another length, no two examples of a
        class differ, or shrinkage is out of range.

    Reference: Lee et al. 2018, arXiv:1807.03888; Ledoit and Wolf 2004, Journal of Multivariate Analysis 88.
    """
    features, label = _read("mahalanobis", features, label)
    present, which = np.unique(label, return_inverse=True)
    sums = np.zeros((present.size, features.shape[1]))
    np.add.at(sums, which, features)
    means = sums / np.bincount(which)[:, None]
    center = features.mean(axis=0)
    noise = np.finfo(np.float32).eps * np.abs(features).max(initial=0.0)
    white = _whitening("mahalanobis", features - means[which], shrinkage, noise)
    if white.shape[1] == 0 and np.abs(means - center).max() > noise:
        raise ValueError(
            f"mahalanobis: the {len(features)} examples of {present.size} classes do not vary within their classes, "
            "must be at least two different ones of some class"
        )
    return Gaussians(*(jnp.asarray(a, jnp.float32) for a in (center, white, (means - center) @ white)))


def relative_mahalanobis(features: np.ndarray, label: np.ndarray, *, shrinkage: Shrinkage = 0.0) -> Relative:
    """Fit `mahalanobis`, and once more without classes, to be subtracted.

    What makes an example OOD in ways that no class explains cancels, which helps with near OOD images.

    Args:
      features, label, shrinkage: as in `mahalanobis`.

    Reference: Ren et al. 2021, arXiv:2106.09022.
    """
    alone = np.zeros(np.shape(label), int)
    return Relative(
        mahalanobis(features, label, shrinkage=shrinkage), mahalanobis(features, alone, shrinkage=shrinkage)
    )


def ledoit_wolf(centered: np.ndarray) -> float:
    """Estimate the best weight of the identity in a covariance, from features with mean zero (n, d)."""
    n, d = centered.shape
    covariance = centered.T @ centered / n
    scale = np.trace(covariance) / d
    square = np.square(covariance).sum()
    spread = (square - d * scale**2) / d
    fourth = np.square(np.square(centered).sum(axis=1)).sum() / n
    error = (fourth - square) / (n * d)
    return float(min(error, spread) / spread) if spread > 0 else 0.0


def _whitening(name: str, centered: np.ndarray, shrinkage: Shrinkage, noise: float) -> np.ndarray:
    """Give W (d, r) with W W^T the (pseudo-)inverse of the covariance."""
    if isinstance(shrinkage, str):
        if shrinkage != "ledoit-wolf":
            raise ValueError(f"{name}: shrinkage is {shrinkage!r}, must be a number or 'ledoit-wolf'")
        shrinkage = ledoit_wolf(centered)
    else:
        checks.number(name, "shrinkage", shrinkage, least=0, most=1)
    n, d = centered.shape
    variance, axes = np.linalg.eigh(centered.T @ centered / n)
    variance = (1 - shrinkage) * variance + shrinkage * variance.mean()
    floor = max(variance.max() * d * np.finfo(np.float64).eps, noise**2)
    kept = variance > floor
    return axes[:, kept] / np.sqrt(variance[kept])


def _read(name: str, features: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, label = np.asarray(features, np.float64), np.asarray(label)
    if features.ndim != 2 or 0 in features.shape or label.shape != features.shape[:1]:
        raise ValueError(
            f"{name}: features are {features.shape} and label {label.shape}, must be (n, d) and (n,), not empty"
        )
    checks.finite(name, "features", features)
    return features, checks.labels(name, label, count=len(features))
