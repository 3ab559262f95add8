"""A training that was killed and resumed ends with the bits of one that was not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import logit, training
from robustjax.models import small
from robustjax.runtime import Checkpoints, Run, data_mesh, over_data, progress
from robustjax.types import Batch

MESH = data_mesh(jax.devices()[:2])
MODEL = small.mlp(classes=3, shape=(4, 4, 1), widths=(16,))
TX = optax.sgd(0.1, momentum=0.9)


def batch(step: int) -> Batch:
    draw = np.random.default_rng(step)
    image = draw.uniform(size=(16, 4, 4, 1)).astype(np.float32)
    return jax.device_put(Batch(image, draw.integers(0, 3, 16).astype(np.int32)), over_data(MESH))  # pyright: ignore


def noisy(params, state, batch, key):
    image = batch.image + 0.1 * jax.random.normal(key, batch.image.shape)
    logits, state = MODEL.apply(params, state, image, train=True)
    return logit.cross_entropy(logits, batch.label).mean(), (state, {"largest": jnp.abs(logits).max()})


STEP = training.step(noisy, TX)


def train(out, updates: int, killed_at: int | None = None):
    """Train, saving every fourth step, and leave without ending anything at `killed_at`."""
    run, saved = Run(out, {"seed": 0}), Checkpoints(out / "checkpoints")
    state = training.start(jax.random.key(0), MODEL, TX, MESH, ema=True)
    state, done = saved.restore(state) or (state, 0)
    run.resume(done)
    for i, _ in progress(range(updates), start=done, total=updates):
        state, metrics = STEP(state, batch(i))
        run.record(i, metrics)
        if i % 4 == 3:
            saved.save(i + 1, state)
        if i == killed_at:
            saved.wait()
            return state
    run.close()
    saved.close()
    return state


@pytest.mark.slow
def test_resuming_changes_no_bit(tmp_path):
    whole = train(tmp_path / "whole", 14)
    train(tmp_path / "broken", 14, killed_at=9)
    resumed = train(tmp_path / "broken", 14)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        one, other = (jax.random.key_data(v) if v.dtype == whole.key.dtype else v for v in (one, other))
        np.testing.assert_array_equal(one, other)
    assert int(resumed.step) == 14
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert lines[0] == lines[1] and lines[0].count(b"\n") == 14
