"""The small networks have their published sizes, take any image size, and agree with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import small

FACTORIES = {
    "linear": small.linear,
    "mlp": small.mlp,
    "convnet_small": small.convnet_small,
    "convnet": small.convnet,
}


def size(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("linear", 784 * 10 + 10),
        ("mlp", (784 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10),
        ("convnet_small", (16 + 1) * 16 + (256 + 1) * 32 + (7 * 7 * 32 + 1) * 100 + (100 + 1) * 10),
        ("convnet", (25 + 1) * 32 + (800 + 1) * 64 + (7 * 7 * 64 + 1) * 1024 + (1024 + 1) * 10),
    ],
)
def test_parameter_counts(name, count):
    assert size(FACTORIES[name]()) == count


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 11, 3)])
@pytest.mark.parametrize("name", list(FACTORIES))
def test_any_image_size(name, shape):
    model = FACTORIES[name](classes=4, shape=shape, mean=(0.5,) * shape[-1], std=(0.25,) * shape[-1])
    params, state = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (3, *shape))
    logits, after = model.apply(params, state, x, train=True)
    assert logits.shape == (3, 4)
    assert after == state == {}
    taps = model.features(params, state, x)
    assert list(taps) == sorted(taps) == [f"stage{i}" for i in range(len(taps))]
    head = params["head"]
    np.testing.assert_allclose(
        taps[f"stage{len(taps) - 1}"] @ head["kernel"] + head["bias"], logits, atol=1e-5
    )


def test_half_precision():
    for factory in FACTORIES.values():
        full, half = factory(shape=(8, 8, 1)), factory(shape=(8, 8, 1), dtype=jnp.bfloat16)
        params, state = half.init(jax.random.key(0))
        x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
        low, high = half.apply(params, state, x)[0], full.apply(params, state, x)[0]
        assert low.dtype == jnp.float32
        assert 0 < jnp.abs(low - high).max() < 0.05


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["convnet_small", "convnet"])
def test_logits_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    model = FACTORIES[name](shape=(12, 12, 1))
    params, state = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (5, 12, 12, 1))

    def kernel(layer):
        return torch.tensor(np.array(params[layer]["kernel"]).transpose(3, 2, 0, 1).copy())

    def bias(layer):
        return torch.tensor(np.array(params[layer]["bias"]))

    z = torch.tensor(np.array(x).transpose(0, 3, 1, 2).copy())
    for layer in ("conv0", "conv1"):
        if name == "convnet":
            z = f.max_pool2d(f.relu(f.conv2d(z, kernel(layer), bias(layer), padding=2)), 2)
        else:
            z = f.relu(f.conv2d(z, kernel(layer), bias(layer), stride=2, padding=1))
    z = z.permute(0, 2, 3, 1).flatten(1)  # our rows are flattened channels last
    z = f.relu(f.linear(z, torch.tensor(np.array(params["hidden"]["kernel"]).T.copy()), bias("hidden")))
    z = f.linear(z, torch.tensor(np.array(params["head"]["kernel"]).T.copy()), bias("head"))
    np.testing.assert_allclose(model.apply(params, state, x)[0], z.numpy(), rtol=1e-4, atol=1e-5)
