"""Training on OOD images and evaluating detectors, from the command line."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import scripts
from sklearn.metrics import roc_auc_score

from experiments.ood_detection import compare, compare_networks, config, networks, scoring
from experiments.ood_detection.compare_results import Results
from robustjax import data
from robustjax.catalog import scores as catalog_scores

ATOM = ("ood_detection.train", "smoke", "--loss", "atom", "--ood-augment", "flip", "--out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of ATOM, which chooses its OOD images."""
    out = tmp_path_factory.mktemp("ood") / "whole"
    done = scripts.run(*ATOM, out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_that_chooses_its_ood_images_resumes_bit_for_bit(whole, tmp_path, capsys, monkeypatch):
    torn, words = tmp_path / "torn", ATOM
    assert "OOD images under attack" in (whole / "report.html").read_text()
    assert sorted(path.name for path in (whole / "mined").iterdir()) == ["00000000.npz", "00000003.npz"]
    with np.load(whole / "mined" / "00000003.npz") as file:
        assert len(set(file["rows"])) == 4 * 16 * 3 // 4
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "checkpoints" / "6")  # back to update 4, in the middle of what was chosen at 3
    done = scripts.run(*words, torn)  # compiled as the first run was
    assert done.returncode == 0, done.stderr
    lines = [[json.loads(t) for t in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, torn)]
    assert lines[0] == lines[1] and lines[0][-1]["step"] == 5 and "valid_auroc_both" in lines[0][-1]
    test = data.load("digits", "test")
    first, second = (networks.trained(str(folder), test) for folder in (whole, torn))
    assert first.about["checkpoint"] == second.about["checkpoint"] == 6 and first.about["method"] == "atom"
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    other = scripts.call(capsys, monkeypatch, *words, torn, "--weight", 2)
    assert other.returncode == 2 and "weight" in other.stderr


@pytest.mark.slow
def test_both_protocols_with_what_the_papers_search(whole, tmp_path, capsys, monkeypatch):
    """The preset of six sets on one set, at one radius, with a search of two magnitudes."""
    for name, one in catalog_scores.TUNABLE_ALOE.items():
        few = one.grid | {"magnitude": one.grid["magnitude"][:2]}
        monkeypatch.setitem(catalog_scores.TUNABLE_ALOE, name, one._replace(grid=few))
    words = ["ood_detection.evaluate", "smoke", "--runs", whole, "--detectors", "mahalanobis_layers"]
    words += [
        "--attacks",
        "atom",
        "aloe",
        "--radii",
        "1/255",
        "8/255",
        "--no-certify",
        "--sigma",
        0,
        "--search",
    ]
    words += ["--grids", "aloe", "--search-ood", "noise/uniform", "--search-images", 20, "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    tried = json.loads((tmp_path / "searches/whole/mahalanobis_layers.json").read_text())
    assert [t["settings"]["magnitude"] for t in tried["tried"]] == pytest.approx([0, 0.0002])
    assert tried["chosen"]["fpr"] == min(t["fpr"] for t in tried["tried"])
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["whole"]
    atom, aloe = (found["mahalanobis_layers"]["letters"][f"{name}_0.03137"] for name in ("atom", "aloe"))
    assert atom["auroc_out"] <= atom["auroc_clean"] == atom["auroc_in"]
    assert aloe["auroc_both"] <= aloe["auroc_clean"] + 0.02


def auroc(folder, case):
    """From the files alone, as OpenOOD's users read them, by scikit-learn."""
    inside, outside = (np.load(folder / "scores/whole/own" / c / f"{n}.npz") for c, n in case)
    assert (inside["label"] >= 0).all() and (outside["label"] == -1).all()
    assert inside["conf"].shape == inside["pred"].shape == (12,)
    label = np.repeat([1, 0], [12, len(outside["conf"])])
    return roc_auc_score(label, np.concatenate([inside["conf"], outside["conf"]]))


def test_detectors_are_evaluated_and_attacked(whole, tmp_path, capsys, monkeypatch):
    words = ["ood_detection.evaluate", "smoke", "--runs", whole, "--detectors", "own", "--radii", 0.05, 0.2]
    words += ["--corruption", "--composition", "--out", tmp_path]
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
    assert "Signs that an attack is weaker" in page or "No sign that an attack is weaker" in page
    attacked = np.load(tmp_path / "attacks/whole/own/adaptive_0.2/results.npz")
    assert list(attacked["attacks"]) == ["apgd-score", "square"] and len(attacked["index"]) == 24
    assert 0 < found["clean"]["mean maximum confidence"] <= 1
    smooth = found["smoothed"]
    for side in ("out", "both"):
        at = smooth["0.1"]
        assert at[f"certified_{side}"] <= at[f"auroc_{side}"] <= smooth["auroc"]
    clean, moved = (np.load(tmp_path / f"scores/whole/own/smoothed{c}/letters.npz") for c in ("", "_0.1"))
    lower_median = np.sort(clean["samples"], axis=1)[:, 19]  # of 40
    np.testing.assert_allclose(clean["conf"], lower_median)
    assert (moved["conf"] >= clean["conf"]).all()

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").rglob("*.npz")}
    one = tmp_path / "scores/whole/own/adaptive_0.2/letters.npz"
    before = np.load(one)["conf"]
    one.unlink()  # as if it had been killed there
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(one)["conf"], before, atol=1e-5)
    assert [p for p, t in written.items() if p.stat().st_mtime_ns != t] == [one]


MINE = """
import jax.numpy as jnp
from robustjax.attacks import pgd
from robustjax.ood import ScoreAttack, raised

def logits_fn(x):
    flat = x.reshape(len(x), -1)
    return jnp.concatenate([flat[:, :9], flat.mean(axis=1, keepdims=True)], axis=1)

def my_score(logits_fn):
    return lambda x: logits_fn(x).max(axis=-1)

def my_attack(threat, detector, *, steps, restarts):
    ascent = pgd(threat, steps=steps, step_size=threat.eps)
    return ScoreAttack(on_id=None, on_ood=raised(ascent, detector.score))
"""


@pytest.mark.slow
def test_what_gradients_miss_is_found_and_said(tmp_path, capsys, monkeypatch):
    """A plateau with a cliff behind it: no gradient, and the default attack crosses it."""
    (tmp_path / "plateau_for_ood_script.py").write_text(PLATEAU)
    monkeypatch.chdir(tmp_path)
    words = ["--source.function", "plateau_for_ood_script:logits_fn", "--source.dataset", "digits"]
    words += [
        "--ood-sets",
        "noise/uniform",
        "--sigma",
        0,
        "--no-certify",
        "--masking-checks",
        "--radii",
        0.1,
        0.2,
    ]
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", *words, "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (entry,) = facts["metrics"].values()
    found = entry["msp"]["noise/uniform"]
    by_gradient = np.load(
        tmp_path / "out/attacks/plateau_for_ood_script_logits_fn/msp/adaptive_0.2/results.npz"
    )
    rows = ~by_gradient["is_id"]
    assert (by_gradient["scores"][0][rows] == by_gradient["clean"][rows]).mean() > 0.5  # APGD
    assert (by_gradient["worst"][rows] > by_gradient["clean"][rows]).all()
    assert found["adaptive_0.2"]["auroc_out"] <= found["clean"]["auroc"]
    names = [
        flag["name"]
        for seen in facts["flags"].values()
        for one in seen.values()
        for flag in one
        if flag["raised"]
    ]
    assert "black box ahead on OOD" in names and "saturation on OOD" in names
    assert "black box ahead on OOD" in (tmp_path / "out" / "report.html").read_text()

    # Another function of that name has no business in this folder.
    (tmp_path / "plateau_for_ood_script.py").write_text(PLATEAU.replace("0.55", "0.2"))
    monkeypatch.delitem(sys.modules, "plateau_for_ood_script")
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", *words, "--out", tmp_path / "out"
    )
    assert done.returncode == 2 and "another network" in done.stderr


PLATEAU = """
import jax
import jax.numpy as jnp

def logits_fn(x):
    rise = 20 * jax.nn.relu(x.mean(axis=(1, 2, 3)) - 0.55)
    return jnp.concatenate([rise[:, None], jnp.zeros((len(x), 9))], axis=1)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mahalanobis", "reads inner activations, which"),
        ("vim", "reads inner activations, which"),
        ("mine_for_ood_script:two_numbers", "must give (3,)"),
    ],
)
def test_detectors_that_cannot_be_had_are_refused_before_any_is_run(
    name, says, tmp_path, capsys, monkeypatch
):
    (tmp_path / "mine_for_ood_script.py").write_text(
        MINE + "\ndef two_numbers(logits_fn):\n    return logits_fn\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [
        "--source.function",
        "mine_for_ood_script:logits_fn",
        "--source.dataset",
        "digits",
        "--detectors",
        "msp",
        name,
    ]
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", *words, "--out", tmp_path / "no"
    )
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


def test_test_images_alone_serve_detectors_that_are_not_fitted(tmp_path, capsys, monkeypatch):
    def load(name, split, **settings):
        if split != "test":
            raise ValueError(f"load: {name} has no {split} images here, it has test")
        return real(name, split, **settings)

    real = data.load
    monkeypatch.setattr(scoring.data, "load", load)
    (tmp_path / "mine_for_ood_script.py").write_text(MINE + "\ndef other(x):\n    return -logits_fn(x)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_for_ood_script", raising=False)
    words = ["--source.function", "mine_for_ood_script:logits_fn", "--source.dataset", "digits", "--sigma", 0]
    words += ["--no-certify", "--attacks", "--out", tmp_path / "out"]
    done = scripts.call(capsys, monkeypatch, "ood_detection.evaluate", "smoke", *words)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"].values()
    assert entry["msp"]["id"]["conformal"] is None and entry["msp"]["letters"]["clean"]["auroc"] > 0
    other = [w.replace(":logits_fn", ":other") if isinstance(w, str) else w for w in words]
    done = scripts.call(capsys, monkeypatch, "ood_detection.evaluate", "smoke", *other)  # joins the folder
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (tmp_path / "out" / "scores").iterdir()}
    assert kept == {"mine_for_ood_script_logits_fn", "mine_for_ood_script_other"}
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", *words, "--detectors", "msp", "ssd"
    )
    assert done.returncode == 2 and "ssd is fitted to training and validation images" in done.stderr


def test_radii_are_those_of_the_data_set():
    assert config.EvaluateConfig().with_radii_of("mnist").radii == (0.1, 0.3)
    assert config.EvaluateConfig().with_radii_of("cifar10").radii == (4 / 255, 8 / 255)
    assert config.EvaluateConfig(radii=(0.2,)).with_radii_of("mnist").radii == (0.2,)
    assert config.EvaluateConfig(attacks=()).with_radii_of("mnist").radii == ()


@pytest.mark.slow
def test_a_network_a_score_and_an_attack_of_ones_own(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_for_ood_script.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    mine = "mine_for_ood_script"
    words = [
        "--source.function",
        f"{mine}:logits_fn",
        "--source.dataset",
        "digits",
        "--out",
        tmp_path / "out",
    ]
    words += ["--detectors", f"{mine}:my_score", "--attacks", f"{mine}:my_attack"]
    done = scripts.call(capsys, monkeypatch, "ood_detection.evaluate", "smoke", "--sigma", 0, *words)
    assert done.returncode == 0, done.stderr
    (detectors,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"].values()
    found = detectors[f"{mine}:my_score"]["letters"][f"{mine}_my_attack_0.1"]
    assert found["auroc_in"] == found["auroc_clean"] >= found["auroc_out"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "exactly one must be given"),
        (("--runs", "a", "--detectors", "nonesuch"), "'nonesuch', must be one of msp"),
        (("--runs", "a", "--radii", "0.2", "0.1"), "must rise from above 0"),
        (("--runs", "a", "--norm", "l2", "--attacks", "atom"), "linf, --norm is l2"),
        (("--runs", "a", "--composition"), "--composition needs --corruption"),
        (("--runs", "nowhere"), "holds no run of ood_detection.train"),
    ],
)
def test_bad_input_to_evaluate_is_refused(words, says, tmp_path, capsys, monkeypatch):
    done = scripts.call(
        capsys, monkeypatch, "ood_detection.evaluate", "smoke", "--out", tmp_path / "no", *words
    )
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--loss", "ntom", "--ood-sets", "noise/uniform"), "images to choose from"),
        (("--loss", "nonesuch"), "must be one of standard"),
        (("--ood-start", 2), "--ood-start is 2, must be in [0, 1]"),
        (("--ood-sets", "nonesuch"), "no nonesuch"),
    ],
)
def test_bad_input_to_train_is_refused(words, says, tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "ood_detection.train", "smoke", "--out", tmp_path / "no", *words)
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "no").exists()


def test_images_of_the_comparison_are_as_described():
    one, other = (compare_networks.images_of(config.CompareConfig(), seed) for seed in (0, 1))
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


SMOKE = compare.PRESETS["smoke"]


def made_up(setting):
    """Scores in which only ALOE separates ID from OOD."""
    rng, seeds, radii = np.random.default_rng(0), SMOKE.seeds, len(SMOKE.radii)
    inside = rng.normal(size=(seeds, 40)) + (8 if setting.method == "aloe" else 1)
    outside = rng.normal(size=(seeds, 5, 20))
    fall = np.arange(1, radii + 1)[None, :, None]
    lowered, raised = inside[:, None] - fall, outside[:, None] + fall[..., None]
    shown = np.zeros((seeds, 5, 8, 8, 1))
    return {
        "inside": inside,
        "outside": outside,
        "lowered": lowered,
        "raised": raised,
        "lowered_pgd": lowered,
        "raised_pgd": raised,
        "lowered_uniform": lowered + 1,
        "raised_uniform": raised - 1,
        "raised_entropy": raised,
        "right": np.ones((seeds, radii + 1, 40)),
        "shown": shown,
        "shown_raised": shown,
    }


def test_results_of_the_comparison_say_what_holds():
    found = {setting: made_up(setting) for setting in SMOKE.settings()}
    results = Results(found, compare_networks.SETS, SMOKE.radii, SMOKE.near_eps, SMOKE.resamples)
    holds = {row["criterion"]: row["holds"] for row in results.claims()}
    assert holds["accuracy of every network"] == "yes" and holds["adaptive attack less any other"] == "yes"
    assert holds["OE, the same"] == "NO" and holds["ALOE, the same"] == "yes"
    aloe = found[config.Setting("far", "aloe", 0.1)]
    pairs = [(aloe["lowered"][s, 1], aloe["raised"][s, 1, k]) for s in range(2) for k in range(5)]
    label = np.repeat([1, 0], [40, 20])
    both = np.mean([roc_auc_score(label, np.concatenate(pair)) for pair in pairs])
    assert results.value("far", "aloe", 0.1, 0.1) == pytest.approx(both)


@pytest.mark.slow
def test_the_comparison_trains_and_attacks_what_is_missing(tmp_path, capsys, monkeypatch):
    missing = config.Setting("far", "acet", 0.05)
    (tmp_path / "cells").mkdir()
    for setting in SMOKE.settings():
        if setting != missing:
            np.savez(tmp_path / "cells" / f"{setting.name}.npz", **made_up(setting))
    words = ("ood_detection.compare", "smoke", "--out", tmp_path)
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0 and done.stderr.count("setting ") == 1, done.stderr
    found = dict(np.load(tmp_path / "cells" / f"{missing.name}.npz"))
    assert found["right"].shape == (2, 3, 325) and found["raised"].shape == (2, 2, 5, 20)
    assert (found["lowered"][:, 0] <= found["inside"]).all()
    assert (found["raised"][:, 0] >= found["outside"]).all()
    assert np.abs(found["shown_raised"] - found["shown"]).max() <= 0.1 + 1e-6
    facts = json.loads((tmp_path / "results.json").read_text())
    (row,) = [r for r in facts["largest_radius"] if r["training"] == "ALOE"]
    assert 0.5 < float(row["both"].split()[0]) < 1 and (tmp_path / "report.html").exists()
    other = scripts.call(capsys, monkeypatch, *words, "--updates", 5)
    assert other.returncode == 2 and "updates" in other.stderr
