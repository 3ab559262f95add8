"""The small networks have their published sizes, take any image size, and agree with PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import small
from robustjax.types import frozen

FACTORIES = {
    "linear": small.linear,
    "mlp": small.mlp,
    "convnet_small": small.convnet_small,
    "convnet": small.convnet,
}


def size(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Of networks that have been trained and recorded: a key must give the weights that it has always given, and they the
# same logits. The first ones of the first image, from when each network was a module of its own.
RECORDED = {
    "convnet_small": ((9, 11, 3), [0.0361973, 0.10032073, 0.10058986]),
    "convnet": ((9, 11, 3), [-0.01025368, 0.06396716, 0.04389828]),
    "tiny": ((8, 8, 1), [0.03364658, 0.09933731, 0.06858464]),
    "pooled": ((9, 11, 3), [0.02262531, 0.12420638, 0.091244]),
    "strided": ((9, 7, 3), [-0.10226737, 0.12548608, -0.1186881]),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_key_gives_the_network_that_it_always_gave(name):
    shape, expected = RECORDED[name]
    model = getattr(small, name)(classes=3, shape=shape)
    x = jax.random.uniform(jax.random.key(1), (2, *shape))
    logits = jax.jit(lambda key: model.apply(*model.init(key), x)[0])(jax.random.key(0))
    np.testing.assert_allclose(logits[0], expected, atol=1e-5)


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


def test_the_classifier_of_learned_mnist_sets_has_the_published_number_of_parameters():
    assert size(small.convnet_small(widths=(32, 64), hidden=1024)) == 3_255_914


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 11, 3)])
@pytest.mark.parametrize("name", list(FACTORIES))
def test_any_image_size(name, shape):
    model = FACTORIES[name](classes=4, shape=shape, mean=(0.5,) * shape[-1], std=(0.25,) * shape[-1])
    params, state = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (3, *shape))
    logits, after = jax.jit(lambda *args: model.apply(*args, train=True))(params, state, x)
    assert logits.shape == (3, 4)
    assert after == state == {}
    taps = jax.jit(model.features)(params, state, x)
    assert list(taps) == sorted(taps) == [f"stage{i}" for i in range(len(taps))]
    head = params["head"]
    np.testing.assert_allclose(
        taps[f"stage{len(taps) - 1}"] @ head["kernel"] + head["bias"][None], logits, atol=1e-5
    )


@pytest.mark.parametrize("name", ["convnet_small", "convnet"])
def test_half_precision(name):
    full, half = (FACTORIES[name](shape=(8, 8, 1), dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    params, state = jax.jit(half.init)(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
    run = jax.jit(lambda params, state, x: [model.apply(params, state, x)[0] for model in (full, half)])
    high, low = run(params, state, x)
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


@pytest.mark.parametrize("name", ["convnet_small", "convnet"])
def test_a_sharded_batch_needs_no_communication(name):
    model = FACTORIES[name](shape=(12, 12, 1))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, split = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("data",)))

    @functools.partial(jax.jit, in_shardings=(everywhere, everywhere, split), out_shardings=split)
    def slope(params, state, x):
        return jax.grad(lambda x: frozen(model, params, state)(x).max(axis=1).sum())(x)

    program = (
        slope.lower(params, state, jax.ShapeDtypeStruct((4, 12, 12, 1), jnp.float32)).compile().as_text()
    )
    assert not [
        word for word in ("all-gather", "all-to-all", "all-reduce", "collective-permute") if word in program
    ]
