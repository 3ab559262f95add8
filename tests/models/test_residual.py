"""ResNets, wide and dense networks: published sizes, published taps, PyTorch's numbers."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models.densenet import densenet
from robustjax.models.preact import preact_resnet18
from robustjax.models.resnet import resnet18, resnet34, resnet50
from robustjax.models.resnet_small import resnet8
from robustjax.models.wideresnet import wideresnet


def size(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("factory", "settings", "count"),
    [
        # Stem 12 x 32, blocks of 32, 64 and 128 channels, head: 3,520 + 18,560 + 57,728 + 230,144 + 1,290.
        (resnet8, {}, 311_242),
        (resnet18, {}, 11_173_962),
        (resnet34, {}, 21_282_122),
        (resnet50, {}, 23_520_842),
        (preact_resnet18, {}, 11_171_146),
        (wideresnet, dict(depth=28, width=2), 1_467_610),
        (wideresnet, dict(depth=28, width=10), 36_479_194),
        (wideresnet, dict(depth=34, width=10), 46_160_474),
        (wideresnet, dict(depth=40, width=4), 8_949_210),
        (wideresnet, dict(depth=40, width=10), 55_841_754),
        (wideresnet, dict(depth=70, width=16), 266_796_506),
        (densenet, {}, 769_162),
        (densenet, dict(classes=11), 769_505),
        (densenet, dict(classes=43), 780_481),
        (densenet, dict(classes=100), 800_032),
        (densenet, dict(depth=40), 176_122),
        (densenet, dict(depth=22), 71_686),
    ],
)
def test_parameter_counts(factory, settings, count):
    assert size(factory(**settings)) == count


def test_preact_count_by_hand():
    def block(narrow, wide):
        return 2 * narrow + 9 * narrow * wide + 2 * wide + 9 * wide * wide + (narrow != wide) * narrow * wide

    widths = [64, 64, 128, 256, 512]
    groups = sum(block(a, b) + block(b, b) for a, b in pairwise(widths))
    assert size(preact_resnet18(classes=7)) == 27 * 64 + groups + 512 * 7 + 7


@pytest.mark.parametrize(
    ("factory", "settings", "widths"),
    [
        (resnet8, {}, [32, 32, 64, 128]),
        (resnet18, {}, [64, 64, 128, 256, 512]),
        (resnet50, {}, [64, 256, 512, 1024, 2048]),
        (preact_resnet18, {}, [64, 64, 128, 256, 512]),
        (wideresnet, dict(depth=40, width=4), [16, 64, 128, 256, 256]),
        (densenet, {}, [24, 108, 150, 342]),
    ],
)
def test_taps_in_order_of_depth(factory, settings, widths):
    model = factory(**settings)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    taps = jax.eval_shape(model.features, params, state, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert [(name, tap.shape) for name, tap in taps.items()] == [
        (f"stage{i}", (2, width)) for i, width in enumerate(widths)
    ]


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        (wideresnet, dict(depth=28 + 1)),
        (wideresnet, dict(width=0)),
        (densenet, dict(depth=4)),
        (densenet, dict(growth=0)),
    ],
)
def test_bad_settings(factory, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        factory(**settings)


def randomised(model, seed=0):
    """Draw kernels of He's size, and statistics, scales and biases away from 0 and 1 so that each matters."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0, 0.2, leaf.shape)
        return np.asarray(values, np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(seed)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "settings"), [(wideresnet, dict(depth=10, width=1)), (densenet, dict(depth=10))]
)
def test_training_and_low_precision(factory, settings):
    settings = dict(classes=4, shape=(8, 8, 3), **settings)
    full, half = factory(**settings), factory(**settings, dtype=jnp.bfloat16)
    params, state = randomised(full)
    x = np.random.default_rng(1).uniform(size=(4, 8, 8, 3)).astype(np.float32)

    @jax.jit
    def run(params, state, x):
        trained, lower = full.apply(params, state, x, train=True), half.apply(params, state, x, train=True)
        return trained, lower, full.apply(params, state, x)[0], full.features(params, state, x)

    (high, after), (low, other), logits, taps = run(params, state, x)
    assert low.dtype == jnp.float32
    assert 0 < jnp.abs(low - high).max() < 0.05 * jnp.abs(high).max()
    assert {leaf.dtype for leaf in jax.tree.leaves(other)} == {jnp.dtype(jnp.float32)}
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True))
    head = params["head"]  # reads the last tap
    np.testing.assert_allclose(
        logits, list(taps.values())[-1] @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-4
    )


class Torch:
    """Our parameters in PyTorch's functions, NCHW; a scope is the path of a submodule."""

    def __init__(self, torch, params, state):
        self.f, self.torch = torch.nn.functional, torch
        self.params, self.statistics = params, state["batch_stats"]

    def tensor(self, tree, path):
        for key in path.split("/"):
            tree = tree[key]
        return self.torch.tensor(np.array(tree))

    def conv(self, x, path, stride=1):
        kernel = self.tensor(self.params, f"{path}/kernel").permute(3, 2, 0, 1)
        return self.f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(self, x, path):
        mean, var = (self.tensor(self.statistics, f"{path}/{name}") for name in ("mean", "var"))
        scale, bias = (self.tensor(self.params, f"{path}/{name}") for name in ("scale", "bias"))
        return self.f.batch_norm(x, mean, var, scale, bias, training=False, eps=1e-5)

    def act(self, x, path):
        return self.f.relu(self.norm(x, path))

    def head(self, x):
        return x.mean((2, 3)) @ self.tensor(self.params, "head/kernel") + self.tensor(
            self.params, "head/bias"
        )

    def resnet18(self, x):
        x = self.act(self.conv(x, "conv1"), "norm1")
        for i in range(1, 5):
            for j in range(2):
                at, stride = f"stage{i}_block{j}", 2 if i > 1 and j == 0 else 1
                y = self.act(self.conv(x, f"{at}/conv1", stride), f"{at}/norm1")
                y = self.norm(self.conv(y, f"{at}/conv2"), f"{at}/norm2")
                if stride == 2:
                    x = self.norm(self.conv(x, f"{at}/shortcut_conv", 2), f"{at}/shortcut_norm")
                x = self.f.relu(x + y)
        return self.head(x)

    def resnet8(self, x):
        x = self.f.pixel_unshuffle(
            x, 2
        )  # colours first, then the places within a block; ours are the other way
        x = x.reshape(len(x), 3, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        x = self.act(self.conv(x, "conv1"), "norm1")
        for i in range(1, 4):
            at, stride = f"stage{i}_block0", 2 if i > 1 else 1
            y = self.act(self.conv(x, f"{at}/conv1", stride), f"{at}/norm1")
            y = self.norm(self.conv(y, f"{at}/conv2"), f"{at}/norm2")
            if stride == 2:
                x = self.norm(self.conv(x, f"{at}/shortcut_conv", 2), f"{at}/shortcut_norm")
            x = self.f.relu(x + y)
        return self.head(x)

    def pre_activated(self, x, groups, first_widens):
        for i in range(1, groups + 1):
            for j in range(2 if groups == 4 else 1):
                at, stride = f"stage{i}_block{j}", 2 if i > 1 and j == 0 else 1
                y = self.act(x, f"{at}/norm1")
                if stride == 2 or (first_widens and i == 1 and j == 0):
                    x = self.conv(y, f"{at}/shortcut_conv", stride)
                y = self.act(self.conv(y, f"{at}/conv1", stride), f"{at}/norm2")
                x = x + self.conv(y, f"{at}/conv2")
        return x

    def preact_resnet18(self, x):
        return self.head(self.pre_activated(self.conv(x, "conv1"), 4, first_widens=False))

    def wrn_10_2(self, x):
        return self.head(self.act(self.pre_activated(self.conv(x, "conv1"), 3, first_widens=True), "norm"))

    def densenet22(self, x):
        x = self.conv(x, "conv1")
        for i in range(1, 4):
            for j in range(3):
                at = f"stage{i}_layer{j}"
                y = self.conv(self.act(x, f"{at}/norm1"), f"{at}/conv1")
                x = self.torch.cat([x, self.conv(self.act(y, f"{at}/norm2"), f"{at}/conv2")], 1)
            x = self.act(x, f"norm{i}")
            if i < 3:
                x = self.f.avg_pool2d(self.conv(x, f"transition{i}"), 2)
        return self.head(x)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "factory", "settings"),
    [
        ("resnet8", resnet8, {}),
        ("resnet18", resnet18, {}),
        ("preact_resnet18", preact_resnet18, {}),
        ("wrn_10_2", wideresnet, dict(depth=10, width=2)),
        ("densenet22", densenet, dict(depth=22)),
    ],
)
def test_logits_are_those_of_pytorch(name, factory, settings):
    torch = pytest.importorskip("torch")
    model = factory(shape=(16, 16, 3), **settings)
    params, state = randomised(model)
    x = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    expected = getattr(Torch(torch, params, state), name)(
        torch.tensor(x.transpose(0, 3, 1, 2).copy())
    ).numpy()
    actual = jax.jit(model.apply)(params, state, x)[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
