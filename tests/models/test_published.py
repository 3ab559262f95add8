"""Networks for large images and variants of published checkpoints: sizes, taps, pooling, training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import resnet_imagenet
from robustjax.models.densenet_imagenet import densenet121_imagenet
from robustjax.models.preact import preact_resnet18
from robustjax.models.published import preact_resnet18_rice, preact_resnet18_wong
from robustjax.models.published_wide import wideresnet_gowal
from robustjax.models.resnet_imagenet import resnet18_imagenet, resnet50_imagenet
from robustjax.models.wideresnet import wideresnet


def size(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_parameter_counts():
    assert size(resnet50_imagenet()) == 25_557_032  # as torchvision states them
    assert size(densenet121_imagenet()) == 7_978_856
    assert size(resnet18_imagenet()) == 11_689_512
    assert size(preact_resnet18_wong()) == size(preact_resnet18()) == 11_171_146
    assert size(preact_resnet18_rice()) == 11_171_146 + 2 * 512
    assert size(wideresnet_gowal(depth=28, width=10)) == size(wideresnet(depth=28, width=10)) == 36_479_194


@pytest.mark.parametrize(
    ("factory", "settings", "side", "widths"),
    [
        (resnet50_imagenet, {}, 65, [64, 256, 512, 1024, 2048]),
        (resnet18_imagenet, {}, 64, [64, 64, 128, 256, 512]),
        (preact_resnet18_wong, {}, 32, [64, 64, 128, 256, 512]),
        (preact_resnet18_rice, {}, 32, [64, 64, 128, 256, 512, 512]),
        (wideresnet_gowal, dict(depth=16, width=2), 32, [16, 32, 64, 128, 128]),
    ],
)
def test_taps_in_order_of_depth(factory, settings, side, widths):
    model = factory(classes=3, shape=(side, side, 3), **settings)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    taps = jax.eval_shape(model.features, params, state, x)
    assert [(name, tap.shape) for name, tap in taps.items()] == [
        (f"stage{i}", (2, width)) for i, width in enumerate(widths)
    ]
    logits, after = jax.eval_shape(lambda *args: model.apply(*args, train=True), params, state, x)
    assert logits.shape == (2, 3)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow
def test_training_low_precision_and_the_last_tap():
    settings = dict(depth=10, width=1, classes=4, shape=(8, 8, 3))
    full, half = wideresnet_gowal(**settings), wideresnet_gowal(**settings, dtype=jnp.bfloat16)
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) / max(leaf.size, 64) ** 0.5,
        jax.eval_shape(full.init, jax.random.key(0)),
    )
    x = rng.uniform(size=(4, 8, 8, 3)).astype(np.float32)

    @jax.jit
    def run(params, state, x):
        trained = [model.apply(params, state, x, train=True) for model in (full, half)]
        return trained, full.apply(params, state, x)[0], full.features(params, state, x)

    ((high, after), (low, _)), logits, taps = run(params, state, x)
    assert low.dtype == jnp.float32
    assert 0 < jnp.abs(low - high).max() < 0.05 * jnp.abs(high).max()
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after)))
    head = params["head"]  # reads the last tap
    np.testing.assert_allclose(
        taps["stage4"] @ head["kernel"] + head["bias"][None], logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(8, 7), (1, 4)])
def test_pooling_is_that_of_windows(shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))

    def windows(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def slices(x):
        return resnet_imagenet.max_pooled(x)

    def slope(pool):
        return jax.grad(lambda x: jnp.sin(pool(nn.relu(x))).sum())(x)

    np.testing.assert_array_equal(slices(nn.relu(x)), windows(nn.relu(x)))
    np.testing.assert_allclose(slope(slices), slope(windows), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [dict(depth=29), dict(width=0)])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        wideresnet_gowal(**settings)
