"""Certified, attacked, undecided: exact on a linear network, resumed, and never contradictory."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.classification import certify
from experiments.classification.certify_report import Bracket
from robustjax import data
from robustjax.data import subsets

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def logits(x):
    """The network: fixed random weights on the digits."""
    return x.reshape(len(x), -1) @ WEIGHTS


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    source = ("--source.function", "test_certify_script:logits", "--source.dataset", "digits")
    return lambda *words: scripts.call(
        capsys, monkeypatch, "classification.certify", "smoke", *source, *words
    )


def exact(eps):
    """Of a linear network every bound is exact: per class, each feature goes to its end of ball and box."""
    test = subsets.subset(data.load("digits", "test"), 20)
    x, y = test.image.reshape(20, -1).astype(np.float64) / 255, test.label
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    apart = WEIGHTS.astype(np.float64).T[None] - WEIGHTS.astype(np.float64).T[y][:, None]  # (n, k, d)
    worst = np.maximum(apart * low[:, None], apart * high[:, None]).sum(axis=2)
    worst[np.arange(20), y] = -np.inf
    return worst.max(axis=1) < 0


@pytest.mark.slow
def test_a_linear_network_is_certified_exactly_and_the_run_resumes(run, tmp_path, monkeypatch):
    done = run("--out", tmp_path, "--methods", "ibp", "--eps", "0.002")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    for row, eps in zip(found["table"], (0.001, 0.002), strict=True):
        assert row["ibp %"] == pytest.approx(100 * exact(eps).mean())
        assert row["ibp %"] <= row["attacked %"] <= found["clean %"]
        assert row["undecided %"] == pytest.approx(row["attacked %"] - row["ibp %"])
    assert found["table"][0]["ibp %"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "undecided" in page and (tmp_path / "figures/bracket.png").exists()
    (tmp_path / "results.json").unlink()
    again = run("--out", tmp_path, "--methods", "ibp", "--eps", "0.002")
    assert again.returncode == 0 and "% certified" not in again.stdout + again.stderr
    assert json.loads((tmp_path / "results.json").read_text())["table"] == found["table"]

    # Another network of the same name, such as one trained since, is measured itself.
    module = sys.modules["test_certify_script"]
    monkeypatch.setattr(module, "WEIGHTS", WEIGHTS[::-1].copy())
    other = run("--out", tmp_path, "--methods", "ibp", "--eps", "0.002")
    assert other.returncode == 0 and "% certified" in other.stdout + other.stderr
    test = subsets.subset(data.load("digits", "test"), 20)
    right = (module.logits(test.image.astype(np.float32) / 255).argmax(axis=1) == test.label).mean()
    assert json.loads((tmp_path / "results.json").read_text())["clean %"] == pytest.approx(100 * right)
    assert right != pytest.approx(found["clean %"] / 100)


def test_what_is_certified_cannot_be_broken():
    sure = np.array([[[True, False]]])
    with pytest.raises(RuntimeError, match=r"test image 0 is certified and broken at radius 0\.1"):
        certify.require_consistent(
            Bracket(np.array([0.1]), np.ones(2, bool), sure, np.array([[False, True]]))
        )


@pytest.mark.parametrize(
    "words, message",
    [
        (("--eps", "8"), "write 8/255"),
        (("--methods", "ibp", "ibp"), "--methods are ibp ibp, must be different ones"),
    ],
)
def test_settings_are_checked(run, tmp_path, words, message):
    done = run("--out", tmp_path, *words)
    assert done.returncode == 2 and message in done.stderr


def hat(x):
    """A network that always says 0: the second logit is a hat over the mean of the image, 0.1 high at most."""
    s = 10.0 * (x.reshape(len(x), -1).mean(axis=1) - 0.3)
    rise = jax.nn.relu(s + 0.1) - 2.0 * jax.nn.relu(s) + jax.nn.relu(s - 0.1)
    return jnp.stack([jnp.full_like(s, 0.11), rise, *[jnp.full_like(s, -1.0)] * 8], axis=1)


@pytest.mark.slow
def test_what_bounds_leave_open_goes_to_branch_and_bound(run, tmp_path):
    """A hat that stays below the first logit: every image of a 0 is robust at every radius, the others are wrong."""
    source = ("--source.function", "test_certify_script:hat", "--methods", "ibp", "crown")
    words = (*source, "--eps", "0.06", "--radii", "1", "--budget", "5", "--domains", "4", "--out", tmp_path)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    (row,) = found["table"]
    assert row["crown %"] <= row["branch and bound %"] <= row["attacked %"] == found["clean %"]
    assert row["undecided %"] == pytest.approx(row["attacked %"] - row["branch and bound %"])
    tried = found["branch and bound"]
    assert tried and "attacked" not in {one["status"] for one in tried}
    assert "Branch and bound, 5 seconds" in (tmp_path / "report.html").read_text()
    again = run(*words)  # the journal tells what was found
    assert again.returncode == 0 and "sub-domains" not in again.stdout + again.stderr
    (journal,) = tmp_path.glob("branch_*.jsonl")
    assert len(journal.read_text().splitlines()) == len(tried)
