"""Initial values have the distributions that PyTorch and He et al. state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models import layers


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


def test_blocks_of_pixels_are_read_row_by_row_and_taken_apart_again():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    found = layers.blocks_of_pixels(x, 2)
    assert found.shape == (2, 2, 3, 12)
    by_hand = [x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]]  # the block in row 1, column 2
    np.testing.assert_array_equal(found[1, 1, 2], np.concatenate(by_hand))
    np.testing.assert_array_equal(layers.pixels_of_blocks(found, 2), x)
    np.testing.assert_array_equal(layers.blocks_of_pixels(x, 1), x)
