"""Accuracy by class and by group, from one value per example. Numpy on the host."""

import numpy as np
from numpy.typing import ArrayLike

from robustjax import checks

Average = np.ndarray | np.floating  # of shape (...), one number where values are (n,)


def by_group(values: ArrayLike, group: ArrayLike, groups: int | None = None) -> np.ndarray:
    """Average the values of each group: (g, ...), NaN for groups without members.

    Args:
      values: (n, ...), one per example, such as 1 where the prediction is right.
      group: integers (n,); negative ones belong nowhere.
      groups: how many there are; by default as many as are met.
    Raises:
      ValueError: if group is no vector of whole numbers as long as values, or names one beyond `groups`.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 0:
        raise ValueError(f"groups.by_group: values is {values}, must lead with the examples")
    group = checks.groups("groups.by_group", "group", group, count=len(values), most=groups)
    known = group >= 0
    count = np.bincount(group[known], minlength=groups or 0)
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, group[known], values[known])
    with np.errstate(invalid="ignore"):
        return total / count.reshape(-1, *[1] * (values.ndim - 1))


def worst_group(values: ArrayLike, group: ArrayLike) -> Average:
    """Take the smallest average over groups that have members."""
    return np.nanmin(by_group(values, group), axis=0)


def class_balanced(values: ArrayLike, label: ArrayLike) -> Average:
    """Average over the examples of each class, then over classes: every class counts the same."""
    return np.nanmean(by_group(values, label), axis=0)


def reweighted(values: ArrayLike, group: ArrayLike, sizes: ArrayLike) -> Average:
    """Average over groups in given proportions, such as those of the training set.

    Args:
      values: (n, ...).
      group: (n,).
      sizes: (g,), how much each group counts, up to a factor.
    Raises:
      ValueError: if a group that counts has no members.
    """
    sizes = np.asarray(sizes, np.float64)
    mean = by_group(values, group, len(sizes))
    empty = np.isnan(mean.reshape(len(mean), -1)).any(axis=1) & (sizes > 0)
    if empty.any():
        raise ValueError(
            f"groups.reweighted: group {int(np.flatnonzero(empty)[0])} has no examples, but counts for "
            f"{sizes[empty][0]:g}"
        )
    return np.tensordot(sizes / sizes.sum(), np.nan_to_num(mean), axes=1)
