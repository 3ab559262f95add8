"""Translators by name, and as module:name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.catalog.translators import TRANSLATORS, Sizes, network, translator
from robustjax.types import Network

SHAPE, SIZES = (16, 16, 1), Sizes(width=8, blocks=1)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_every_kind_becomes_a_function_that_compiled_code_takes(name):
    model = network(name, shape=SHAPE, sizes=SIZES)
    assert model is network(name, shape=SHAPE, sizes=SIZES)  # one object, so that programs are shared
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(model.init, jax.random.key(0)))
    translate = translator(name, Network(model, *zeros, {}), sizes=SIZES, until=0.1, steps=1)
    x = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    assert jax.eval_shape(lambda t, k, x: t(k, x), translate, keys, x).shape == x.shape


def test_ones_own_needs_no_network_and_others_do(tmp_path, monkeypatch):
    (tmp_path / "own_purifier.py").write_text("def halved(key, x):\n    return x / 2\n")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(
        translator("own_purifier:halved", None)(jax.random.key(0), jnp.ones((1, 2, 2, 1))), 0.5
    )
    with pytest.raises(ValueError, match="dae has no trained network"):
        translator("dae", None)
    with pytest.raises(ValueError, match="did you mean ddpm"):
        translator("dpm", None)
