"""The speed run trains, resumes, and leaves a folder that other scripts attack; its epoch is the plain loop."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.classification import speedrun
from experiments.shared import classifiers
from robustjax import optimizers, runtime, training
from robustjax.losses.standard import standard
from robustjax.models import small


@pytest.mark.slow
def test_smoke_resumes_and_is_a_run_folder(tmp_path, capsys, monkeypatch):
    words = ("smoke", "--out", tmp_path / "run")
    done = scripts.call(capsys, monkeypatch, "classification.speedrun", *words)
    assert done.returncode == 0, done.stderr
    assert "20 % robust on validation images: after" in done.stderr and "test, best epoch" in done.stderr
    again = scripts.call(capsys, monkeypatch, "classification.speedrun", *words)  # nothing is left to do
    assert again.returncode == 0 and "epoch 3:" not in again.stderr
    assert done.stderr.splitlines()[-1] == again.stderr.splitlines()[-1]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    network, test = classifiers.open_classifier(str(tmp_path / "run"))
    logits = network.logits_fn(test.image[:64].astype(np.float32) / 255)
    assert (logits.argmax(axis=1) == test.label[:64]).mean() > 0.5


def test_an_epoch_sees_every_image_once_in_a_new_order():
    """A model with one parameter per image: whose gradient moves, was seen."""
    mesh = runtime.data_mesh()
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1) * 3
    seen = []

    def update(state, batch):
        return state._replace(step=state.step + 1), {"rows": jnp.round(batch.image.reshape(-1) * 255 / 3)}

    epoch = speedrun.whole_epoch(update, None, mesh, 16)
    model = small.linear(shape=(1, 1, 1))
    state = training.start(jax.random.key(0), model, optimizers.sgd(0.1), mesh)
    for _ in range(2):
        state, metrics = epoch(state, *runtime.place((images, np.zeros(64, np.int32)), mesh))
        seen.append(np.asarray(metrics["rows"]).ravel().astype(int))
    assert int(state.step) == 8
    for order in seen:
        np.testing.assert_array_equal(np.sort(order), np.arange(64))
    assert (seen[0] != seen[1]).any()


@pytest.mark.slow
def test_every_attack_can_be_named():
    model, tx = small.linear(shape=(8, 8, 1)), optimizers.sgd(0.1)
    batch = speedrun.Batch(jnp.full((4, 8, 8, 1), 0.5), jnp.arange(4, dtype=jnp.int32))
    state = training.start(jax.random.key(0), model, tx)
    configs = [
        dataclasses.replace(speedrun.PRESETS["smoke"], loss=name)
        for name in ("n_fgsm", "fgsm_rs", "adversarial")
    ]
    losses = [standard(model), *(speedrun.loss_of(config, model) for config in configs)]
    plain, *worse = jax.jit(lambda s, key: [f(s.params, s.state, batch, key)[0] for f in losses])(
        state, jax.random.key(0)
    )
    assert min(worse) > plain
