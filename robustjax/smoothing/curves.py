"""Certified accuracy as a function of the radius."""

from collections.abc import Sequence

import numpy as np

from robustjax import checks
from robustjax.smoothing.certify import Certificate


def certified_accuracy(
    found: Certificate, label: np.ndarray, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Give the share of examples that are right with a radius of at least r, for every r: (len(radii),).

    Never increases in r. At r = 0 it is the accuracy of the smoothed classifier, abstentions counted as wrong.

    Raises:
      ValueError: if labels are no whole numbers from 0, one for each certificate, or a radius is negative or NaN.
    """
    label, radii = _labels("certified_accuracy", found, label), np.asarray(radii)
    if radii.ndim != 1 or not (radii >= 0).all():
        raise ValueError(
            f"certified_accuracy: radii are {radii.tolist()}, must be a list of numbers, at least 0"
        )
    right = found.label == label
    return (right[None] & (found.radius[None] >= np.asarray(radii)[:, None])).mean(axis=1)


def average_radius(found: Certificate, label: np.ndarray) -> float:
    """Average the certified radius, 0 where the label is wrong or withheld: the area under the curve.

    Raises:
      ValueError: if labels are no whole numbers from 0, one for each certificate.

    Reference: Zhai et al. 2020, arXiv:2001.02378 (average certified radius).
    """
    label = _labels("average_radius", found, label)
    return float(np.where(found.label == label, found.radius, 0.0).mean())


def _labels(who: str, found: Certificate, label: np.ndarray) -> np.ndarray:
    """Refuse labels that would be compared wrongly: -1, which says that a certificate abstains, and other shapes."""
    return checks.labels(who, label, count=len(found.label))
