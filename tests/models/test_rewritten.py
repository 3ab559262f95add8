"""Somebody's network, rewritten to the CPU convolution, gives the same values and gradients, in the fast order."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robustjax.models.cpu.rewritten import with_fast_convolutions

RNG = np.random.default_rng(0)
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
FIRST, SECOND, THIRD = (
    jnp.asarray(RNG.normal(size=shape) / 6, jnp.float32)
    for shape in ((3, 3, 3, 8), (3, 3, 8, 8), (3, 3, 1, 8))
)
X = jnp.asarray(RNG.uniform(size=(2, 9, 8, 3)), jnp.float32)


def conv(x, kernel, stride=1, order=NHWC, **settings):
    if order == NCHW:
        kernel = kernel.transpose(3, 2, 0, 1)
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=order, **settings)


def plain(x):
    x = jax.nn.relu(conv(x, FIRST, 2))
    return conv(x, SECOND).sum(axis=(1, 2))


def channels_first(x):
    x = jax.nn.relu(conv(x.transpose(0, 3, 1, 2), FIRST, order=NCHW))
    return conv(x, SECOND, 2, NCHW).mean(axis=(2, 3))


def nested(x):
    x = jax.jit(lambda x: conv(x, FIRST))(x)
    x = jax.checkpoint(lambda x: jnp.tanh(conv(x, SECOND)))(x)
    x, more = lax.scan(
        lambda x, scale: (x + jax.nn.gelu(conv(x, scale * SECOND)), x.mean()), x, jnp.arange(3.0)
    )
    return jax.jit(lambda x: conv(x, SECOND, 2).sum(axis=(1, 2)))(x) + more.sum()


def left_alone(x):
    x = conv(conv(x, FIRST), THIRD, feature_group_count=8)
    x = lax.fori_loop(0, 2, lambda i, x: conv(x, SECOND, rhs_dilation=(2, 2)), x)
    return lax.cond(x.sum() > 0, lambda x: conv(x, SECOND), lambda x: -x, x).sum(axis=(1, 2))


NETWORKS = [plain, channels_first, nested, left_alone]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)
def test_values_and_gradients_are_the_same(network):
    @jax.jit
    def both(x):
        found = []
        for f in (network, with_fast_convolutions(network)):
            out, pull = jax.vjp(f, x)
            found.append((out, pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))))
        return found

    (value, slope), (ours, our_slope) = both(X)
    scale = np.abs(slope).max()
    np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
    np.testing.assert_allclose(our_slope, slope, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("network", NETWORKS[:3], ids=lambda f: f.__name__)
def test_no_kernel_is_swapped_in_an_attack(network):
    """XLA:CPU hands a convolution to its fast routine only if it is in NHWC / HWIO / NHWC order."""

    def orders(f):
        slope = jax.grad(lambda x: f(x).sum())
        attack = lambda x: lax.fori_loop(0, 2, lambda i, x: x + 0.1 * jnp.sign(slope(x)), x)
        text = jax.jit(attack).lower(X).as_text()
        return set(re.findall(r"dim_numbers = (.*?->\[[^]]*\])", text))

    assert orders(with_fast_convolutions(network)) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert len(orders(network)) > 1


def test_a_function_without_convolutions_runs_as_it_is():
    network = lambda x: {"logits": x.sum(axis=(1, 2))}
    assert set(with_fast_convolutions(network)(X)) == {"logits"}
