"""The command that compares trainings on learned sets: what it leaves, that it resumes, and its summary."""

import numpy as np
import pytest
import scripts

from experiments.perturbation_sets import compare_report
from experiments.perturbation_sets.compare_networks import METHODS
from experiments.perturbation_sets.config import TARGETS
from robustjax.perturbations.quality import Quality


@pytest.mark.slow
def test_it_learns_measures_and_reports_once(tmp_path, capsys, monkeypatch):
    words = ["perturbation_sets.compare", "smoke", "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    assert "certified at 0 and each radius" in done.stdout
    assert "The worst that the attack found" in (tmp_path / "report.html").read_text()
    place = tmp_path / "cells" / "lighting_0.npz"
    with np.load(place) as cell:
        assert cell["plain/robust"].shape == (4, len(cell["label"])) and (np.diff(cell["eps"]) >= 0).all()
        # Whoever is broken in a ball may only be broken by luck in a larger one, but the errors are ordered.
        assert (cell["quality/nearest"] <= cell["quality/encoded"] + 1e-6).all()
        assert cell["plain/robust"].any()
    written = place.stat().st_mtime_ns
    again = scripts.call(capsys, monkeypatch, *words)
    assert again.returncode == 0 and again.stdout == done.stdout and place.stat().st_mtime_ns == written


def test_the_gates_can_fail():
    rng = np.random.default_rng(0)
    n, eps = 40, np.array([1.0, 2.0, 3.0, 4.0])
    cell = {"eps": eps, "label": np.zeros(n, int), "norms": rng.uniform(size=n), "divergence": np.ones(3)}
    for name in Quality._fields:
        cell[f"quality/{name}"] = np.ones((4, n))
    for method in METHODS:
        for what in ("clean", "perturbed", "square"):
            cell[f"{method}/{what}"] = np.ones(n, bool)
        cell[f"{method}/robust"] = np.ones((4, n), bool)
    for target in TARGETS:
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
