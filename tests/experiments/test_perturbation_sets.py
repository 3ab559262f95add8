"""The script of learned perturbation sets: what it leaves, that it resumes, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import scripts

from experiments.perturbation_sets import compare, compare_networks, compare_report


def test_it_learns_judges_and_tells(tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "perturbation_sets.compare", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "certified at 0 and each radius" in done.stdout
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png") == 4 and "The worst that the attack found" in text
    with np.load(tmp_path / "cells" / "lighting_0.npz") as cell:
        assert cell["plain/robust"].shape == (4, len(cell["label"])) and (np.diff(cell["eps"]) >= 0).all()
        # Whoever is broken in a ball may only be broken by luck in a larger one, but the errors are ordered.
        assert (cell["quality/nearest"] <= cell["quality/encoded"] + 1e-6).all()
        before = cell["plain/robust"]

    def fail(*args):
        raise AssertionError("what is done was done again")

    monkeypatch.setattr(compare_networks, "study", fail)
    again = scripts.call(capsys, monkeypatch, "perturbation_sets.compare", "smoke", "--out", tmp_path)
    assert again.returncode == 0 and again.stdout == done.stdout and before.any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"families": ("fog",)}, "'fog', must be of lighting, warps"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"copies": 5}, "--copies is 5"),
        ({"images": 100}, "--images is 100"),
        ({"targets": ("most",)}, "'most', must be of median"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(compare.PRESETS["digits"], **settings).check()


def test_the_gates_can_fail():
    rng = np.random.default_rng(0)
    n, eps = 40, np.array([1.0, 2.0, 3.0, 4.0])
    cell = {"eps": eps, "label": np.zeros(n, int), "lengths": rng.uniform(size=n), "divergence": np.ones(3)}
    for name in compare_report.Quality._fields:
        cell[f"quality/{name}"] = np.ones((4, n))
    for method in compare_networks.METHODS:
        for what in ("clean", "perturbed", "square"):
            cell[f"{method}/{what}"] = np.ones(n, bool)
        cell[f"{method}/robust"] = np.ones((4, n), bool)
    for target in compare_networks.TARGETS:
        cell[f"smoothed {target}/label"] = np.zeros(n, int)
        cell[f"smoothed {target}/radius"] = np.full(n, 2.5)
        cell[f"smoothed {target}/robust"] = np.ones((5, n), bool)
    gates = list(compare_report.summarised([cell]).gates.values())
    assert gates == [False, True, True, True, True, True]
    cell["smoothed median/robust"] = np.zeros((5, n), bool)
    cell["adversarial/robust"] = np.zeros((4, n), bool)
    cell["adversarial/square"] = np.zeros(n, bool)
    cell["plain/square"] = np.zeros(n, bool)
    cell["quality/nearest"] = np.full((4, n), 2.0)
    gates = list(compare_report.summarised([cell]).gates.values())
    assert gates == [False, False, False, False, False, True]
