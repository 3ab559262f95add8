"""The commands that learn, evaluate, train on and certify: what they leave, and what they refuse."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scripts
from PIL import Image
from scipy import stats

from experiments.perturbation_sets import certify, evaluate, networks, train, train_classifier
from experiments.perturbation_sets.config import (
    CertifyConfig,
    CompareConfig,
    EvaluateConfig,
    TrainClassifierConfig,
    TrainConfig,
)
from experiments.shared import command_line
from robustjax.catalog.learned_sets import AUTOENCODERS, PAIRS


def test_a_run_leaves_its_radius_its_quality_and_a_report(runs, learned_set):
    found = json.loads((runs / "set" / "quality.json").read_text())
    assert found["nearest"] <= found["encoded"] and found["nearest"] <= found["expected"] <= found["farthest"]
    assert found["radius"] == found["encodings"]["largest"] > 0
    assert "Training: error summed over pixels" in (runs / "set" / "report.html").read_text()
    assert learned_set.radius == found["radius"] and learned_set.step == 2


def test_a_set_is_evaluated_over_radii_once(runs, tmp_path, capsys, monkeypatch):
    words = ["smoke", "--run", runs / "set", "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.evaluate", *words)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "quality.json").read_text())["radii"]
    # A larger ball holds more.
    assert first["inside"] <= second["inside"] and first["farthest"] <= second["farthest"] + 1e-3
    assert "What the training objective promises" in (tmp_path / "report.html").read_text()
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    again = scripts.call(capsys, monkeypatch, "perturbation_sets.evaluate", *words)
    assert again.stdout == done.stdout
    assert len(cells) == 5 and all(path.stat().st_mtime_ns == at for path, at in cells.items())


def test_a_classifier_is_attacked_in_the_set_and_certified_in_its_latents(
    runs, tmp_path, capsys, monkeypatch
):
    found = json.loads((runs / "classifier" / "robustness.json").read_text())
    assert len(found["robust"]) == len(found["radii"]) and found["observed"] <= found["perturbed"]
    assert "attacked within" in (runs / "classifier" / "report.html").read_text()
    words = ["smoke", "--runs", runs / "classifier", "--predict", "clean", "perturbed", "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.certify", *words)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "certificates.json").read_text())
    assert numbers["certified"] == sorted(numbers["certified"], reverse=True)
    # The largest radius that 20 samples can give, by the binomial law.
    assert numbers["radii"][-1] == pytest.approx(numbers["sigma"] * stats.norm.ppf(0.001 ** (1 / 20)))
    assert "Certified accuracy." in (tmp_path / "report.html").read_text()
    assert [row["images"] for row in numbers["predicted"]] == ["clean", "perturbed"]


@pytest.mark.parametrize("script", [train, evaluate, train_classifier, certify])
def test_every_preset_is_sound(script):
    for cfg in script.PRESETS.values():
        command_line.validate(cfg)
        assert not isinstance(cfg, TrainConfig) or cfg.rate_at[-1] <= cfg.epochs


@pytest.mark.parametrize(
    "name",
    ["digits", "mnist_dense_linf", "mnist_conv_linf", "mnist_stn_rts", "cifar10", "lit_scenes", "mip5"],
)
def test_presets_name_models_that_take_their_pairs(name):
    cfg = train.PRESETS[name]
    size = {
        "digits": (8, 8, 1),
        "mnist": (28, 28, 1),
        "cifar10": (32, 32, 3),
        "lit_scenes": (25 * 16, 24, 3),
        "multi_illumination/mip5": (25 * 125, 187, 3),
    }[cfg.dataset]
    x = jax.ShapeDtypeStruct((2, *size), "float32")
    pair = jax.eval_shape(PAIRS[cfg.pairs](), jax.random.key(0), x)
    model = AUTOENCODERS[cfg.model](pair.image.shape[1:])
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    found, _ = jax.eval_shape(model.posterior, params, state, *pair)
    assert found.mean.shape == (2, model.dimension)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (TrainConfig(pairs="fog"), "'fog', must be one of linf"),
        (TrainConfig(model="vae"), "'vae', must be one of dense"),
        (TrainConfig(epochs=0), "--epochs is 0, must be at least 1"),
        (TrainConfig(share=0.0), r"--share is 0, must be in \(0, 1\]"),
        (TrainConfig(beta_at=(0.0,)), "must grow"),
        (EvaluateConfig(radii=(2.0, 1.0)), "must grow"),
        (EvaluateConfig(radii=(0.0, 1.0)), "must be above 0"),
        (EvaluateConfig(pairs="fog"), "--pairs is 'fog', must be one of linf"),
        (TrainClassifierConfig(sigma=0.0), "--sigma is 0"),
        (TrainClassifierConfig(attack_radius=0.0), "--attack-radius is 0"),
        (CertifyConfig(samples=5), "--samples is 5"),
        (CertifyConfig(alpha=1.0), r"--alpha is 1, must be in \(0, 1\)"),
        (CompareConfig(families=("fog",)), "'fog', must be of lighting, warps"),
        (CompareConfig(seeds=0), "--seeds is 0"),
        (CompareConfig(samples=5), "--samples is 5"),
        (CompareConfig(images=100), "--images is 100"),
        (CompareConfig(targets=("most",)), "'most', must be of median"),
    ],
)
def test_settings_are_checked(cfg, words):
    with pytest.raises(ValueError, match=words):
        command_line.validate(cfg)


@pytest.mark.slow
def test_a_folder_of_another_kind_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"holds no run of perturbation_sets\.train:"):
        networks.open_set(str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no run of perturbation_sets\.train:"):
        networks.open_set(str(runs / "classifier"))
    with pytest.raises(ValueError, match=r"holds no run of perturbation_sets\.train_classifier:"):
        networks.open_classifier(str(tmp_path))


def test_fewer_images_are_held_out():
    """Every image is trained on or held out, once; the held-out ones were so before."""
    usual = networks.splits(train.PRESETS["digits"])
    fewer = networks.splits(dataclasses.replace(train.PRESETS["digits"], validation_images=20))
    assert len(fewer[1].label) == 20 and np.isin(fewer[1].index, usual[1].index).all()

    def rows(*parts):
        image, label = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label")
        )
        return sorted(one.tobytes() + bytes([k]) for one, k in zip(image, label, strict=True))

    assert rows(*fewer[:2]) == rows(*usual[:2])
    assert rows(fewer[2]) == rows(usual[2])
    with pytest.raises(ValueError, match="--validation-images is 142, must be at most the 141 that"):
        networks.splits(dataclasses.replace(train.PRESETS["digits"], validation_images=142))


def test_pairs_of_a_folder_are_split_by_image(tmp_path):
    for side, offset in (("image", 0), ("perturbed", 1)):
        (tmp_path / side).mkdir()
        for i in range(20):
            picture = np.full((4, 4), 10 * i + offset, np.uint8)
            Image.fromarray(picture).save(tmp_path / side / f"{i:02}.png")
    parts = networks.splits(dataclasses.replace(train.PRESETS["digits"], folder=str(tmp_path)))
    assert [len(part.label) for part in parts] == [16, 2, 2]
    assert all(part.image[0].shape == (4, 8, 1) for part in parts)
    assert np.asarray(parts[2].image)[:, 0, 4, 0].tolist() == [91, 191]
