"""The script that trains translators: what it leaves, that presets can be built, what it refuses."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image

from experiments.ood_to_id import config, images, networks, train, training
from experiments.ood_to_id.config import TrainConfig
from experiments.shared import command_line
from robustjax.data import picture_tree
from robustjax.models import small
from robustjax.perturbations.pairs import ImagePair
from robustjax.types import Batch, Network


def test_it_trains_keeps_and_reports(system):
    assert "data:image/png" in (system / "report.html").read_text()
    names = {key.split("_")[0] for line in (system / "metrics.jsonl").open() for key in json.loads(line)}
    assert names == {"step", "classifier", "encoder", "translator"}

    opened = training.open_system(system)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    run = jax.jit(lambda translate, x: translate(jax.random.key(0), x))
    back = run(opened.translate, x)
    assert back.shape == x.shape and 0 <= float(back.min()) <= float(back.max()) <= 1
    rows = json.loads((system / "system.json").read_text())["measured"]
    assert [row["images"].split(",")[0] for row in rows] == ["clean", "PGD-2", "darker", "sharper"]


def test_a_folder_that_holds_no_finished_run_is_refused(system, tmp_path):
    with pytest.raises(ValueError, match=r"holds no run of ood_to_id\.train"):
        training.open_system(system / "networks")
    shutil.copy(system / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"holds no finished run of ood_to_id\.train"):
        training.open_system(tmp_path)


def test_a_function_of_ones_own_is_a_translator(system, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_translator.py").write_text("def brighter(key, x):\n    return 1.5 * x\n")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(system / "networks", tmp_path / "out" / "networks")
    words = ["smoke", "--kind", "own_translator:brighter", "--out", tmp_path / "out"]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.train", *words)
    assert done.returncode == 0, done.stderr
    x = jnp.full((2, 16, 16, 1), 0.4)
    np.testing.assert_allclose(
        training.open_system(tmp_path / "out").translate(jax.random.key(0), x), 1.5 * x
    )
    wrong = scripts.call(capsys, monkeypatch, "ood_to_id.train", "smoke", "--kind", "pix2pixh")
    assert wrong.returncode == 2 and "did you mean pix2pix" in wrong.stderr


@pytest.mark.parametrize("name", list(train.PRESETS))
def test_presets_are_sound_and_their_networks_take_their_images(name):
    cfg = train.PRESETS[name]
    command_line.validate(cfg)
    shape = {
        "digits": (16, 16, 1),
        "mnist": (28, 28, 1),
        "cifar10": (32, 32, 3),
        "imagenette/160px-v2": (160, 160, 3),
        "imagenet2012": (224, 224, 3),
    }[cfg.dataset]
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    for kind in (cfg.kind,) if name != "smoke" else config.KINDS:
        model = networks.translator_of(kind, cfg.recipe, shape)
        out, _ = jax.eval_shape(model.apply, *jax.eval_shape(model.init, jax.random.key(0)), x)
        assert out.shape == x.shape
    encoder = networks.encoder_of(cfg.recipe, shape)
    jax.eval_shape(encoder.apply, *jax.eval_shape(encoder.init, jax.random.key(0)), x)


def zeros(tree):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)


@pytest.mark.slow
def test_every_kind_is_a_list_of_stages():
    recipe = train.PRESETS["smoke"].recipe
    x = jnp.zeros((32, 16, 16, 1))
    batch = Batch(x, jnp.arange(32) % 10)
    sets = images.Sets(batch, batch, batch)
    model = networks.classifier_of(recipe, "digits", 10, (16, 16, 1))
    classifier = Network(model, *zeros(jax.eval_shape(model.init, jax.random.key(0))), {})
    pool = ImagePair(x, jnp.zeros(x.shape, jnp.uint8))
    for kind, length in {"pix2pix": 1, "pix2pixhd": 1, "dae": 1, "ddpm": 1, "atop": 2}.items():
        parts = networks.translator_stages(kind, sets, classifier, pool, recipe, 0)
        assert len(parts) == length
        weights = None
        for part in parts:
            stage = part(weights)
            begun = jax.eval_shape(stage.start)
            rows = jax.tree.map(lambda a: a[:16], stage.arrays)
            with jax.numpy_dtype_promotion("standard"):  # optax's Adam asks for it, as scripts run
                after, _ = jax.eval_shape(stage.step, begun, rows)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
                lambda a: (a.shape, a.dtype), begun
            )
            weights = zeros(stage.weights(begun))


@pytest.mark.slow
def test_pairs_are_made_anew_and_slow_attacks_get_a_share():
    model = small.linear(classes=10, shape=(4, 4, 1))
    classifier = Network(model, *jax.jit(model.init)(jax.random.key(0)), {})
    batch = Batch(jax.random.uniform(jax.random.key(1), (20, 4, 4, 1)), jnp.arange(20) % 10)
    sets = images.Sets(batch, batch, batch)
    recipe = config.Recipe(attacks=("fgsm", "square"), shares=(1.0,), subset=(("square", 0.25),))
    first, again, anew = (
        networks.pairs_of(sets, classifier, recipe, 0, turn=turn, batch_size=20) for turn in (0, 0, 1)
    )
    assert len(first.image) == 20 + 20 + 5
    np.testing.assert_array_equal(first.perturbed, again.perturbed)
    moved = np.abs(first.perturbed - anew.perturbed).max(axis=(1, 2, 3)) > 0
    assert not moved[:40].any() and moved[40:].any()  # FGSM draws nothing, Square does
    np.testing.assert_array_equal(first.image, anew.image)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attacks": ("magic",)}, "'magic', must be of fgsm"),
        ({"subset": (("magic", 0.5),)}, "'magic', must be of fgsm"),
        ({"subset": (("square", 0.0),)}, r"--recipe.subset is .*, must be in \(0, 1\]"),
        ({"shifts": (("glitter", 1.0),)}, "'glitter', must be of darker"),
        ({"classifier": "lenet"}, "'lenet', must be one of pooled"),
        ({"epochs": 0}, "--recipe.epochs is 0, must be at least 1"),
    ],
)
def test_recipes_are_checked(settings, words):
    recipe = dataclasses.replace(config.Recipe(), **settings)
    with pytest.raises(ValueError, match=words):
        command_line.validate(dataclasses.replace(train.PRESETS["smoke"], recipe=recipe))


def test_of_large_pictures_those_that_are_chosen_are_decoded(tmp_path, monkeypatch):
    """Of twelve pictures of two classes four are asked for of each part, scaled to 8 x 8."""
    for k in range(12):
        folder = tmp_path / f"n{k % 2}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (20, 16), (20 * k, 0, 0)).save(folder / f"x_{k}.png")
    decoded = []

    def load(dataset, split, *, data_dir, size, preprocess):
        assert dataset == "imagenet2012" and size is None
        found = picture_tree.load(tmp_path, preprocess=preprocess)
        read = found.image.read
        found.image.read = lambda rows: decoded.extend(rows) or read(rows)
        return found

    monkeypatch.setattr(images.data, "load", load)
    sets = images.load("imagenet2012", 0, images=4, preprocess="Res8Crop8")
    assert sets.train.image.shape == sets.test.image.shape == (4, 8, 8, 3) and len(decoded) == 3 * 4
    np.testing.assert_allclose(sets.test.image[:, 0, 0, 0], 20 * sets.numbers / 255, atol=1e-6)
    with pytest.raises(ValueError, match="must be one of them"):
        TrainConfig(size=8, preprocess="Res8Crop8").check()


def test_a_classifier_that_is_not_there_or_has_other_classes(monkeypatch):
    with pytest.raises(ValueError, match="no such file, weights must be downloaded"):
        training.given_classifier(TrainConfig(classifier="none.pt"), 10, (8, 8, 3))
    model = small.linear(classes=3, shape=(8, 8, 3))
    network = Network(model, *model.init(jax.random.key(0)))
    monkeypatch.setattr(training, "open_classifier", lambda path, data_dir: (network, None))
    assert training.given_classifier(TrainConfig(classifier="runs/x"), 3, (8, 8, 3)) is network
    with pytest.raises(ValueError, match="gives 3 logits, must give one for each of 10"):
        training.given_classifier(TrainConfig(classifier="runs/x"), 10, (8, 8, 3))
