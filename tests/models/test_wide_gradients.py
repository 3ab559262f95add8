"""Networks that compute in bfloat16 sum the gradients of their parameters in float32, over examples and devices."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from robustjax import training
from robustjax.losses import standard
from robustjax.models import layers, small
from robustjax.models.cpu import convolve, doubled, multiplied
from robustjax.runtime import data_mesh
from robustjax.types import Batch

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (64, 6, 6, 3))


def bf16(x):
    return x.astype(jnp.bfloat16)


MAPS = {
    "convolution": (lambda x, k: convolve(x, k, (1, 1), "SAME"), (3, 3, 3, 8)),
    "strided": (lambda x, k: convolve(x, k, (2, 2), "SAME"), (3, 3, 3, 8)),
    "grouped": (lambda x, k: convolve(x, k, (1, 1), "SAME", feature_group_count=3), (3, 3, 1, 6)),
    "transposed": (doubled, (4, 4, 3, 8)),
    "affine": (lambda x, k: multiplied(x.reshape(-1, 3), k), (3, 8)),
}


@pytest.mark.parametrize("name", MAPS)
def test_kernels_of_float32_get_gradients_that_are_not_rounded(name):
    """With x and kernel on the grid of bfloat16 it is the gradient in float32, but for the order of sums."""
    apply, shape = MAPS[name]
    x, kernel = bf16(X), bf16(jax.random.normal(KEY, shape)).astype(jnp.float32)

    def total(x, kernel):
        return apply(x, kernel).astype(jnp.float32).sum()

    assert apply(x, kernel).dtype == jnp.bfloat16
    gradient_of_x, gradient = jax.jit(jax.grad(total, (0, 1)))(x, kernel)
    assert (gradient_of_x.dtype, gradient.dtype) == (jnp.bfloat16, jnp.float32)
    expected = jax.jit(jax.grad(total, 1))(x.astype(jnp.float32), kernel)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-4)
    # Rounded to bfloat16, some would be off by a thousandth: bfloat16 has 8 bits.
    assert np.abs(bf16(gradient).astype(jnp.float32) - gradient).max() > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
def test_layers_are_drawn_and_computed_as_those_of_flax(groups):
    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.conv(x, 4, 3, stride=2, bias=True, groups=groups, name="conv")
            return layers.linear(x, 5, name="head")

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            pads = ((1, 1), (1, 1))
            bias = layers.bias_uniform(9 * 4 // groups)
            x = nn.Conv(
                4, (3, 3), (2, 2), pads, feature_group_count=groups, name="conv",
                kernel_init=layers.fan_in_uniform, bias_init=bias,
            )(x)  # fmt: skip
            init, bias = layers.fan_in_uniform, layers.bias_uniform(4)
            return nn.Dense(5, kernel_init=init, bias_init=bias, name="head")(x)

    x = jax.random.normal(KEY, (2, 6, 6, 4))
    ours, theirs = (net.init(KEY, x) for net in (Ours(), Theirs()))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_allclose(Ours().apply(ours, x), Theirs().apply(theirs, x), rtol=1e-5, atol=1e-5)


def test_devices_exchange_gradients_in_float32():
    """Sums of bfloat16 are promoted to float32 by XLA for CPUs, which says so in the name of what they apply."""
    model, tx = small.convnet_small(shape=(8, 8, 3), dtype=jnp.bfloat16), optax.sgd(0.1)
    mesh = data_mesh(jax.devices()[:8])
    whole, rows = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("data",)))
    state = jax.eval_shape(lambda key: training.start(key, model, tx), KEY)
    batch = Batch(jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((16,), jnp.int32))

    def placed(tree, sharding):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    step = training.step(standard(model), tx).trace(placed(state, whole), placed(batch, rows))
    exchanged = re.findall(r" = (.*?) all-reduce\(.*?to_apply=(\S+)", step.lower().compile().as_text())
    sides = [dims for kind, _ in exchanged for dims in re.findall(r"f32\[([\d,]*)\]", kind)]
    sizes = [np.prod([int(side) for side in dims.split(",") if side], dtype=int) for dims in sides]
    assert sum(sizes) >= sum(a.size for a in jax.tree.leaves(state.params))
    assert not any("bf16" in kind or "promoted" in applied for kind, applied in exchanged)
