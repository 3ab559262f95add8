"""Heads on frozen activations: the converged one is stationary, the published one is Adam by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.analysis import linear_head
from robustjax.data import order


@pytest.fixture
def known():
    rng = np.random.default_rng(0)
    label = np.arange(40) % 3
    return (2 * np.eye(3)[label] @ rng.normal(size=(3, 5)) + rng.normal(size=(40, 5)) + 3).astype(
        np.float32
    ), label


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_the_converged_head_is_stationary(known):
    """W + C sum_i f_i (p_i - y_i) = 0 for standardised f, and the errors sum to 0 for the bias."""
    features, label = known
    layer = linear_head.converged(features, label, classes=3, strength=0.5)
    error = softmax(np.asarray(layer(jnp.asarray(features)), np.float64)) - np.eye(3)[label]
    std, mean = features.std(axis=0), features.mean(axis=0)
    scaled, weight = (features - mean) / std, np.asarray(layer.weight) * std[:, None]
    np.testing.assert_allclose(weight, -0.5 * scaled.T @ error, atol=2e-4)
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=2e-3)


def test_the_published_head_is_adam(known):
    """Two epochs of 40 examples in batches of 16: 16, 16 and 8; weight decay joins the gradient."""
    features, label = known
    settings = {"classes": 3, "rate": 0.1, "weight_decay": 0.01, "seed": 3}
    got = linear_head.rival10(features, label, epochs=2, batch_size=16, **settings)
    start = linear_head.rival10(features, label, epochs=1, batch_size=40, **settings | {"rate": 0.0})
    assert np.abs(np.asarray(start.weight)).max() <= 5**-0.5  # PyTorch's initial weights
    w = np.concatenate([np.asarray(start.weight), np.asarray(start.bias)[None]]).astype(np.float64)
    m, v, ones = np.zeros_like(w), np.zeros_like(w), np.ones((40, 1))
    whole, step = np.concatenate([features, ones], axis=1), 0
    for epoch in range(2):
        rows = order.permutation(40, seed=3, epoch=epoch)
        for batch in (rows[:16], rows[16:32], rows[32:]):
            step += 1
            error = softmax(whole[batch] @ w) - np.eye(3)[label[batch]]
            g = whole[batch].T @ error / len(batch) + 0.01 * w
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(got.weight, w[:-1], atol=1e-4)
    np.testing.assert_allclose(got.bias, w[-1], atol=1e-4)


def test_what_no_head_can_be_fitted_to(known):
    features, label = known
    for fit in (linear_head.converged, linear_head.rival10):
        with pytest.raises(ValueError, match="class 3 of 4 has no example"):
            fit(features, label, classes=4)
        with pytest.raises(ValueError, match="finite"):
            fit(np.where(features > 3, np.nan, features), label, classes=3)
        with pytest.raises(ValueError, match=r"must be \(n, d\)"):
            fit(features[0], label, classes=3)
    with pytest.raises(ValueError, match="strength is 0"):
        linear_head.converged(features, label, classes=3, strength=0)
    assert jax.tree.leaves(linear_head.rival10(features, label, classes=3, epochs=1))[0].shape == (5, 3)
