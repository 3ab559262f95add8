"""The benchmark of certificates runs, and both sides certify the same classifier."""

import json

import pytest
import scripts


@pytest.mark.slow
def test_smoke(tmp_path, capsys, monkeypatch):
    words = ("smoke", "--peer-images", 0, "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.certify", *words)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "lines.jsonl").read_text().splitlines()
    (row,) = json.loads(line)["results"]
    assert row["contender"] == "ours" and row["images"] == 2 and row["per_minute"] > 0
    assert "ours" in done.stdout and "certify convnet_small" in done.stderr


@pytest.mark.oracle
def test_both_sides_certify_the_same(capsys, monkeypatch, tmp_path):
    """With hardly any noise every sample has the class of the image: labels agree and radii are as large as can be."""
    pytest.importorskip("torch")
    words = ("smoke", "--images", 3, "--peer-images", 3, "--sigma", 1e-4, "--samples", 40, "--batch-size", 16)
    done = scripts.call(capsys, monkeypatch, "benchmarks.certify", *words, "--out", tmp_path / "lines.jsonl")
    assert done.returncode == 0, done.stderr
    mine, other = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    assert other["contender"] == "pytorch" and other["same_label"] == 1.0
    assert mine["abstained"] == other["abstained"] == 0.0


def test_invalid_settings_are_refused(capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "benchmarks.certify", "smoke", "--peer-images", 3)
    assert done.returncode == 2 and "--peer-images is 3" in done.stderr
    done = scripts.call(capsys, monkeypatch, "benchmarks.certify", "smoke", "--networks", "mlp")
    assert done.returncode == 2 and "invalid choice 'mlp'" in done.stderr + done.stdout
