"""Weights for certified training: the width of intervals through the layers has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import small
from robustjax.models.initialisation import for_intervals
from robustjax.types import Model

WIDE, EPS = 600, 0.01


def widths(params, x):
    """Propagate intervals by hand, and list the mean width before each ReLU, in widths of the input's."""
    low, high = x - EPS, x + EPS
    found = []
    for name in ("linear0", "linear1", "linear2", "head"):
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        middle, reach = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ np.abs(kernel)
        found.append(reach.mean() / EPS)
        low, high = np.maximum(middle - reach, 0), np.maximum(middle + reach, 0)
    return np.array(found)


def test_the_expected_width_of_intervals_is_twice_the_inputs_in_every_layer():
    """n E|w| = n sqrt(2 / pi) sqrt(2 pi) / n = 2, and ReLU halves what is symmetric about 0."""
    model = small.mlp(classes=WIDE, shape=(1, WIDE, 1), widths=(WIDE, WIDE, WIDE))
    x = np.random.default_rng(0).uniform(size=(64, WIDE))
    params, _ = for_intervals(model).init(jax.random.key(0))
    found = widths(params, x)
    np.testing.assert_allclose(found[0], 2.0, rtol=0.01)
    np.testing.assert_allclose(found[1:], 2.0, rtol=0.15)
    usual = widths(model.init(jax.random.key(0))[0], x)
    assert usual[-1] > 100 * found[-1]


def test_kernels_of_convolutions_have_the_deviation_of_their_inputs_and_norms_stay_as_they_are():
    drawn = {
        "block": {"conv": {"kernel": jnp.ones((4, 4, 3, 160)), "bias": jnp.ones(160)}},
        "norm": {"scale": 2 * jnp.ones(160), "bias": 3 * jnp.ones(160)},
    }
    model = Model(lambda key: (drawn, {}), lambda *a, **k: a[2], lambda *a: {})
    params, _ = for_intervals(model).init(jax.random.key(1))
    kernel, bias = params["block"]["conv"]["kernel"], params["block"]["conv"]["bias"]
    assert not np.asarray(bias).any()
    off = 4 / np.sqrt(2 * kernel.size)  # four standard errors
    assert np.std(kernel) == pytest.approx(np.sqrt(2 * np.pi) / 48, rel=off)
    jax.tree.map(np.testing.assert_array_equal, params["norm"], drawn["norm"])


def test_a_model_without_kernels_is_refused_in_one_line():
    model = Model(lambda key: ({"w": jnp.zeros((2, 2))}, {}), lambda *a, **k: a[2], lambda *a: {})
    with pytest.raises(ValueError, match="has no parameter named kernel"):
        for_intervals(model).init(jax.random.key(0))
