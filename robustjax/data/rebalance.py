"""Choose rows so that what is rare counts more: groups evened out, past errors repeated."""

import numpy as np
from jaxtyping import Int64

from robustjax.data.order import permutation


def upweighted(wrong: np.ndarray, factor: int) -> Int64[np.ndarray, "m"]:
    """List every row once, and those that a first network got wrong `factor` times: Just Train Twice.

    Train a network briefly (or with much decay), find its errors on the training set, then train a second one
    on these rows. Neither run needs to know groups; both may be adversarial.

    Args:
      wrong: bool (n,), the errors of the first network on its training images.
      factor: how often such a row is listed.
    Raises:
      ValueError: if factor is below 1.

    Reference: Liu et al. 2021, arXiv:2107.09044.
    """
    if factor < 1:
        raise ValueError(f"rebalance.upweighted: factor is {factor}, must be at least 1")
    return np.repeat(np.arange(len(wrong)), np.where(wrong, factor, 1))


def balanced(group: np.ndarray, *, seed: int) -> Int64[np.ndarray, "m"]:
    """Draw as many rows of every group as the smallest one has, without repetition.

    Args:
      group: integers (n,); rows of negative groups are left out, and so are groups without rows.
      seed: of the draw.
    """
    group = np.asarray(group)
    shuffled = permutation(len(group), seed=seed, epoch=0, lane=1)
    members = [shuffled[group[shuffled] == g] for g in np.unique(group[group >= 0])]
    least = min(map(len, members), default=0)
    return np.sort(np.concatenate([m[:least] for m in members])) if members else np.zeros(0, np.int64)


def oversampled(group: np.ndarray, *, seed: int) -> Int64[np.ndarray, "m"]:
    """Repeat the rows of every group until it has as many as the largest one.

    Args:
      group: integers (n,); rows of negative groups are left out.
      seed: of which rows are repeated once more than others.
    """
    group = np.asarray(group)
    shuffled = permutation(len(group), seed=seed, epoch=0, lane=1)
    members = [shuffled[group[shuffled] == g] for g in np.unique(group[group >= 0])]
    most = max(map(len, members), default=0)
    return (
        np.sort(np.concatenate([np.resize(m, most) for m in members])) if members else np.zeros(0, np.int64)
    )
