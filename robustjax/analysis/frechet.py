"""The Frechet distance between sets of images, by the features of a network."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from robustjax import checks


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of features."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: ArrayLike) -> Moments:
    """Measure features (n, d).

    Raises:
      ValueError: if they are no matrix of at least two rows, or not finite.
    """
    f = np.asarray(features, np.float64)
    if f.ndim != 2 or len(f) < 2:
        raise ValueError(f"moments: features have shape {f.shape}, must be a matrix of at least two rows")
    checks.finite("moments", "features", f)
    return Moments(f.mean(axis=0), np.atleast_2d(np.cov(f, rowvar=False)))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Compute |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), the squared distance of two Gaussians.

    With Inception features this is the FID; with others the numbers mean something else, and a distance is to be
    reported with its network. With few images it is too large, so only sets of one size compare.

    Args:
      a, b: moments of the features of two sets of images.
    Raises:
      ValueError: if their dimensions differ.

    Reference: Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500. The root is taken of a symmetric
      matrix, by its eigenvalues, those below 0 by rounding counted as 0: no imaginary parts, no offset.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"frechet_distance: features have {a.mean.size} and {b.mean.size} dimensions, must be equal"
        )
    root = _root(a.covariance)
    middle = root @ b.covariance @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0.0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(max(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross, 0.0))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
