"""The script that trains translators: what it leaves, that it resumes, that presets can be built, what it refuses."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.ood_to_id import networks as translators
from experiments.ood_to_id import run_folders, train
from experiments.shared import staged_training
from robustjax import runtime
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


def numbers():
    """Write a stage without a network: sums of rows that are forgotten slowly."""

    def step(state, batch):
        return 0.9 * state + batch.sum(), {"mean": batch.mean()}

    rows = jnp.asarray(np.random.default_rng(0).normal(size=10).astype(np.float32))
    return staged_training.Stage(
        "numbers", lambda: jnp.float32(0), step, rows, 3, 8, seed=1, weights=lambda s: (s, None)
    ), rows


class Told:
    """Somebody who is told to stop at some segment."""

    def __init__(self, at):
        self.at = at

    def agreed(self, step):
        return step == self.at


def test_a_stage_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    cfg = dataclasses.replace(train.PRESETS["smoke"], save_every=9)
    ends = []
    for name, stops in (("whole", (0,)), ("cut", (2, 3, 0))):
        for at in stops:
            with runtime.Run(tmp_path / name, {}) as run:
                log = train.Log(run, Told(at), cfg, before=10)
                with pytest.raises(train.Stopped) if at else contextlib.nullcontext():
                    ends.append(float(log.finished("numbers", numbers()[0])[0]))
    assert len(ends) == 2 and ends[0] == ends[1]
    one, other = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut"))
    assert one == other and [json.loads(line)["step"] for line in one.splitlines()] == [11, 13, 15, 17]


def test_a_course_left_and_taken_up_again_ends_in_the_same_state():
    stage, rows = numbers()
    whole = list(staged_training.course(stage, stage.start(), segment=3))
    assert [done for done, *_ in whole] == [3, 6, 8]
    half = next(staged_training.course(stage, stage.start(), segment=5))
    *_, (done, state, _) = staged_training.course(stage, half[1], begin=5, segment=5)
    assert done == 8 and float(state) == float(whole[-1][1])
    # Every epoch sees every row at most once, in another order.
    expected = jnp.float32(0)
    for update in range(8):
        epoch, place = divmod(update, 3)
        order = np.random.default_rng((1, epoch)).permutation(10)[3 * place : 3 * place + 3]
        expected = 0.9 * expected + rows[order].sum()
    np.testing.assert_allclose(state, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="batch size is 11"):
        next(staged_training.course(stage._replace(batch_size=11), stage.start(), segment=1))


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
    pool = translators.pairs.Views(x, jnp.zeros(x.shape, jnp.uint8))
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
