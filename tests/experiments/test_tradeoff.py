"""The trade-off script: what it leaves, how it resumes, other people's networks, and its verdicts."""

from typing import ClassVar

import jax
import numpy as np
import scripts

from experiments.tradeoffs import compare, other_networks
from experiments.tradeoffs import results as numbers
from experiments.tradeoffs.networks import ATTACKED
from robustjax.data import planted
from robustjax.models import small, weights

TINY = ["smoke", "--out"]


def test_it_trains_measures_and_tells(tmp_path):
    done = scripts.run("tradeoffs.compare", *TINY, tmp_path)
    assert done.returncode == 0, done.stderr
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 6 == done.stderr.count("setting ")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 5 and "agree" in page
    with np.load(cells[0]) as file:
        assert file["prediction/original"].shape == (2, 24) and file["weights/head.kernel"].shape == (
            2,
            128,
            10,
        )


class Pretender:
    """Trains nothing, and is killed on the way if told to."""

    trained: ClassVar[list] = []
    killed_at: ClassVar = None

    def __init__(self, cfg, classes, source):
        self.cfg = cfg

    def fit(self, cell, stop):
        if len(Pretender.trained) == Pretender.killed_at:
            raise KeyboardInterrupt
        Pretender.trained.append(cell)
        return cell

    def measured(self, cell, state):
        shape = (self.cfg.seeds, self.cfg.test)
        names = [f"prediction/{v}" for v in planted.VARIANTS] + [f"robust/{v}" for v in ATTACKED]
        noise = {f"noise/{part}": np.ones((*shape, 4)) for part in ("foreground", "background")}
        return {"label": np.zeros(shape, int)} | {name: np.zeros(shape, int) for name in names} | noise


def test_it_resumes_from_finished_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "Worker", Pretender)
    monkeypatch.setattr(Pretender, "trained", [])
    monkeypatch.setattr(Pretender, "killed_at", 2)
    done = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path)
    assert done.returncode == 130 and len(list((tmp_path / "cells").iterdir())) == 2
    before = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}

    monkeypatch.setattr(Pretender, "killed_at", None)
    done = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(Pretender.trained) == len(set(Pretender.trained)) == 6  # none twice
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (tmp_path / "report.html").exists()

    done = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path, "--correlations", 0.1, 0.5)
    assert done.returncode == 0 and len(Pretender.trained) == 8  # more settings join the folder
    other = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path, "--epochs", 2)
    assert other.returncode == 2 and "epochs" in other.stderr


def test_networks_that_others_trained(trained, tmp_path):
    words = ["--runs", trained, "--test", 40]
    done = scripts.run("tradeoffs.compare", *TINY, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    (cell,) = (tmp_path / "cells").iterdir()
    found = compare.unpacked(cell)
    assert found["robust/original"].shape == (1, 40) and "noise/foreground" in found
    assert "worst class" in (tmp_path / "report.html").read_text()


def test_checkpoints_that_others_trained(tmp_path, capsys, monkeypatch):
    asked = []

    def imported(source, test):
        asked.append((source.checkpoint, source.architecture, source.normalisation))
        model = small.linear(classes=len(test.info.classes), shape=test.image.shape[1:])
        return weights.Imported(model, *model.init(jax.random.key(0)), (0.0,), (1.0,), "0" * 64)

    monkeypatch.setattr(other_networks.subjects, "imported", imported)
    words = ("--checkpoints", "a/net.pt:resnet18:digits:none:linf:8/255", "--test", 40)
    done = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert asked == [("a/net.pt", "resnet18", "none")]
    page = (tmp_path / "report.html").read_text()
    assert "net (resnet18)" in page and "linf 0.03137" in page


def test_every_setting_is_trained_once():
    cells = compare.grid(compare.PRESETS["digits"])
    assert len(cells) == len({c.name for c in cells}) == 26
    strong = [c for c in cells if c.background == numbers.STRONG and c.correlation == 0.8]
    radii = [("l2", 0), ("l2", 76.5), ("l2", 153), ("linf", 4), ("linf", 8)]
    assert [(c.norm, round(c.eps * 255, 2)) for c in strong] == radii


def made_up(gap, seeds=2, count=200):
    """Predictions with a given background gap."""
    label = np.arange(count) % 10
    random = np.where(np.arange(count) < gap * count, (label + 1) % 10, label)
    arrays = {"label": label, "prediction/mixed_same": label, "prediction/mixed_rand": random}
    return {name: np.broadcast_to(a, (seeds, count)) for name, a in arrays.items()}


def test_verdicts_say_what_was_found():
    results = numbers.Results({}, 0.8, 0.3, 768, 50)
    plain, robust = results.multi(numbers.STRONG), results.multi(numbers.STRONG, "l2", 0.6)
    for gap, verdict in ((0.3, "agrees"), (0.22, "does not agree")):
        results.cells.update({plain: made_up(0.2), robust: made_up(gap)})
        (claim,) = numbers.claims(results)  # the only one whose settings and arrays are there
        row = claim.judged(results)
        assert row["verdict"] == verdict and row["found"].startswith(f"{gap - 0.2:.3f}")
        low, high = (float(w) for w in row["found"].split("(")[1][:-1].split(" to "))
        assert low <= gap - 0.2 <= high
    assert results.change(plain, plain, "gap") == "does not clearly change"


def test_what_cannot_be_meant_is_refused(tmp_path, capsys, monkeypatch):
    for words, message in (
        (["--l2", "0"], "must be above 0"),
        (["--correlations", "1.2"], "must be in [0, 1]"),
        (["--seeds", "0"], "--seeds is 0, must be at least 1"),
        (["--checkpoints", "net.pt:resnet18"], "must be file:architecture:dataset:normalisation:norm:eps"),
    ):
        done = scripts.call(capsys, monkeypatch, "tradeoffs.compare", *TINY, tmp_path / "no", *words)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "no").exists()
