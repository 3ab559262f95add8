"""SSD: how far normalised features lie from clusters of training features, fitted in float64 on the host."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import norm
from robustjax.ood.gaussian_scores import ledoit_wolf
from robustjax.ood.scores import Features, Form
from robustjax.types import PerExample

Covariance = Literal["pinv", "truncated", "ledoit-wolf"]
TINY = 1e-10  # added to lengths and deviations, as in the authors' code
RATIO = 10  # examples per dimension that a covariance of full rank asks for
CUTOFF = 1e-6  # of the largest eigenvalue, for "truncated"
NOISE = 1e-12  # a variance of standardised features below this is rounding
ROUNDING = 1e-6  # of its mean: what a feature varies by in float32 though it is constant


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Clusters:
    """Clusters with a covariance each, as a form of features: minus the squared distance to the nearest.

    An argument for compiled functions, like parameters, and not a constant in them.
    """

    shift: Float[Array, "d"]
    spread: Float[Array, "d"]
    means: Float[Array, "c d"]
    whitening: Float[Array, "c d d"]

    def distance(self, features: Features) -> PerExample:
        """Compute s = min_c (h - mu_c)^T P_c (h - mu_c): the published score, larger on OOD images."""
        length = norm(features, "l2")[:, None] + TINY
        unit = (features / length - self.shift[None]) / self.spread[None]
        # TF32 matrix products would cost more than the differences between near examples.
        white = jnp.einsum(
            "bcd,cdr->bcr", unit[:, None, :] - self.means[None], self.whitening, precision="highest"
        )
        return jnp.square(white).sum(axis=-1).min(axis=-1)

    def __call__(self, features: Features) -> PerExample:
        """Compute -s: larger on ID images."""
        return -self.distance(features)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class FewShot:
    """The distance to ID relative to that to a few known OOD images: SSD_k."""

    id: Clusters
    ood: Clusters

    def __call__(self, features: Features) -> PerExample:
        """Compute s_ood - s_id."""
        return self.id(features) - self.ood(features)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Unsquared:
    """A form that is minus a squared distance, as minus the distance: the same order, even steps."""

    form: Form

    def __call__(self, features: Features) -> PerExample:
        """Compute -sqrt(s), with slope 0 where s is 0."""
        square = -self.form(features)
        positive = square > TINY
        return -jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def ssd(
    features: np.ndarray, label: np.ndarray | None = None, *, covariance: Covariance = "pinv"
) -> Clusters:
    """Fit the score of SSD: features of length 1, standardised, and their Mahalanobis distance.

    Args:
      features: of training data (n, d), as the encoder gives them before its projection head.
      label: which cluster each belongs to (n,): classes, or `clustered`; one cluster by default.
      covariance: how it is inverted. "pinv" takes it as it is, and asks for 10 d examples in every cluster, since a
        pseudo-inverse ignores all directions that too few examples do not span. "truncated" leaves out directions
        below 1e-6 of the largest variance; "ledoit-wolf" shrinks to a multiple of the identity. A cluster of one
        example, repeated or not, takes the mean variance of all clusters with "ledoit-wolf"; the others refuse it.
    Returns:
      A form: features (b, d) -> scores (b,), 0 at the means, which do not change with the scale of the features.
    Raises:
      ValueError: if shapes do not fit, a feature is not finite, covariance is unknown, a cluster has no variance or,
        for "pinv", too few examples.

    Reference: Sehwag, Chiang and Mittal 2021, arXiv:2103.12051. Here larger means ID: minus their score. Features that
      are the same for all training data, such as dead activations, are left out, as a pseudo-inverse leaves them out;
      the authors' code divides them by 1e-10, so that one that moves outweighs all others.
    """
    features = _matrix("ssd", features)
    label = np.zeros(len(features), int) if label is None else label
    label = checks.labels("ssd", label, count=len(features))
    unit = _unit(features)
    shift, spread = _standard("ssd", unit)
    return _fitted("ssd", (unit - shift) / spread, label, covariance, shift, spread)


def few_shot(
    features: np.ndarray,
    ood: np.ndarray,
    label: np.ndarray | None = None,
    *,
    covariance: Covariance = "ledoit-wolf",
) -> FewShot:
    """Fit SSD_k: ID as in `ssd`, and one cluster of the features of (augmented) known OOD images.

    Args:
      features, label, covariance: as in `ssd`.
      ood: features of known OOD images (m, d), standardised as ID features are.

    Reference: Sehwag, Chiang and Mittal 2021, arXiv:2103.12051.
    """
    id, ood = ssd(features, label, covariance=covariance), _matrix("few_shot", ood)
    if ood.shape[1] != id.shift.shape[0]:
        raise ValueError(f"few_shot: ood is {ood.shape}, must have {id.shift.shape[0]} features")
    unit = _unit(_matrix("few_shot", features))
    shift, spread = _standard("few_shot", unit)
    standard, which = (
        (unit - shift) / spread,
        np.zeros(len(unit), int) if label is None else np.asarray(label),
    )
    groups = [standard[which == k][:, np.isfinite(spread)] for k in np.unique(which)]
    usual = _variance([group - group.mean(axis=0) for group in groups])
    alone, odd = np.zeros(len(ood), int), (_unit(ood) - shift) / spread
    return FewShot(id, _fitted("few_shot", odd, alone, covariance, shift, spread, variance=usual))


def clustered(features: np.ndarray, clusters: int, *, rounds: int = 100, seed: int = 0) -> np.ndarray:
    """Group features of length 1 by k-means: the cluster of each (n,).

    The authors' code of SSD groups them after they are standardised, where directions of small variance count as much
    as others; `ssd` standardises in either case.

    Args:
      features: (n, d).
      clusters: k, at most n.
      rounds: of Lloyd's algorithm, from examples drawn far from each other (k-means++).
      seed: of the first examples.
    Raises:
      ValueError: if clusters is not in [1, n].
    """
    unit = _unit(_matrix("clustered", features))
    checks.count("clustered", "clusters", clusters, most=len(unit))
    rng = np.random.default_rng(seed)
    centers = np.empty((clusters, unit.shape[1]))
    centers[0] = unit[rng.integers(len(unit))]
    away = np.full(len(unit), np.inf)  # squared distance to the nearest centre so far
    for k in range(1, clusters):
        away = np.minimum(away, np.square(unit - centers[k - 1]).sum(axis=1))
        share = away / away.sum() if away.sum() > 0 else None
        centers[k] = unit[rng.choice(len(unit), 1, p=share)]
    nearest = np.zeros(len(unit), int)
    for _ in range(rounds):
        away = np.square(centers).sum(axis=1) - 2 * unit @ centers.T
        before, nearest = nearest, away.argmin(axis=1)
        for k in range(clusters):
            if (nearest == k).any():  # a cluster that lost all its examples stays where it was
                centers[k] = unit[nearest == k].mean(axis=0)
        if (before == nearest).all():
            break
    return nearest


def _fitted(
    name: str,
    h: np.ndarray,
    label: np.ndarray,
    covariance: str,
    shift: np.ndarray,
    spread: np.ndarray,
    *,
    variance: float | None = None,
) -> Clusters:
    """Fit means and covariances to standardised features; `variance` is that of ID features about their means."""
    varies = np.isfinite(spread)
    groups = [h[label == k] for k in np.unique(label)]
    means = np.stack([group.mean(axis=0) for group in groups])
    centered = [(group - m)[:, varies] for group, m in zip(groups, means, strict=True)]
    white = np.stack(
        [
            _whitening(name, c, covariance, _variance(centered) if variance is None else variance)
            for c in centered
        ]
    )
    whole = np.zeros((len(means), len(shift), len(shift)))
    whole[np.ix_(np.arange(len(means)), varies, varies)] = white
    return Clusters(*(jnp.asarray(a, jnp.float32) for a in (shift, spread, means, whole)))


def _standard(name: str, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and deviation of every feature; an infinite deviation leaves out one that is constant."""
    shift, spread = unit.mean(axis=0), unit.std(axis=0)
    constant = spread <= np.maximum(ROUNDING * np.abs(shift), TINY)
    if constant.all():
        raise ValueError(f"{name}: all {len(unit)} features of length 1 are alike, must vary")
    return shift, np.where(constant, np.inf, spread + TINY)


def _variance(centered: Sequence[np.ndarray]) -> float:
    """Average the variance of a feature in the clusters that have one; 1, as standardised, where none has."""
    varied = [c for c in centered if np.square(c).mean() > NOISE]
    return sum(float(np.square(c).sum()) for c in varied) / sum(c.size for c in varied) if varied else 1.0


def _whitening(name: str, centered: np.ndarray, covariance: str, usual: float) -> np.ndarray:
    """Give W (d, d) with W W^T the (pseudo-)inverse of the covariance; columns left out are 0.

    Args:
      name: of the caller, for errors.
      centered: features less their mean (n, d).
      covariance: how it is inverted.
      usual: variance of a feature in a cluster, taken for clusters of one example, repeated or not.
    """
    n, d = centered.shape
    if covariance not in ("pinv", "truncated", "ledoit-wolf"):
        raise ValueError(
            f"{name}: covariance is {covariance!r}, must be 'pinv', 'truncated' or 'ledoit-wolf'"
        )
    if covariance == "pinv" and n < RATIO * d:
        raise ValueError(
            f"{name}: {n} examples of {d} features in a cluster, must be at least {RATIO * d} for 'pinv'; "
            "use 'ledoit-wolf' or 'truncated'"
        )
    variance, axes = np.linalg.eigh(centered.T @ centered / n)
    if variance.mean() <= NOISE:
        if covariance != "ledoit-wolf":
            raise ValueError(
                f"{name}: a cluster holds {n} examples that are all alike, which have no covariance for "
                f"'{covariance}'; use 'ledoit-wolf', or fewer clusters"
            )
        return axes / np.sqrt(usual)
    if covariance == "ledoit-wolf":
        weight = ledoit_wolf(centered)
        # Of two examples, repeated or not, the estimated error is 0, as if they had told all about their covariance.
        if weight <= NOISE and (variance <= NOISE * variance.max()).any():
            weight = 1.0
        variance, floor = (1 - weight) * variance + weight * variance.mean(), 0.0
    elif covariance == "truncated":
        floor = CUTOFF * variance.max()
    else:
        floor = d * np.finfo(np.float64).eps * variance.max()
    kept = variance > floor
    return axes * np.where(kept, 1 / np.sqrt(np.where(kept, variance, 1.0)), 0.0)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + TINY)


def _matrix(name: str, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name}: features are {features.shape}, must be (n, d), not empty")
    checks.finite(name, "features", features)
    return features
