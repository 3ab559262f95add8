"""The theory script draws every figure, and what it writes agrees with golden numbers and with itself."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import scripts

from experiments.tradeoffs import theory
from experiments.tradeoffs.config import THEORY_PRESETS

VECTORS = pathlib.Path(__file__).parents[2] / "analysis" / "linear_vectors.json"
KIND = {"1": "l1", "2": "l2", "inf": "linf"}
FIGURES = {"weights", "share", "shift", "benefit", "phase"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("theory")
    with jax.numpy_dtype_promotion("standard"):
        theory.main(dataclasses.replace(THEORY_PRESETS["smoke"], out=str(out)))
    return out


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_it_leaves_a_report_with_every_figure(folder, results):
    assert {p.stem for p in (folder / "figures").iterdir()} == FIGURES
    assert "axes are ours" in (folder / "report.html").read_text()
    assert results["config"]["radii"] == 5 and "jax" in results["made_with"]["versions"]


@pytest.mark.slow
def test_the_table_is_the_golden_one(results):
    golden = {
        (KIND[c["inputs"]["p"]], c["inputs"]["b"]): c["expected"]
        for c in json.loads(VECTORS.read_text())["cases"]
        if c["kind"] == "opt2" and c["inputs"]["eps"] == 0.5
    }
    rows = {(row["budget"], row["spurious scale"]): row for row in results["anchors"]}
    assert rows.keys() == golden.keys()
    for key, row in rows.items():
        expected = golden[key]
        np.testing.assert_allclose([row["core weight"], row["spurious weight"]], expected["w"], atol=1e-6)
        assert row["adversarial risk"] == pytest.approx(expected["loss"], abs=1e-6)
        assert row["spurious share of variance"] == pytest.approx(expected["var_share"], abs=1e-6)
        assert (row["relies, by theorem"] == "yes") == (abs(expected["w"][1]) > 1e-9)


@pytest.mark.slow
def test_models_trained_against_pgd_come_near(results):
    assert len(results["trained"]) == 9
    for row in results["trained"]:
        assert row["away"] < 0.05, row


def test_curves_and_maps_say_what_the_claims_say(results):
    curves = results["shift"]["error"]
    for kind in ("l1", "l2", "linf"):
        reversed_, broken, halved, kept = (np.array(curves[kind][tau]) for tau in ("-1", "0", "0.5", "1"))
        assert (reversed_ >= broken).all() and (broken >= halved).all() and (halved >= kept).all()
        np.testing.assert_allclose(kept[0], 0.25)
        risk = {name: np.array(values) for name, values in results["benefit"]["risk"][kind].items()}
        assert (risk["preserved"] <= risk["core_only"] + 1e-12).all()
        assert (risk["broken"] >= risk["core_only"] - 1e-12).all()
    share, b = results["share"], np.array(results["share"]["b"])
    assert np.array(share["variance_share"]["l2"])[1:].min() > 0
    used = np.array(share["variance_share"]["linf"])[1:] > 0
    np.testing.assert_array_equal(used, np.broadcast_to(0.8 * b > 1, used.shape))
    phase = results["phase"]
    condition = 2 * np.outer(phase["b"], phase["correlation"])
    np.testing.assert_array_equal(np.array(phase["alike"]), condition > 1)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rho", "1.5"], "--rho is 1.5, must be in (0, 1)"),
        (["--sigma", "0"], "--sigma is 0, must be in (0, 1]"),
        (["--radii", "1"], "--radii is 1, must be at least 2"),
        (["--trained", "0.5", "-1"], "--trained is (0.5, -1.0), must be above 0"),
    ],
)
def test_one_line_and_exit_code_2(words, message, tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "tradeoffs.theory", "smoke", *words, "--out", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
