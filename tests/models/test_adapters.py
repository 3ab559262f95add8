"""A flax module behind `Model`: normalised inside, pure, float32 out, state only moved by training."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.types import frozen

SHAPE = (4, 4, 2)


class Net(nn.Module):
    """Everything an adapter must handle: statistics, noise, taps and a low precision."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (1, 1), dtype=self.dtype)(x)
        x = layers.batch_norm(x, train=train, name="norm", dtype=self.dtype)
        self.sow("features", "stage0", x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        self.sow("features", "stage1", x)
        return nn.Dense(5, dtype=self.dtype)(x)


class Identity(nn.Module):
    """Give back what the network sees."""

    @nn.compact
    def __call__(self, x, train):
        return x


def images(count=6, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE))


def test_normalisation_is_inside():
    model = from_flax(Identity(), shape=SHAPE, mean=(0.5, 0.25), std=(0.5, 2.0))
    params, state = model.init(jax.random.key(0))
    x = images()
    expected = (np.asarray(x, np.float64) - [0.5, 0.25]) / [0.5, 2.0]
    np.testing.assert_allclose(model.apply(params, state, x)[0], expected, rtol=1e-6, atol=1e-7)
    assert state == {}
    plain = from_flax(Identity(), shape=SHAPE)
    chex.assert_trees_all_equal(plain.apply({}, {}, x)[0], x)


def test_evaluation_returns_the_very_state():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    assert set(state) == {"batch_stats"}
    out, after = model.apply(params, state, images())
    assert after is state
    assert out.shape == (6, 5)


def test_training_moves_the_statistics_as_defined():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    before = jax.tree.map(np.array, state)
    x = images()
    _, after = model.apply(params, state, x, train=True, key=jax.random.key(1))
    chex.assert_trees_all_equal(state, before)
    conv = params["Conv_0"]
    seen = np.asarray(x, np.float64) @ np.asarray(conv["kernel"][0, 0]) + np.asarray(conv["bias"])
    statistics = after["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * seen.var((0, 1, 2)), rtol=1e-4)


def test_the_key_draws_the_noise():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    first, again, other = (
        model.apply(params, state, images(), train=True, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert jnp.abs(first - other).max() > 0


def test_features_are_pooled_in_order_of_depth():
    model = from_flax(Net(), shape=SHAPE, mean=(0.5, 0.5), std=(0.5, 0.5))
    params, state = model.init(jax.random.key(0))
    x = images()
    for features in (model.features, jax.jit(model.features)):
        taps = features(params, state, x)
        assert list(taps) == ["stage0", "stage1"]
        chex.assert_shape([taps["stage0"], taps["stage1"]], [(6, 3), (6, 48)])
    conv = params["Conv_0"]
    seen = (np.asarray(x, np.float64) - 0.5) / 0.5 @ np.asarray(conv["kernel"][0, 0]) + np.asarray(
        conv["bias"]
    )
    np.testing.assert_allclose(taps["stage0"], seen.mean((1, 2)) / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)
    logits = taps["stage1"] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(model.apply(params, state, x)[0], logits, rtol=1e-4, atol=1e-5)


def test_half_precision_computes_low_and_returns_high():
    full, half = (from_flax(Net(dtype), shape=SHAPE) for dtype in (jnp.float32, jnp.bfloat16))
    params, state = half.init(jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves((params, state))} == {jnp.dtype(jnp.float32)}
    low, (after, high) = half.apply(params, state, images()), full.apply(params, state, images())[::-1]
    assert low[0].dtype == high.dtype == jnp.float32
    assert 0 < jnp.abs(low[0] - high).max() < 0.1
    chex.assert_trees_all_equal_structs(after, low[1])
    slope = jax.grad(lambda x: frozen(half, params, state)(x).sum())(images())
    assert slope.dtype == jnp.float32
    assert {a.dtype for a in half.features(params, state, images()).values()} == {jnp.dtype(jnp.float32)}


def test_every_transformation(variant):
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    logits_fn = frozen(model, params, state)
    chex.assert_trees_all_close(variant(logits_fn)(images()), logits_fn(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mean=(0.5,)), "mean is"),
        (dict(std=(0.5, 0.5, 0.5)), "std is"),
        (dict(std=(0.5, 0.0)), "must be positive"),
        (dict(std=(0.5, float("nan"))), "must be positive"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        from_flax(Identity(), shape=SHAPE, **settings)
