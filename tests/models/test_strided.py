"""The strided network: its convolution is jax's, under vmap over parameters as well."""

import jax
import numpy as np

from robustjax.models.small import Conv, strided

SHAPES = [(16, 16, 3), (7, 9, 1)]


def test_convolution_is_jaxs():
    module, order = Conv(5, 3, stride=2, many=True), ("NHWC", "HWIO", "NHWC")

    @jax.jit
    def both(key):
        pairs = []
        for shape in SHAPES:
            x = jax.random.normal(key, (2, *shape))
            variables = module.init(key, x)
            kernel = variables["params"]["kernel"]
            theirs = jax.lax.conv_general_dilated(
                x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=order
            )
            bias = variables["params"]["bias"]
            pairs.append((module.apply(variables, x), jax.nn.relu(theirs + bias[None, None, None])))
        return pairs

    for ours, theirs in both(jax.random.key(0)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_many_networks_at_once():
    model = strided(classes=4, shape=(8, 8, 3), widths=(6,), hidden=5, mean=(0.5,) * 3, std=(0.2,) * 3)

    @jax.jit
    def logits(keys, x):
        params, state = jax.vmap(model.init)(keys)
        one = jax.tree.map(lambda a: a[1], (params, state))
        together = jax.vmap(lambda p, s, x: model.apply(p, s, x)[0])(params, state, x)
        return together[1], model.apply(*one, x[1])[0], model.features(*one, x[1])

    x = jax.random.uniform(jax.random.key(0), (2, 3, 8, 8, 3))
    together, alone, taps = logits(jax.random.split(jax.random.key(1), 2), x)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert [t.shape for t in taps.values()] == [(3, 6), (3, 5)] and max(taps) == "stage1"
