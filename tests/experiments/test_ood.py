"""Training on outliers and judging detectors, from the command line."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from sklearn.metrics import roc_auc_score

from experiments.ood_detection import compare, compare_data, compare_networks, run_folders, score_attacks
from robustjax.attacks.pgd import pgd
from robustjax.catalog import ood_losses
from robustjax.losses import gaussian_mixture
from robustjax.losses.ccu import mixed
from robustjax.models import small
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Batch, Pair

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ood_losses.METHODS)
def test_every_method_can_be_named(name):
    model = small.mlp(classes=ood_losses.outputs(name, 3), shape=(4, 4, 1), widths=(5,))
    images = jnp.asarray(RNG.uniform(size=(12, 4, 4, 1)), jnp.float32)
    axes = None
    if name == "ccu":
        axes = gaussian_mixture.principal(images)
        inside, outside = (
            gaussian_mixture.fitted(KEY, axes, x, components=2) for x in (images[:6], images[6:])
        )
        model = mixed(model, axes, inside, outside)
    ascent = pgd(Threat("linf", 0.1), steps=1, step_size=0.1)
    loss = ood_losses.loss(name, model, classes=3, around_data=ascent, around_outliers=ascent, axes=axes)
    pair = Pair(Batch(images[:6], jnp.arange(6) % 3), images[6:])
    value, (_, metrics) = jax.eval_shape(lambda *given: loss(*given), *model.init(KEY), pair, KEY)
    assert value.shape == () and {"risk"} <= metrics.keys()
    logits = model.apply(*model.init(KEY), images)[0]
    assert logits.shape == (12, ood_losses.outputs(name, 3))
    score = ood_losses.form(name, classes=3)(logits)
    assert score.shape == (12,) and jnp.isfinite(score).all()


def test_what_methods_ask_for_is_checked():
    with pytest.raises(ValueError, match="method is 'nonesuch', must be one of standard"):
        ood_losses.outputs("nonesuch", 3)
    assert ood_losses.outputs("sofl", 100) == 110 and ood_losses.outputs("aloe", 10) == 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of ATOM, which chooses its outliers."""
    out = tmp_path_factory.mktemp("ood") / "whole"
    done = scripts.run("ood_detection.train", "smoke", "--loss", "atom", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_that_chooses_its_outliers_resumes_bit_for_bit(whole, tmp_path, capsys, monkeypatch):
    torn, words = tmp_path / "torn", ("ood_detection.train", "smoke", "--loss", "atom", "--out")
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
    first, second = (run_folders.opened(str(folder)) for folder in (whole, torn))
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
    few = {name: score_attacks.CORRUPTIONS[name] for name in ("brightness", "contrast")}
    monkeypatch.setattr(score_attacks, "CORRUPTIONS", few)
    words = [
        "ood_detection.evaluate",
        "smoke",
        "--runs",
        whole,
        "--detectors",
        "own",
        "--radii",
        0.05,
        0.2,
        "--corruption",
    ]
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
    smooth = found["smoothed"]
    for side in ("out", "both"):
        at = smooth["0.1"]
        assert at[f"certified_{side}"] <= at[f"auroc_{side}"] <= smooth["auroc"]
    clean, moved = (np.load(tmp_path / f"scores/whole/own/smoothed{c}/letters.npz") for c in ("", "_0.1"))
    np.testing.assert_allclose(
        clean["conf"], np.sort(clean["copies"], axis=1)[:, 19]
    )  # the lower median of 40
    assert (moved["conf"] >= clean["conf"]).all()

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
        (("--runs", "nowhere"), "holds no run of ood_detection.train"),
    ],
)
def test_what_cannot_be_judged_is_refused(words, says, tmp_path, capsys, monkeypatch):
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", "--out", tmp_path / "no", *words
    )
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


def test_what_cannot_be_trained_is_refused(tmp_path, capsys, monkeypatch):
    for words, says in (
        (("--loss", "ntom", "--outliers", "noise/uniform"), "images to choose from"),
        (("--begin", 2), "share of the run"),
        (("--outliers", "nonesuch"), "no nonesuch"),
    ):
        done = scripts.call(
            capsys, monkeypatch, "ood_detection.train", "smoke", "--out", tmp_path / "no", *words
        )
        assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


def test_scenes_of_the_digits_are_as_described():
    one, other = (compare_data.scene(compare.PRESETS["digits"], seed) for seed in (0, 1))
    assert one["image"].shape == (758, 8, 8, 1) and one["test"].shape[0] == 325 and one["far"].shape[0] == 960
    assert one["near"].shape[0] == 360 and one["outside"].shape == (5, 300, 8, 8, 1)
    assert one["outside"].min() >= 0 and one["outside"].max() <= 1 and set(one["label"]) == set(range(6))
    rows = {image.tobytes() for image in one["image"]}
    assert not rows & {image.tobytes() for image in one["test"]}
    assert not {i.tobytes() for i in one["near"]} & {i.tobytes() for i in one["outside"][0]}
    np.testing.assert_array_equal(one["outside"][1][:, ::-1], one["test"][:300])
    np.testing.assert_array_equal(
        np.sort(one["outside"][3].reshape(300, 64)), np.sort(one["test"][:300].reshape(300, 64))
    )
    assert set(np.unique(one["outside"][4])) == {0.0, 1.0} and (one["test"] != other["test"]).any()
    np.testing.assert_allclose(one["far"][-200:].reshape(200, 64).max(1), 1)  # stretched noise


class Pretender:
    """Trains nothing; ALOE alone is told apart, and an attack by cross-entropy beats the score in one case."""

    def __init__(self, cfg):
        self.cfg = cfg

    def fit(self, cell, stop):
        return cell

    def measured(self, cell):
        rng, seeds, radii = np.random.default_rng(0), self.cfg.seeds, len(self.cfg.radii)
        inside = rng.normal(size=(seeds, 40)) + (8 if cell.method == "aloe" else 1)
        outside = rng.normal(size=(seeds, 5, 20))
        fall = np.arange(1, radii + 1)[None, :, None]
        lowered, raised = inside[:, None] - fall, outside[:, None] + fall[..., None]
        weaker = {
            "lowered_pgd": lowered,
            "raised_pgd": raised,
            "lowered_uniform": lowered + 1,
            "raised_uniform": raised - 1,
            "raised_entropy": raised,
        }
        shown = np.zeros((seeds, 5, 8, 8, 1))
        right = np.ones((seeds, radii + 1, 40))
        return {"inside": inside, "outside": outside, "lowered": lowered, "raised": raised, "right": right,
                "shown": shown, "shown_raised": shown, **weaker}  # fmt: skip


def test_the_comparison_on_digits_resumes_and_tells_what_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "Worker", Pretender)
    words = ("ood_detection.compare", "smoke", "--out", tmp_path)
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 14
    gone = tmp_path / "cells" / "far_aloe_0.1.npz"
    gone.unlink()
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0 and done.stderr.count("setting ") == 1, done.stderr
    assert [path for path, t in cells.items() if path.stat().st_mtime_ns != t] == [gone]
    facts = json.loads((tmp_path / "results.json").read_text())
    holds = {row["criterion"]: row["holds"] for row in facts["criteria"]}
    assert holds["accuracy of every network"] == "yes" and holds["adaptive attack less any other"] == "yes"
    assert holds["OE, the same"] == "NO" and holds["ALOE, the same"] == "yes"
    with np.load(gone) as file:
        pairs = [(file["lowered"][s, 1], file["raised"][s, 1, k]) for s in range(2) for k in range(5)]
    label = np.repeat([1, 0], [40, 20])
    both = np.mean([roc_auc_score(label, np.concatenate(pair)) for pair in pairs])
    (row,) = [r for r in facts["largest_radius"] if r["training"] == "ALOE"]
    assert float(row["both"].split()[0]) == pytest.approx(both, abs=1e-3)
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 5
    other = scripts.call(capsys, monkeypatch, *words, "--updates", 5)
    assert other.returncode == 2 and "updates" in other.stderr


def test_one_network_of_the_comparison_is_trained_and_attacked():
    cfg = dataclasses.replace(compare.PRESETS["smoke"], radii=(0.1,), seeds=1)
    worker = compare_networks.Worker(cfg)
    with jax.numpy_dtype_promotion("standard"):
        state = worker.fit(compare_networks.Cell("far", "aloe", 0.1), Stop(1))
        found = worker.measured(state)
    assert found["right"].shape == (1, 2, 325) and found["raised"].shape == (1, 1, 5, 20)
    assert (found["lowered"][:, 0] <= found["inside"]).all() and (
        found["raised"][:, 0] >= found["outside"]
    ).all()
    assert np.abs(found["shown_raised"] - found["shown"]).max() <= 0.1 + 1e-6
    kernel = np.asarray(worker._start(jnp.arange(1)).params["linear0"]["kernel"])
    assert kernel.std() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
