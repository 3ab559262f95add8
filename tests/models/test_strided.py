"""The strided network: its convolution is jax's, under vmap over parameters as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import strided


@pytest.mark.parametrize("shape", [(16, 16, 3), (7, 9, 1)])
def test_convolution_is_jaxs(shape):
    module = strided.Patches(5, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    variables = jax.jit(module.init)(jax.random.key(1), x)
    expected = jax.lax.conv_general_dilated(
        x, variables["params"]["kernel"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = module.apply(variables, x)
    np.testing.assert_allclose(got, expected + variables["params"]["bias"], atol=1e-5)


def test_many_networks_at_once():
    model = strided.strided(
        classes=4, shape=(8, 8, 3), widths=(6, 8), hidden=5, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    x = jax.random.uniform(jax.random.key(0), (2, 3, 8, 8, 3))
    params, state = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(1), 2))
    both = jax.jit(jax.vmap(lambda p, s, x: model.apply(p, s, x)[0]))(params, state, x)
    one = jax.jit(model.apply)(*jax.tree.map(lambda a: a[1], (params, state)), x[1])[0]
    np.testing.assert_allclose(both[1], one, atol=1e-5)
    taps = jax.eval_shape(model.features, *jax.tree.map(lambda a: a[0], (params, state)), x[0])
    assert [t.shape for t in taps.values()] == [(3, 6), (3, 8), (3, 5)] and max(taps) == "stage2"
