"""Training on outliers and judging detectors, from the command line."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts  # first: it puts experiments/ on the path
from sklearn.metrics import roc_auc_score

import outlier_attacks  # isort: skip
import outlier_methods  # isort: skip
import outlier_runs  # isort: skip
import outlier_sets  # isort: skip

from robustjax import data
from robustjax.attacks.pgd import pgd
from robustjax.losses import ccu, mixtures
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch, Pair

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", outlier_methods.METHODS)
def test_every_method_can_be_named(name):
    model = small.mlp(classes=outlier_methods.outputs(name, 3), shape=(4, 4, 1), widths=(5,))
    images = jnp.asarray(RNG.uniform(size=(12, 4, 4, 1)), jnp.float32)
    axes = None
    if name == "ccu":
        axes = mixtures.principal(images)
        inside, outside = (mixtures.fitted(KEY, axes, x, components=2) for x in (images[:6], images[6:]))
        model = ccu.mixed(model, axes, inside, outside)
    ascent = pgd(Threat("linf", 0.1), steps=1, step_size=0.1)
    loss = outlier_methods.loss(name, model, classes=3, around_data=ascent, around_outliers=ascent, axes=axes)
    pair = Pair(Batch(images[:6], jnp.arange(6) % 3), images[6:])
    value, (_, metrics) = jax.eval_shape(lambda *given: loss(*given), *model.init(KEY), pair, KEY)
    assert value.shape == () and {"risk"} <= metrics.keys()
    logits = model.apply(*model.init(KEY), images)[0]
    assert logits.shape == (12, outlier_methods.outputs(name, 3))
    score = outlier_methods.form(name, classes=3)(logits)
    assert score.shape == (12,) and jnp.isfinite(score).all()


def test_what_methods_ask_for_is_checked():
    with pytest.raises(ValueError, match="method is 'nonesuch', must be one of standard"):
        outlier_methods.outputs("nonesuch", 3)
    assert outlier_methods.outputs("sofl", 100) == 110 and outlier_methods.outputs("aloe", 10) == 10


def like(count=30, side=8, channels=1):
    image = RNG.integers(0, 256, (count, side, side, channels)).astype(np.uint8)
    return data.of_arrays(image, np.arange(count) % 3, name="made", split="train")


def test_outliers_take_the_shape_of_the_data():
    grey = outlier_sets.load("letters", like(), split="test", count=7)
    assert grey.image.shape == (7, 8, 8, 1) and len(set(grey.index)) == 7
    colour = outlier_sets.load("letters", like(channels=3), split="test", count=7)
    np.testing.assert_array_equal(colour.image, np.repeat(grey.image, 3, axis=-1))
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_array_equal(outlier_sets.coloured(red, 1), np.full((1, 2, 2, 1), 60))  # 0.299 of 200
    source = like()
    both, fresh = outlier_sets.mixture(["letters", "noise/permuted"], source)
    assert fresh is None and both.info.per_class[0] == both.info.per_class[1] == 3159
    pixels = both.image[both.label == 1][:30].reshape(30, -1)
    np.testing.assert_array_equal(np.sort(pixels), np.sort(source.image.reshape(30, -1)))
    alone, fresh = outlier_sets.mixture(["noise/uniform"], like())
    assert fresh is not None and len(alone.label) == 30
    with pytest.raises(ValueError, match="noise/pink is no noise"):
        outlier_sets.load("noise/pink", like(), split="test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of ATOM, which chooses its outliers."""
    out = tmp_path_factory.mktemp("ood") / "whole"
    done = scripts.run("train_ood", "smoke", "--loss", "atom", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_that_chooses_its_outliers_resumes_bit_for_bit(whole, tmp_path, capsys, monkeypatch):
    torn, words = tmp_path / "torn", ("train_ood", "smoke", "--loss", "atom", "--out")
    assert (whole / "report.html").read_text().count("data:image/png") == 2
    assert sorted(path.name for path in (whole / "mined").iterdir()) == ["00000000.npz", "00000003.npz"]
    with np.load(whole / "mined" / "00000003.npz") as file:
        assert len(set(file["rows"])) == 4 * 16 * 3 // 4
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "checkpoints" / "6")  # back to update 4, in the middle of what was chosen at 3
    done = scripts.run(*words, torn)
    assert done.returncode == 0, done.stderr
    lines = [[json.loads(t) for t in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, torn)]
    assert lines[0] == lines[1] and lines[0][-1]["step"] == 5 and "valid_auroc_both" in lines[0][-1]
    first, second = (outlier_runs.opened(str(folder)) for folder in (whole, torn))
    assert first.step == second.step == 6 and first.method == "atom"
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    other = scripts.call(capsys, monkeypatch, *words, torn, "--weight", 2)
    assert other.returncode == 2 and "weight" in other.stderr


def auroc(folder, case):
    """From the files alone, as OpenOOD's users read them, by scikit-learn."""
    inside, outside = (np.load(folder / "scores/whole/own" / c / f"{n}.npz") for c, n in case)
    assert (inside["label"] >= 0).all() and (outside["label"] == -1).all()
    assert inside["conf"].shape == inside["pred"].shape == (12,)
    label = np.repeat([1, 0], [12, len(outside["conf"])])
    return roc_auc_score(label, np.concatenate([inside["conf"], outside["conf"]]))


def test_detectors_are_judged_and_attacked(whole, tmp_path, capsys, monkeypatch):
    few = {name: outlier_attacks.CORRUPTIONS[name] for name in ("brightness", "contrast")}
    monkeypatch.setattr(outlier_attacks, "CORRUPTIONS", few)
    words = ["eval_ood", "smoke", "--runs", whole, "--detectors", "own", "--radii", 0.05, 0.2, "--corruption"]
    words += ["--composition", "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["whole"]["own"]["letters"]
    both = [
        auroc(tmp_path, [(c, "test"), (c, "letters")]) for c in ("clean", "adaptive_0.05", "adaptive_0.2")
    ]
    assert found["clean"]["auroc"] == pytest.approx(both[0])
    assert found["adaptive_0.2"]["auroc_both"] == pytest.approx(both[2]) and both[0] >= both[1] >= both[2]
    one = auroc(tmp_path, [("clean", "test"), ("adaptive_0.05", "letters")])
    assert found["adaptive_0.05"]["auroc_out"] == pytest.approx(one)
    worse = [auroc(tmp_path, [(c, "test"), (c, "letters")]) for c in ("corruption", "composition_0.2")]
    assert both[0] >= worse[0] >= worse[1]
    page = (tmp_path / "report.html").read_text()
    assert "No sign that an attack is weaker" in page and page.count("data:image/png") == 4

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").rglob("*.npz")}
    one = tmp_path / "scores/whole/own/adaptive_0.2/letters.npz"
    before = np.load(one)["conf"]
    one.unlink()  # as if it had been killed there
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(one)["conf"], before, atol=1e-5)
    assert [p for p, t in written.items() if p.stat().st_mtime_ns != t] == [one]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "exactly one of them must be given"),
        (("--runs", "a", "--detectors", "nonesuch"), "'nonesuch', must be of msp"),
        (("--runs", "a", "--radii", "0.2", "0.1"), "must rise from above 0"),
        (("--runs", "a", "--norm", "l2", "--attacks", "atom"), "linf, --norm is l2"),
        (("--runs", "a", "--composition"), "--composition needs --corruption"),
        (("--runs", "nowhere"), "holds no run of train_ood.py"),
    ],
)
def test_what_cannot_be_judged_is_refused(words, says, tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "eval_ood", "smoke", "--out", tmp_path / "no", *words)
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


def test_what_cannot_be_trained_is_refused(tmp_path, capsys, monkeypatch):
    for words, says in (
        (("--loss", "ntom", "--outliers", "noise/uniform"), "images to choose from"),
        (("--begin", 2), "share of the run"),
        (("--outliers", "nonesuch"), "no nonesuch"),
    ):
        done = scripts.call(capsys, monkeypatch, "train_ood", "smoke", "--out", tmp_path / "no", *words)
        assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()
