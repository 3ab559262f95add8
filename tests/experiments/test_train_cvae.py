"""The script that learns perturbations: what it leaves, that its presets can be built, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scripts
from PIL import Image
from scipy import stats

from experiments.perturbation_sets import autoencoders, certify, classifier_runs, config, evaluate, train


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Learn a tiny set once, as the command line would."""
    folder = tmp_path_factory.mktemp("learnt")
    cfg = dataclasses.replace(config.PRESETS["smoke"], out=str(folder / "set"))
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(cfg) == 0
    return folder


def test_it_trains_measures_and_tells(learnt):
    found = json.loads((learnt / "set" / "quality.json").read_text())
    assert found["nearest"] <= found["encoded"] and found["nearest"] <= found["expected"] <= found["farthest"]
    assert found["radius"] == found["encodings"]["largest"] > 0
    assert (learnt / "set" / "report.html").read_text().count("data:image/png") == 2
    again = autoencoders.opened(str(learnt / "set"))
    assert again.radius == found["radius"] and again.step == 2


def test_a_set_is_judged_over_radii_once(learnt, capsys, monkeypatch):
    words = ["smoke", "--run", learnt / "set", "--out", learnt / "judged"]
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.evaluate", *words)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((learnt / "judged" / "quality.json").read_text())["radii"]
    # A larger ball holds more.
    assert first["inside"] <= second["inside"] and first["farthest"] <= second["farthest"] + 1e-3
    assert (learnt / "judged" / "report.html").read_text().count("data:image/png") == 4
    monkeypatch.setattr(evaluate, "measured", lambda *args: None)  # what is done is not done again
    assert scripts.call(capsys, monkeypatch, "perturbation_sets.evaluate", *words).stdout == done.stdout


def test_a_network_is_trained_on_the_set_and_certified_in_its_latents(learnt, capsys, monkeypatch):
    words = ["smoke", "--set", learnt / "set", "--out", learnt / "net", "--method", "smoothed"]
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.train_classifier", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((learnt / "net" / "robustness.json").read_text())
    assert len(found["robust"]) == len(found["radii"]) and found["observed"] <= found["perturbed"]
    assert (learnt / "net" / "report.html").read_text().count("data:image/png") == 3
    words = ["smoke", "--runs", learnt / "net", "--out", learnt / "certified"]
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.certify", *words)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((learnt / "certified" / "certificates.json").read_text())
    assert numbers["certified"] == sorted(numbers["certified"], reverse=True)
    # The smallest and the largest radius that 20 copies can give, by the binomial law.
    assert numbers["radii"][-1] == pytest.approx(numbers["sigma"] * stats.norm.ppf(0.001 ** (1 / 20)))
    assert (learnt / "certified" / "report.html").read_text().count("data:image/png") == 2


@pytest.mark.parametrize("script", [classifier_runs, evaluate, certify])
def test_every_other_preset_is_sound(script):
    for cfg in script.PRESETS.values():
        cfg.check()


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (classifier_runs.Config(method="magic"), "--method is 'magic'"),  # pyright: ignore[reportArgumentType]
        (classifier_runs.Config(sigma=0.0), "--sigma is 0"),
        (evaluate.Config(radii=(2.0, 1.0)), "must be above 0 and grow"),
        (evaluate.Config(pairs="fog"), "--pairs is 'fog', must be one of linf"),
        (classifier_runs.Config(reach=0.0), "--reach is 0"),
        (certify.Config(n=5), "--n is 5"),
    ],
)
def test_other_settings_are_checked(cfg, words):
    with pytest.raises(ValueError, match=words):
        cfg.check()


def test_a_folder_of_another_kind_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run of train_cvae\.py"):
        autoencoders.opened(str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no run of train_learned\.py"):
        classifier_runs.opened(str(tmp_path))


def test_pairs_of_a_folder_are_split_by_image(tmp_path):
    for side, offset in (("image", 0), ("perturbed", 1)):
        (tmp_path / side).mkdir()
        for i in range(20):
            picture = np.full((4, 4), 10 * i + offset, np.uint8)
            Image.fromarray(picture).save(tmp_path / side / f"{i:02}.png")
    parts = autoencoders.splits(dataclasses.replace(config.PRESETS["digits"], folder=str(tmp_path)))
    assert [len(part.label) for part in parts] == [16, 2, 2]
    assert all(part.image[0].shape == (4, 8, 1) for part in parts)
    assert np.asarray(parts[2].image)[:, 0, 4, 0].tolist() == [91, 191]


def test_every_preset_is_sound():
    for cfg in config.PRESETS.values():
        cfg.check()
        assert cfg.rate_at[-1] <= cfg.epochs


@pytest.mark.parametrize(
    "name",
    ["digits", "mnist_dense_linf", "mnist_conv_linf", "mnist_stn_rts", "cifar10", "lit_scenes", "mip5"],
)
def test_presets_name_models_that_take_their_pairs(name):
    cfg = config.PRESETS[name]
    size = {
        "digits": (8, 8, 1),
        "mnist": (28, 28, 1),
        "cifar10": (32, 32, 3),
        "lit_scenes": (25 * 16, 24, 3),
        "multi_illumination/mip5": (25 * 125, 187, 3),
    }[cfg.dataset]
    x = jax.ShapeDtypeStruct((2, *size), "float32")
    views = jax.eval_shape(config.FAMILIES[cfg.pairs](), jax.random.key(0), x)
    model = config.MODELS[cfg.model](views.image.shape[1:])
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    found, _ = jax.eval_shape(model.posterior, params, state, *views)
    assert found.mean.shape == (2, model.dimension)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pairs": "fog"}, "'fog', must be one of linf"),
        ({"model": "vae"}, "'vae', must be one of dense"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"share": 0.0}, "--share is 0"),
        ({"beta_at": (0.0,)}, "must grow"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(config.PRESETS["digits"], **settings).check()
