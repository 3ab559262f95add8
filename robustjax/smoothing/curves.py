"""Certified accuracy as a function of the radius."""

from collections.abc import Sequence

import numpy as np

from robustjax.smoothing.certify import Certificate


def certified_accuracy(
    found: Certificate, label: np.ndarray, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Give the share of examples that are right with a radius of at least r, for every r: (len(radii),).

    Never increases in r. At r = 0 it is the accuracy of the smoothed classifier, abstentions counted as wrong.
    """
    right = found.label == np.asarray(label)
    return (right[None] & (found.radius[None] >= np.asarray(radii)[:, None])).mean(axis=1)


def average_radius(found: Certificate, label: np.ndarray) -> float:
    """Average the certified radius, 0 where the label is wrong or withheld: the area under the curve.

    Reference: Zhai et al. 2020, arXiv:2001.02378 (average certified radius).
    """
    return float(np.where(found.label == np.asarray(label), found.radius, 0.0).mean())
