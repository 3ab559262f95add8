"""The script that learns perturbations: what it leaves, that its presets can be built, and what it refuses."""

import dataclasses
import json

import cvaes
import jax
import numpy as np
import pytest
import scripts
from PIL import Image


def test_it_trains_measures_and_tells(tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "train_cvae", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "quality.json").read_text())
    assert found["nearest"] <= found["encoded"] and found["nearest"] <= found["expected"] <= found["farthest"]
    assert found["radius"] == found["encodings"]["largest"] > 0
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2


def test_pairs_of_a_folder_are_split_by_image(tmp_path):
    for side, offset in (("image", 0), ("perturbed", 1)):
        (tmp_path / side).mkdir()
        for i in range(20):
            picture = np.full((4, 4), 10 * i + offset, np.uint8)
            Image.fromarray(picture).save(tmp_path / side / f"{i:02}.png")
    parts = cvaes.splits(dataclasses.replace(cvaes.PRESETS["digits"], folder=str(tmp_path)))
    assert [len(part.label) for part in parts] == [16, 2, 2]
    assert all(part.image[0].shape == (4, 8, 1) for part in parts)
    assert np.asarray(parts[2].image)[:, 0, 4, 0].tolist() == [91, 191]


def test_every_preset_is_sound():
    for cfg in cvaes.PRESETS.values():
        cfg.check()
        assert cfg.rate_at[-1] <= cfg.epochs


@pytest.mark.parametrize(
    "name", ["digits", "mnist_dense_linf", "mnist_conv_linf", "mnist_stn_rts", "cifar10"]
)
def test_presets_name_models_that_take_their_pairs(name):
    cfg = cvaes.PRESETS[name]
    size = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[cfg.dataset]
    x = jax.ShapeDtypeStruct((2, *size), "float32")
    views = jax.eval_shape(cvaes.FAMILIES[cfg.pairs](), jax.random.key(0), x)
    model = cvaes.MODELS[cfg.model](views.image.shape[1:])
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    found, _ = jax.eval_shape(model.posterior, params, state, *views)
    assert found.mean.shape == (2, model.dimension)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pairs": "fog"}, "'fog', must be one of linf"),
        ({"model": "vae"}, "'vae', must be one of dense"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"beta_at": (0.0,)}, "must grow"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(cvaes.PRESETS["digits"], **settings).check()
