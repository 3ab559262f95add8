"""The script that trains translators: what it leaves, that it resumes, that presets can be built, what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
import scripts

from experiments.ood_to_id import networks as translators
from experiments.ood_to_id import run_folders, train
from robustjax.types import Batch


def test_it_trains_keeps_and_tells(tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "ood_to_id.train", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 5
    names = {key.split("_")[0] for line in (tmp_path / "metrics.jsonl").open() for key in json.loads(line)}
    assert names == {"step", "classifier", "encoder", "translator"}

    system = run_folders.opened(tmp_path)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    run = jax.jit(lambda translate, x: translate(jax.random.key(0), x))
    back = run(system.translate, x)
    assert back.shape == x.shape and 0 <= float(back.min()) <= float(back.max()) <= 1
    told = json.loads((tmp_path / "system.json").read_text())["measured"]
    assert [row["images"].split(",")[0] for row in told] == ["clean", "PGD-2", "darker", "sharper"]

    with pytest.raises(ValueError, match="holds no finished run"):
        run_folders.opened(tmp_path / "networks")


@pytest.mark.parametrize("name", list(train.PRESETS))
def test_presets_are_sound_and_their_networks_take_their_images(name):
    cfg = train.PRESETS[name]
    cfg.check()
    shape = {"digits": (16, 16, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}.get(
        cfg.dataset, (160, 160, 3)
    )
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    for kind in (cfg.kind,) if name != "smoke" else translators.KINDS:
        model = translators.translator_of(kind, cfg.recipe, shape)
        out, _ = jax.eval_shape(model.apply, *jax.eval_shape(model.init, jax.random.key(0)), x)
        assert out.shape == x.shape
    encoder = translators.encoder_of(cfg.recipe, shape)
    jax.eval_shape(encoder.apply, *jax.eval_shape(encoder.init, jax.random.key(0)), x)


def zeros(tree):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)


def test_every_kind_is_a_list_of_stages():
    recipe = train.PRESETS["smoke"].recipe
    x = jnp.zeros((32, 16, 16, 1))
    batch = Batch(x, jnp.arange(32) % 10)
    sets = translators.Sets(batch, batch, batch)
    model = translators.classifier_of(recipe, "digits", 10, (16, 16, 1))
    classifier = translators.Network(model, *zeros(jax.eval_shape(model.init, jax.random.key(0))))
    pool = translators.pairs.ImagePair(x, jnp.zeros(x.shape, jnp.uint8))
    for kind, length in {"pix2pix": 1, "pix2pixhd": 1, "dae": 1, "ddpm": 1, "atop": 2}.items():
        _, parts = translators.stages(kind, sets, classifier, pool, recipe, 0)
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attacks": ("magic",)}, "'magic', must be of fgsm"),
        ({"encoder": "vit"}, "'vit', must be of small"),
        ({"shifts": (("glitter", 1.0),)}, "'glitter', must be of darker"),
        ({"classifier": "lenet"}, "'lenet', must be one of pooled"),
        ({"epochs": 0}, "--recipe.epochs is 0"),
    ],
)
def test_recipes_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(translators.Recipe(), **settings).check()
