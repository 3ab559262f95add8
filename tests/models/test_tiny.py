"""The network for images of 8 x 8."""

import jax
import pytest

from robustjax.models.small import tiny


@pytest.mark.slow
def test_layers_and_taps():
    model = tiny()
    params, state = model.init(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == (9 + 1) * 32 + (9 * 32 + 1) * 64 + (4 * 4 * 64 + 1) * 128 + (128 + 1) * 10
    x = jax.numpy.zeros((3, 8, 8, 1))
    assert model.apply(params, state, x)[0].shape == (3, 10)
    assert [v.shape[1] for v in model.features(params, state, x).values()] == [32, 64, 128]
