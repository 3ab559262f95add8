"""Intervals against the definition of Clopper and Pearson."""

import numpy as np
import pytest
import scipy.stats

from robustjax.analysis.intervals import proportion


@pytest.mark.parametrize("hits, n", [(0, 10), (3, 10), (10, 10), (870, 1000)])
def test_interval_ends_are_where_the_tails_hold_half_the_error(hits, n):
    found = proportion(np.arange(n) < hits, level=0.9)
    assert found.value == hits / n
    if hits:
        np.testing.assert_allclose(scipy.stats.binom.sf(hits - 1, n, found.low), 0.05, rtol=1e-6)
    if hits < n:
        np.testing.assert_allclose(scipy.stats.binom.cdf(hits, n, found.high), 0.05, rtol=1e-6)
    assert (found.low == 0) == (hits == 0) and (found.high == 1) == (hits == n)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="hits is empty"):
        proportion(np.array([]))
    with pytest.raises(ValueError, match="level is 1"):
        proportion(np.ones(3), level=1)
