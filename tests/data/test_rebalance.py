"""Rows that count more: how often each group, and each past error, is listed."""

import numpy as np
import pytest

from robustjax.data import rebalance

GROUP = np.array([0] * 50 + [1] * 7 + [3] * 20 + [-1] * 5)


def test_errors_are_repeated():
    wrong = np.array([False, True, False, True])
    assert np.bincount(rebalance.upweighted(wrong, 5)).tolist() == [1, 5, 1, 5]
    with pytest.raises(ValueError, match="factor is 0"):
        rebalance.upweighted(wrong, 0)


def test_balanced_takes_as_many_of_each_group():
    rows = rebalance.balanced(GROUP, seed=0)
    assert np.bincount(GROUP[rows]).tolist() == [7, 7, 0, 7] and len(set(rows)) == 21
    assert set(rows[7:14]) == set(range(50, 57))
    assert (rows != rebalance.balanced(GROUP, seed=1)).any() and not len(
        rebalance.balanced(GROUP[-5:], seed=0)
    )


def test_oversampled_repeats_up_to_the_largest_group():
    rows = rebalance.oversampled(GROUP, seed=0)
    assert np.bincount(GROUP[rows]).tolist() == [50, 50, 0, 50]
    count = np.bincount(rows, minlength=len(GROUP))
    assert set(count[:50]) == {1} and set(count[50:57]) == {7, 8} and set(count[57:77]) == {2, 3}
