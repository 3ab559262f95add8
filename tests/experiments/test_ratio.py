"""The RATIO script: what it leaves, how it resumes, its criteria, its presets, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.ratio import compare, networks
from experiments.ratio import report as pages
from experiments.ratio.results import Results
from robustjax import data
from robustjax.models import small
from robustjax.types import Batch, Pair

TINY = ["smoke", "--out"]
SMOKE = compare.PRESETS["smoke"]


def test_it_trains_measures_tells_and_resumes(tmp_path):
    done = scripts.run("ratio.compare", *TINY, tmp_path)
    assert done.returncode == 0, done.stderr
    cells = sorted((tmp_path / "cells").iterdir())
    assert [c.stem for c in cells] == ["at_0", "ratio_0"] and done.stderr.count("network ") == 2
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 7 and "guaranteed AUC" in page and "fails on" in page
    with np.load(cells[1]) as file:
        assert (file["curve/data/inverted"][:, 1] >= file["curve/data/inverted"][:, 0]).all()
        clean = file["logits/data/inverted"].max(axis=1)
        sure = 1 / (1 + np.exp(-file["worst/data/inverted"]))
        assert sure.shape == clean.shape and (np.exp(file["certified/data/inverted"]) >= sure - 1e-5).all()
    before = {c: c.read_bytes() for c in cells}
    again = scripts.run("ratio.compare", *TINY, tmp_path)
    assert again.returncode == 0 and "network " not in again.stderr
    assert all(c.read_bytes() == content for c, content in before.items())


def made_up(p, count=40, classes=10):
    """One network's arrays: how sure it is of data, and of outliers clean and at worst."""
    rng = np.random.default_rng(0)

    def logits(sure, shape):
        z = np.zeros((*shape, classes))
        odds = sure + 0.05 * rng.normal(size=shape)
        z[..., 0] = odds + np.log(classes - 1)
        return z

    shape = (2, count)
    out = {"logits/test": logits(p["data"], shape), "logits/valid": logits(p["data"], shape)}
    out |= {f"label/{s}": np.zeros(shape, int) for s in ("test", "valid")}
    out["robust"] = np.arange(count) < p["robust"] * count * np.ones((2, 1))
    for name in SMOKE.test_outliers:
        out[f"logits/{name}"] = logits(p["clean"], shape)
        out[f"worst/{name}"] = p["worst"] + 0.05 * rng.normal(size=shape)
    for name in ("test", SMOKE.test_outliers[0]):
        out[f"target/{name}"] = np.zeros(shape, int)
        out[f"toward/{name}"] = np.stack([logits(p["near"], shape)] * 2, axis=2)
    return out


def test_criteria_hold_where_they_do_and_fail_where_they_do_not():
    good = made_up({"data": 3.0, "clean": -3.0, "worst": -2.0, "robust": 0.8, "near": -1.0})
    bad = made_up({"data": 3.0, "clean": -3.0, "worst": 5.0, "robust": 0.8, "near": 3.0})
    cfg = dataclasses.replace(SMOKE, seeds=2)
    for first, second, verdict in ((good, bad, "holds"), (bad, good, "fails on 2 of 2")):
        criteria, _ = pages.claims(Results(cfg, {"at": second, "ratio": first}, tuple("0123456789")))
        rows = {c.text: c.row()["verdict"] for c in criteria}
        assert len(rows) == 5
        assert rows.pop("robust accuracy: RATIO at least AT - 0.05") == "holds"
        assert set(rows.values()) == {verdict}


@pytest.mark.parametrize("name", compare.PRESETS)
def test_every_preset_names_losses_that_can_be_built(name):
    """Shapes only: the losses of all methods, on the classes and images of the digits."""
    cfg = compare.PRESETS[name]
    cfg.check()
    model = small.linear(shape=(8, 8, 1))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
    pair = Pair(Batch(image, jax.ShapeDtypeStruct((4,), jnp.int32)), image)
    for method in cfg.methods if name != "digits" else compare.Method.__args__:  # pyright: ignore
        loss = networks.loss_at(cfg, model, method, 10)
        value, _ = jax.eval_shape(
            lambda t, p, s, b: loss(t)(p, s, b, jax.random.key(0)),
            jax.ShapeDtypeStruct((), jnp.int32), params, state, pair,
        )  # fmt: skip
        assert value.shape == ()


def test_pseudo_labelled_images_fill_their_share_of_every_batch_and_a_resumed_run_sees_the_same(tmp_path):
    rng = np.random.default_rng(0)
    made = lambda count, low, name: data.of_arrays(
        rng.integers(low, low + 100, (count, 8, 8, 1), np.uint8),
        np.zeros(count, int),
        name=name,
        classes=tuple("01"),
    )
    own, more, strange = made(20, 0, "own"), made(30, 120, "more"), made(10, 0, "strange")
    cfg = dataclasses.replace(SMOKE, extra="more", extra_share=0.7, batch_size=10)
    sets = networks.Data(own, own, own, strange, {}, more)
    trainer = networks.Trainer(cfg, sets, small.linear(shape=(8, 8, 1)), tmp_path)
    batches = [b for b, _ in zip(trainer._batches(3, 0, None), range(4), strict=False)]
    assert all((np.asarray(b.data.image).max(axis=(1, 2, 3)) > 110 / 255).sum() == 7 for b in batches)
    resumed = next(iter(trainer._batches(3, 3, None)))
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(batches[3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_meant_is_refused(tmp_path, capsys, monkeypatch):
    for words, message in (
        (["--eps", "0"], "--eps is 0, must be above 0"),
        (["--outliers", "kmnist"], "must be name=count"),
        (["--test-outliers", "noise/acet"], "must not be trained on"),
        (
            ["--outliers", "kmnist:test=9", "--test-outliers", "kmnist"],
            "has 'kmnist', must not be trained on",
        ),
        (["--radii", "0.5", "1"], "must rise from 0"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--methods", "at", "at"], "must name each thing once"),
        (["--augment", "autoaugment"], "--augment has 'autoaugment', must be of crop, flip"),
        (["--flat", "sam", "--rho", "0"], "--rho is 0, must be above 0"),
    ):
        done = scripts.call(capsys, monkeypatch, "ratio.compare", *TINY, tmp_path / "no", *words)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "no").exists()
