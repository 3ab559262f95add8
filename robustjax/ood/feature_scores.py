"""Scores of features that keep training data: the nearest neighbours, and what the principal subspace misses."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks, logit
from robustjax.numerics import divide, norm
from robustjax.ood.scores import Features
from robustjax.types import PerExample


@partial(jax.tree_util.register_dataclass, data_fields=["bank"], meta_fields=["neighbours"])
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Neighbours:
    """Training features on the unit sphere, and which of the nearest counts: a form of features."""

    bank: Float[Array, "n d"]
    neighbours: int

    def __call__(self, features: Features) -> PerExample:
        """Compute minus the distance to the k-th nearest."""
        unit = _unit(features)
        alike = jnp.matmul(unit, self.bank.T, precision="highest")
        _, nearest = jax.lax.top_k(jax.lax.stop_gradient(alike), self.neighbours)
        # From the vectors and not from 2 - 2 cos, which cancels where neighbours are near.
        return -norm(unit - self.bank[nearest[:, -1]], "l2")


def knn(features: np.ndarray, *, neighbours: int = 50) -> Neighbours:
    """Keep training features, scaled to length 1; the score is minus the distance to the k-th nearest.

    Args:
      features: of training data (n, d). A feature vector of zeros stays one.
      neighbours: k; the published choices are 50 for CIFAR-10, 200 for CIFAR-100, 1000 for ImageNet.
    Raises:
      ValueError: if neighbours is not in [1, n], or a feature is not finite.

    Reference: Sun et al. 2022, arXiv:2204.06507.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not 1 <= neighbours <= features.shape[0]:
        raise ValueError(
            f"knn: neighbours is {neighbours} of features {features.shape}, must be in [1, n] of (n, d)"
        )
    checks.finite("knn", "features", features)
    return Neighbours(_unit(jnp.asarray(features)), neighbours)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Virtual:
    """A last layer with one more logit, the norm of what lies off the principal subspace: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    origin: Float[Array, "d"]
    complement: Float[Array, "d r"]
    scale: Float[Array, ""]

    def __call__(self, features: Features) -> PerExample:
        """Subtract the virtual logit from the energy."""
        off = jnp.matmul(features - self.origin[None], self.complement, precision="highest")
        return logit.energy(features @ self.kernel + self.bias[None]) - self.scale * norm(off, "l2")


def vim(
    features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, principal: int | None = None
) -> Virtual:
    """Add to the logits one for the norm of the residual, scaled to match the largest logit on average.

    Args:
      features: of training data, as the last layer reads them (n, d).
      kernel, bias: of the last layer, (d, k) and (k,).
      principal: dimension of the principal subspace, below d; by default 1000 from d = 2048, 512 from d = 768,
        and half of d below, as published.
    Raises:
      ValueError: if the shapes do not fit, principal is not in [0, d) or a value is not finite.

    Reference: Wang et al. 2022, arXiv:2203.10807. The score is energy minus virtual logit, which ranks like the
      probability of the virtual class. Where training features have no residual at all, its scale is 0.
    """
    features, kernel, bias = _checked("vim", features, kernel, bias)
    origin, complement = _complement("vim", features, kernel, bias, principal)
    away = features - origin
    residual = np.linalg.norm(away @ complement, axis=1).mean()
    lost = residual <= np.finfo(np.float32).eps * np.linalg.norm(away, axis=1).mean()
    scale = 0.0 if lost else (features @ kernel + bias).max(axis=1).mean() / residual
    return Virtual(*(jnp.asarray(a, jnp.float32) for a in (kernel, bias, origin, complement, scale)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Residual:
    """What lies off a principal subspace: a form of features."""

    origin: Float[Array, "d"]
    complement: Float[Array, "d r"]

    def __call__(self, features: Features) -> PerExample:
        """Compute minus the norm of the residual."""
        return -norm(jnp.matmul(features - self.origin[None], self.complement, precision="highest"), "l2")


def residual(
    features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, principal: int | None = None
) -> Residual:
    """Score by minus the norm of what lies off the principal subspace: the first half of `vim`, which see.

    Reference: Wang et al. 2022, arXiv:2203.10807.
    """
    features, kernel, bias = _checked("residual", features, kernel, bias)
    made = _complement("residual", features, kernel, bias, principal)
    return Residual(*(jnp.asarray(a, jnp.float32) for a in made))


def _checked(
    who: str, features: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, kernel, bias = (np.asarray(a, np.float64) for a in (features, kernel, bias))
    if features.ndim != 2 or 0 in features.shape or kernel.shape != (features.shape[1], *bias.shape):
        raise ValueError(
            f"{who}: features {features.shape}, kernel {kernel.shape} and bias {bias.shape} must be (n, d), (d, k), "
            "(k,)"
        )
    for what, values in (("features", features), ("rows of the kernel", kernel), ("biases", bias)):
        checks.finite(who, what, values)
    return features, kernel, bias


def _complement(
    who: str, features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, principal: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Give the point where all logits are 0, as nearly as can be, and the axes off the principal subspace there."""
    d = features.shape[1]
    published = 1000 if d >= 2048 else 512 if d >= 768 else d // 2
    dimension = published if principal is None else principal
    if not 0 <= dimension < d:
        raise ValueError(f"{who}: principal is {principal}, must be in [0, {d})")
    origin = -np.linalg.pinv(kernel.T) @ bias
    away = features - origin
    _, axes = np.linalg.eigh(away.T @ away / len(features))
    return origin, axes[:, : d - dimension]


def _unit(features: Features) -> Features:
    return divide(features, norm(features, "l2")[:, None])
