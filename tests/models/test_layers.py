"""Pooling, BatchNorm and initial values are what their names say."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import layers


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_reduces_disjoint_windows(size, window):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    whole = [a - a % window for a in size]

    def largest(x):
        edges = (1, window, window, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, edges, edges, "VALID")

    def average(x):
        parts = [
            x[:, i : whole[0] : window, j : whole[1] : window] for i in range(window) for j in range(window)
        ]
        return sum(parts) / window**2

    for ours, theirs in ((layers.max_pool, largest), (layers.avg_pool, average)):
        expected = jax.vjp(theirs, x)
        actual = jax.vjp(partial(ours, size=window), x)
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            actual[1](jnp.sin(expected[0]))[0], expected[1](jnp.sin(expected[0]))[0], atol=1e-6
        )


def test_initial_values_have_the_stated_distribution():
    key = jax.random.key(0)
    shape, fan_in, fan_out = (3, 3, 64, 96), 9 * 64, 9 * 96
    kernel = np.asarray(layers.fan_in_uniform(key, shape))
    bound = fan_in**-0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.01)
    np.testing.assert_allclose(
        np.asarray(layers.he_fan_out(key, shape)).std(), (2 / fan_out) ** 0.5, rtol=0.01
    )
    bias = np.asarray(layers.bias_uniform(fan_in)(key, (20000,)))
    assert 0.99 * bound < np.abs(bias).max() <= bound
    np.testing.assert_allclose(bias.std(), bound / 3**0.5, rtol=0.02)


class _Both(nn.Module):
    @nn.compact
    def __call__(self, x):
        return layers.linear(layers.conv(x, 8, 3, bias=True, name="conv").mean((1, 2)), 5, name="head")


def test_biases_are_scaled_by_their_own_fan_in():
    params = _Both().init(jax.random.key(0), jnp.zeros((1, 4, 4, 7)))["params"]
    assert 0 < jnp.abs(params["conv"]["bias"]).max() <= (9 * 7) ** -0.5
    assert 0 < jnp.abs(params["head"]["bias"]).max() <= 8**-0.5
