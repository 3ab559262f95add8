"""The comparison on shortcuts: what it leaves, how it resumes, trained networks, and its claims."""

import dataclasses
import shutil
import signal

import jax
import numpy as np
import pytest
import scripts

from experiments.tradeoffs import compare
from experiments.tradeoffs import results as numbers
from experiments.tradeoffs.config import COMPARE_PRESETS, HIGH_CONTRAST
from experiments.tradeoffs.trainer import Trainer
from robustjax.models import small, weights
from robustjax.types import Network

SCRIPT = "tradeoffs.compare"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tradeoffs") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert compare.main(dataclasses.replace(COMPARE_PRESETS["smoke"], out=str(out))) == 0
    return out


def contents(folder):
    return {path.stem: dict(np.load(path)) for path in (folder / "settings").iterdir()}


def test_it_trains_evaluates_and_reports(finished):
    found = contents(finished)
    assert found.keys() == {setting.name for setting in COMPARE_PRESETS["smoke"].grid()}
    for arrays in found.values():
        assert arrays["prediction/original"].shape == arrays["robust/original"].shape == (2, 24)
        assert arrays["weights/head.kernel"].shape == (2, 128, 10)
    report = (finished / "report.html").read_text()
    assert "agree" in report and "Images: 24 test scenes for each network" in report


def test_only_what_is_missing_is_trained(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    setting = COMPARE_PRESETS["smoke"].grid()[0]
    (out / "settings" / f"{setting.name}.npz").unlink()
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", out, "--correlations", 0.1, 0.5)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("setting ") == 3  # the one removed, and two that join the folder
    before, after = contents(finished), contents(out)
    assert len(after) == len(before) + 2
    for name, arrays in before.items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(after[name][key], value)
    other = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", out, "--epochs", 2)
    assert other.returncode == 2 and "epochs" in other.stderr


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    evaluate = Trainer.evaluate

    def then_stopped(self, setting, state):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(self, setting, state)

    monkeypatch.setattr(Trainer, "evaluate", then_stopped)
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", tmp_path)
    assert done.returncode == 143, done.stderr
    assert len(list((tmp_path / "settings").iterdir())) == 1 and not (tmp_path / "report.html").exists()


def test_run_folders_of_trained_classifiers(trained, tmp_path, capsys, monkeypatch):
    words = ["--out", tmp_path, "--runs", trained, "--test", 40]
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", *words)
    assert done.returncode == 0, done.stderr
    (arrays,) = contents(tmp_path).values()
    assert arrays["robust/original"].shape == (1, 40) and "noise/foreground" in arrays
    report = (tmp_path / "report.html").read_text()
    assert (
        "worst class" in report and "Images: 40 of 359 (a stratified subset) test images of digits" in report
    )


@pytest.mark.slow
def test_checkpoints_of_trained_classifiers(tmp_path, capsys, monkeypatch):
    asked = []

    def imported(path, *, architecture, classes, shape, entry, mean, std):
        asked.append((path, architecture, mean))
        model = small.linear(classes=classes, shape=shape)
        return Network(model, *model.init(jax.random.key(0)), {})

    monkeypatch.setattr(weights, "imported", imported)
    monkeypatch.setattr(weights, "candidates", lambda files, **settings: ())  # there is no file
    words = ("--checkpoints", "a/net.pt:resnet18:digits:none:linf:8/255", "--test", 40)
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert asked == [(["a/net.pt"], "resnet18", (0.0,))]  # digits are grey
    report = (tmp_path / "report.html").read_text()
    assert "net (resnet18)" in report and "linf 0.03137" in report


def test_every_setting_is_trained_once():
    grid = COMPARE_PRESETS["digits"].grid()
    assert len(grid) == len({setting.name for setting in grid}) == 26
    high = [s for s in grid if s.background == HIGH_CONTRAST and s.correlation == 0.8]
    radii = [("l2", 0), ("l2", 76.5), ("l2", 153), ("linf", 4), ("linf", 8)]
    assert [(s.norm, round(s.eps * 255, 2)) for s in high] == radii


def with_gap(gap, seeds=2, count=200):
    """Predictions with a given background gap."""
    label = np.arange(count) % 10
    random = np.where(np.arange(count) < gap * count, (label + 1) % 10, label)
    arrays = {"label": label, "prediction/mixed_same": label, "prediction/mixed_rand": random}
    return {name: np.broadcast_to(a, (seeds, count)) for name, a in arrays.items()}


def test_claims_are_compared_with_what_was_found():
    empty = numbers.Results({}, 0.8, 0.3, 768, 50)
    clean, robust = empty.multi(HIGH_CONTRAST), empty.multi(HIGH_CONTRAST, "l2", 0.6)
    for gap, outcome in ((0.3, "agrees"), (0.22, "does not agree")):
        results = empty._replace(settings={clean: with_gap(0.2), robust: with_gap(gap)})
        (claim,) = numbers.claims(results)  # the only one whose settings and arrays are there
        row = claim.row(results)
        assert row["outcome"] == outcome and row["found"].startswith(f"{gap - 0.2:.3f}")
        low, high = (float(w) for w in row["found"].split("(")[1][:-1].split(" to "))
        assert low <= gap - 0.2 <= high
        assert results.change(clean, clean, "gap") == "does not clearly change"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--l2", "0"], "--l2 is (0.0,), must be above 0"),
        (["--correlations", "1.2"], "must be in [0, 1]"),
        (["--seeds", "0"], "--seeds is 0, must be at least 1"),
        (["--digit", "17"], "--digit is 17, must be at most the 16 pixels"),
        (["--checkpoints", "net.pt:resnet18"], "must be file:architecture:dataset:normalisation:norm:eps"),
    ],
)
def test_bad_settings_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", tmp_path / "no", *words)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "no").exists()
