"""Evaluations over data sets do not depend on how the data were cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import evaluation
from robustjax.types import Batch

X = np.random.default_rng(0).uniform(size=(11, 2, 2, 1)).astype(np.float32)
Y = np.arange(11, dtype=np.int32)


def cut(size):
    for first in range(0, len(X), size):
        rows = np.minimum(np.arange(first, first + size), len(X) - 1)
        yield (
            Batch(jnp.asarray(X[rows]), jnp.asarray(Y[rows])),
            jnp.asarray(np.arange(first, first + size) < len(X)),
        )


def noisy(keys, batch, scale):
    noise = jax.vmap(jax.random.normal)(keys)
    return {"label": batch.label, "value": batch.image.sum(axis=(1, 2, 3)) + scale * noise}


def test_result_is_the_same_for_every_batch_size():
    run = evaluation.mapped(noisy)
    whole = run(jax.random.key(0), cut(11), 0.5)
    for size in (1, 4, 16):
        part = run(jax.random.key(0), cut(size), 0.5)
        np.testing.assert_array_equal(part["label"], Y)
        np.testing.assert_allclose(part["value"], whole["value"], rtol=1e-6)
    assert np.std(whole["value"] - X.sum((1, 2, 3))) > 0.1


def test_a_sweep_over_an_argument_compiles_once():
    traces = []

    def counted(keys, batch, scale):
        traces.append(1)
        return noisy(keys, batch, scale)

    run = evaluation.mapped(counted)
    for scale in np.linspace(0, 1, 10):
        run(jax.random.key(0), cut(4), scale)
    assert len(traces) == 1


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="no batch given"):
        evaluation.mapped(noisy)(jax.random.key(0), [], 0.5)
