"""The RATIO script: what it measures and keeps, how it resumes, its criteria, its presets, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.ratio import compare, evaluate, measure, networks
from experiments.ratio.config import EVALUATE_PRESETS, Method
from experiments.ratio.results import Results, criteria
from experiments.shared import command_line, network_source
from robustjax import data
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch, Pair

SMOKE = compare.PRESETS["smoke"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of the smoke preset, and what it wrote to stderr."""
    out = tmp_path_factory.mktemp("runs") / "ratio"
    done = scripts.run("ratio.compare", "smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def test_a_run_keeps_what_it_measured_and_writes_a_report(finished):
    out, said = finished
    kept = sorted((out / "measured").iterdir())
    assert [path.stem for path in kept] == ["at_0", "ratio_0"] and said.count("training ") == 2
    page = (out / "report.html").read_text()
    assert "guaranteed AUROC" in page and "fails on" in page
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert figures >= {"auroc_over_radii", "confidence_over_radii", "all_classes", "norms", "reliability"}
    assert figures >= {"counterfactuals_test", "counterfactuals_noise_uniform", "hardest"}
    with np.load(kept[1]) as file:
        curve = file["confidence_curve/data/inverted"]
        assert (curve[:, 1] >= curve[:, 0]).all()
        clean = jax.nn.softmax(file["logits/data/inverted"]).max(axis=1)
        worst = 1 / (1 + np.exp(-file["worst_case/data/inverted"]))
        assert worst.shape == clean.shape and (worst >= clean - 1e-5).all()
        assert (np.exp(file["certified/data/inverted"]) >= worst - 1e-5).all()


def test_a_finished_run_trains_nothing_again(finished, capsys, monkeypatch):
    out, _ = finished
    before = {path: path.read_bytes() for path in (out / "measured").iterdir()}
    again = scripts.call(capsys, monkeypatch, "ratio.compare", "smoke", "--out", out)
    assert again.returncode == 0 and "training " not in again.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


def made_up(p, count=40, classes=10):
    """One method's arrays, of two networks: the log odds on ID images, on OOD images and at worst."""
    rng = np.random.default_rng(0)

    def logits(log_odds, shape):
        z = np.zeros((*shape, classes))
        z[..., 0] = log_odds + 0.05 * rng.normal(size=shape) + np.log(classes - 1)
        return z

    shape = (2, count)
    out = {"logits/test": logits(p["data"], shape), "logits/valid": logits(p["data"], shape)}
    out |= {f"label/{s}": np.zeros(shape, int) for s in ("test", "valid")}
    out["robust"] = np.arange(count) < p["robust"] * count * np.ones((2, 1))
    for name in SMOKE.test_ood_sets:
        out[f"logits/{name}"] = logits(p["clean"], shape)
        out[f"worst_case/{name}"] = p["worst"] + 0.05 * rng.normal(size=shape)
    for name in ("test", SMOKE.test_ood_sets[0]):
        out[f"target/{name}"] = np.zeros(shape, int)
        out[f"counterfactual_logits/{name}"] = np.stack([logits(p["near"], shape)] * 2, axis=2)
    return out


def test_criteria_hold_where_they_do_and_fail_where_they_do_not():
    good = made_up({"data": 3.0, "clean": -3.0, "worst": -2.0, "robust": 0.8, "near": -1.0})
    bad = made_up({"data": 3.0, "clean": -3.0, "worst": 5.0, "robust": 0.8, "near": 3.0})
    cfg = dataclasses.replace(SMOKE, seeds=2)
    for first, second, result in ((good, bad, "holds"), (bad, good, "fails on 2 of 2")):
        found = Results(cfg, {"at": second, "ratio": first}, tuple("0123456789"), eps=0.5, ood_eps=1.0)
        rows = {c.text: c.row()["result"] for c in criteria(found)}
        assert len(rows) == 5
        assert rows.pop("robust accuracy: RATIO at least AT - 0.05") == "holds"
        assert set(rows.values()) == {result}


def test_the_hardest_images_are_those_furthest_below_another_class_and_have_two_targets():
    image = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    test = data.of_arrays(image, np.array([0, 1, 2, 0, 1, 2]), name="t")
    logits = np.zeros((6, 3))
    logits[np.arange(6), test.label] = [5, -1, 2, -4, 0.5, -2]  # margins 5, -1, 2, -4, 0.5 and -2 - 7
    logits[5, 1] = 7
    found = measure.hardest(test, logits, ("a", "b", "c"))
    assert found.image[:, 0, 0, 0].tolist() == [5, 5, 3, 3, 1, 1, 4, 4]
    assert found.label.tolist() == [2, 1, 0, 1, 1, 0, 1, 0]


MINE = """
import jax.numpy as jnp

def logits_fn(x):
    return x.reshape(len(x), 64) @ jnp.sin(jnp.arange(640.0)).reshape(64, 10)

def other(x):
    return -logits_fn(x)
"""


@pytest.mark.slow
def test_networks_of_others_become_rows_of_one_table(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_for_ratio.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    for name in ("logits_fn", "other"):
        words = [
            "--source.function",
            f"mine_for_ratio:{name}",
            "--source.dataset",
            "digits",
            "--out",
            tmp_path / "out",
        ]
        done = scripts.call(capsys, monkeypatch, "ratio.evaluate", "smoke", "--name", name, *words)
        assert done.returncode == 0, done.stderr
    # The same name for another network does not give the first one's row; `words` are those of `other`.
    done = scripts.call(capsys, monkeypatch, "ratio.evaluate", "smoke", "--name", "logits_fn", *words)
    assert done.returncode == 2 and "a row of that name about another network" in done.stderr
    rows = evaluate.read(tmp_path / "out" / "measured", "digits")
    assert list(rows) == ["logits_fn", "other"]
    test = rows["logits_fn"]["logits/test"]
    np.testing.assert_allclose(rows["other"]["logits/test"], -test, rtol=1e-5)
    assert "agreement/test" not in rows["other"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 networks were evaluated as they are on digits" in page and ">other<" in page
    with pytest.raises(ValueError, match="on digits, must be on mnist"):
        evaluate.read(tmp_path / "out" / "measured", "mnist")


def test_what_does_not_name_a_network_is_refused(tmp_path, capsys, monkeypatch):
    for words, says in (
        ((), "are all missing, must be one"),
        (
            ("--source.function", "m:f", "--source.dataset", "digits", "--name", "a/b"),
            "must be the name of a file",
        ),
    ):
        done = scripts.call(capsys, monkeypatch, "ratio.evaluate", "smoke", "--out", tmp_path / "no", *words)
        assert done.returncode == 2 and says in done.stderr
    assert evaluate.name_of(network_source.Source(checkpoint="nets/best.pt")) == "best"
    assert evaluate.name_of(network_source.Source(function="mine.nets:one")) == "mine.nets_one"
    assert EVALUATE_PRESETS["cifar10"].test_ood_sets == compare.PRESETS["cifar10_released"].test_ood_sets


@pytest.mark.parametrize("name", compare.PRESETS)
def test_every_preset_names_losses_that_can_be_built(name):
    """Shapes only: the losses of all methods, on the classes and images of the digits."""
    cfg = compare.PRESETS[name]
    command_line.validate(cfg)
    model = small.linear(shape=(8, 8, 1))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
    pair = Pair(Batch(image, jax.ShapeDtypeStruct((4,), jnp.int32)), image)
    threat = Threat("l2", cfg.eps)
    for method in cfg.methods if name != "digits" else Method.__args__:  # pyright: ignore
        loss = networks.training_loss(method, model, cfg, classes=10, threat=threat, ood_threat=threat)
        value, _ = jax.eval_shape(
            lambda t, p, s, b: loss(t)(p, s, b, jax.random.key(0)),
            jax.ShapeDtypeStruct((), jnp.int32), params, state, pair,
        )  # fmt: skip
        assert value.shape == ()


def test_pseudo_labelled_images_fill_their_share_of_every_batch_and_a_resumed_run_sees_the_same():
    rng = np.random.default_rng(0)
    made = lambda count, low, name: data.of_arrays(
        rng.integers(low, low + 100, (count, 8, 8, 1), np.uint8),
        np.zeros(count, int),
        name=name,
        classes=tuple("01"),
    )
    own, extra, ood = made(20, 0, "own"), made(30, 120, "extra"), made(10, 0, "ood")
    cfg = dataclasses.replace(SMOKE, extra="extra", extra_share=0.7, batch_size=10)
    sets = networks.Sets(own, own, own, ood, {}, extra)
    batches = [b for b, _ in zip(networks.batches(cfg, sets, seed=3), range(4), strict=False)]
    assert all((np.asarray(b.id.image).max(axis=(1, 2, 3)) > 110 / 255).sum() == 7 for b in batches)
    resumed = next(networks.batches(cfg, sets, seed=3, start=3))
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(batches[3]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "0"], "--eps is 0, must be above 0"),
        (["--ood-sets", "kmnist"], "must be name=count"),
        (["--ood-sets", "kmnist=1", "kmnist=2"], "--ood-sets has 'kmnist' twice"),
        (["--test-ood-sets", "noise/acet"], "must not be trained on"),
        (
            ["--ood-sets", "kmnist:test=9", "--test-ood-sets", "kmnist"],
            "has 'kmnist', must not be trained on",
        ),
        (["--radii", "0.5", "1"], "must rise from 0"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--methods", "at", "at"], "must name at least one, and none twice"),
        (["--augment", "autoaugment"], "--augment has 'autoaugment', must be of crop, flip"),
        (["--sharpness", "sam", "--rho", "0"], "--rho is 0, must be above 0"),
    ],
)
def test_settings_are_validated_before_any_work(tmp_path, capsys, monkeypatch, words, message):
    done = scripts.call(capsys, monkeypatch, "ratio.compare", "smoke", "--out", tmp_path / "no", *words)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "no").exists()
