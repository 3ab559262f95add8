"""Numbers made of a network's answers on corrupted images: accuracy by cell, mCE and relative mCE.

A cell is one corruption at one severity. The same images are in every cell, so intervals are over images: of a cell
exact binomial ones, of averages over cells by bootstrap of each image's average.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustjax.analysis.intervals import Estimate, bootstrap, proportion

WHOLE = (1.0, 2.0, 3.0, 4.0, 5.0)  # the severities that published errors are averages over


class Baseline(NamedTuple):
    """The errors of a network that those of others are divided by.

    Attributes:
      name: of the network, for reports.
      clean: its error on images as they are.
      error: by corruption, its mean error over the severities.
      severities: which these are.
    """

    name: str
    clean: float
    error: Mapping[str, float]
    severities: tuple[float, ...] = WHOLE


def cells(right: np.ndarray) -> list[list[Estimate]]:
    """Estimate the accuracy in every cell, with exact 95 % intervals.

    Args:
      right: (c, s, n) bool, whether image n is classified correctly under corruption c at severity s.
    """
    return [[proportion(hits) for hits in row] for row in right]


def mean_accuracy(right: np.ndarray) -> Estimate:
    """Average the accuracy over all cells.

    Args:
      right: (..., n) bool.
    """
    share = right.reshape(-1, right.shape[-1]).mean(axis=0)
    if share.min() == share.max() and share[0] in (0.0, 1.0):
        return proportion(share)  # a bootstrap of equal numbers would be sure of them
    return bootstrap(np.mean, share)


def mce(
    right: np.ndarray, corruptions: Sequence[str], severities: Sequence[float], baseline: Baseline | None
) -> Estimate:
    """Compute the mean corruption error, mean_c (sum_s E_cs / sum_s B_cs).

    Args:
      right: (c, s, n) bool.
      corruptions, severities: what c and s are.
      baseline: whose errors B are; None for 1, which gives the mean error, as is usual on CIFAR-10-C.
    Raises:
      ValueError: see `base_errors`.

    Reference: Hendrycks and Dietterich 2019, arXiv:1903.12261. As a share: the paper writes 76.7 for 0.767.
    """
    base = base_errors(corruptions, severities, baseline)
    wrong = 1.0 - right.mean(axis=1)
    return bootstrap(np.mean, (wrong / base[:, None]).mean(axis=0))


def relative_mce(
    right: np.ndarray,
    clean: np.ndarray,
    corruptions: Sequence[str],
    severities: Sequence[float],
    baseline: Baseline | None,
) -> Estimate:
    """Compute the relative mCE, mean_c (sum_s (E_cs - E_clean) / sum_s (B_cs - B_clean)): what corruption costs.

    Args:
      clean: (n,) bool, whether the images as they are are classified correctly.
      right, corruptions, severities, baseline: as for `mce`; without a baseline the divisor is 1.
    Returns:
      NaN if the baseline loses nothing under some corruption.
    """
    base = base_errors(corruptions, severities, baseline) - (baseline.clean if baseline else 0.0)
    if not (base > 0).all():
        return Estimate(np.nan, np.nan, np.nan)
    lost = (1.0 - right.mean(axis=1)) - (1.0 - clean)
    return bootstrap(np.mean, (lost / base[:, None]).mean(axis=0))


def base_errors(
    corruptions: Sequence[str], severities: Sequence[float], baseline: Baseline | None
) -> np.ndarray:
    """List what the errors under each corruption are divided by: (c,).

    Raises:
      ValueError: if the baseline has no error for a corruption, or 0, or is about other severities.
    """
    if baseline is None:
        return np.ones(len(corruptions))
    if lacking := [name for name in corruptions if name not in baseline.error]:
        raise ValueError(
            f"mce: {baseline.name} has no error for {', '.join(lacking)}, must have one for each corruption"
        )
    if set(severities) != set(baseline.severities):
        said = [", ".join(f"{s:g}" for s in sorted(each)) for each in (severities, baseline.severities)]
        raise ValueError(
            f"mce: severities are {said[0]}, must be {said[1]}, which the errors of {baseline.name} are averages over"
        )
    if perfect := [name for name in corruptions if not baseline.error[name] > 0]:
        raise ValueError(f"mce: {baseline.name} makes no error under {', '.join(perfect)}, must make some")
    return np.array([baseline.error[name] for name in corruptions])
