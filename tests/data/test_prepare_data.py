"""The command that prepares data, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import prepare as script
from robustjax.data import load

ROOT = Path(__file__).parents[2]


def quickly(capsys, monkeypatch, *words):
    """Do the same in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        script.run()
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


def prepare(*words):
    """Prepare in a process of its own."""
    command = [sys.executable, "-m", "experiments.data.prepare", *map(str, words)]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.slow
def test_prepare_then_list_then_again(tmp_path, capsys, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), np.uint8)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "mine.npz", x_train=image, y_train=np.arange(20) % 4)
    out = tmp_path / "out"
    first = prepare("mine", "--source", tmp_path / "raw", "--data-dir", out)
    assert first.returncode == 0, first.stderr
    split = load("mine", "train", data_dir=out)
    assert f"train: {split.info.count} images, 6 x 6 x 3, 4 classes" in first.stdout
    assert split.info.sha256 in first.stdout and str(out / "mine" / "1.0.0") in first.stdout
    code, said, _ = quickly(capsys, monkeypatch, "--list", "--data-dir", out)
    assert code == 0
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert "20 train" in lines["mine"] and "embedded" in lines["digits"] and "embedded" in lines["letters"]


def test_what_goes_wrong_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    for words, says in (
        (("mnist", "--source", tmp_path / "empty"), "holds no files"),
        (("mnist",), "--source FOLDER"),
        (("mnist", "--source", tmp_path / "empty", "--size", 0), "--size is 0, must be at least 1"),
    ):
        code, said, wrong = quickly(capsys, monkeypatch, *words, "--data-dir", tmp_path / "out")
        assert code == 2 and not said
        assert says in wrong and len(wrong.splitlines()) == 1
    assert not (tmp_path / "out").exists()
