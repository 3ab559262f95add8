"""Many normal numbers at once: the generator's own words, and the right distribution."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax.smoothing import normal_samples


def test_words_are_those_of_threefry():
    key = jax.random.key(7)
    expected = jax.extend.random.threefry_2x32(jax.random.key_data(key), jnp.arange(2000, dtype=jnp.uint32))
    np.testing.assert_array_equal(np.concatenate(normal_samples.words(key, 1000)), expected)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_samples_are_normal_around_the_image(impl):
    x = jnp.linspace(0.0, 1.0, 12).reshape(2, 3, 2)
    found = jax.jit(lambda key: normal_samples.noisy(key, x, 5001, 0.5))(jax.random.key(1, impl=impl))
    assert found.shape == (5001, 2, 3, 2) and found.dtype == jnp.float32
    z = np.asarray((found - x[None]) / 0.5, np.float64).reshape(5001, -1)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    # No two entries of a sample, and no two halves of the samples, are correlated.
    assert np.abs(np.corrcoef(z.T) - np.eye(12)).max() < 5 / np.sqrt(5001)
    assert abs(np.corrcoef(z[:2500].ravel(), z[2501:].ravel())[0, 1]) < 5 / np.sqrt(30000)
    assert len(np.unique(z)) > 0.99 * z.size


def test_extreme_bits_are_finite():
    ends = normal_samples.normal(jnp.asarray([0, 2**32 - 1, 2**31], jnp.uint32))
    assert np.isfinite(ends).all() and ends[0] < -5 and ends[1] > 5 and abs(ends[2]) < 1e-6
