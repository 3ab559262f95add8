"""The command that prepares data, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from robustjax.data import load

ROOT = Path(__file__).parents[2]


def prepare(*words):
    command = [sys.executable, "-m", "experiments.data.prepare", *map(str, words)]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_prepare_then_list_then_again(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), np.uint8)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "mine.npz", x_train=image, y_train=np.arange(20) % 4)
    out = tmp_path / "out"
    first = prepare("mine", "--source", tmp_path / "raw", "--data-dir", out)
    assert first.returncode == 0, first.stderr
    split = load("mine", "train", data_dir=out)
    assert f"train: {split.info.count} images, 6 x 6 x 3, 4 classes" in first.stdout
    assert split.info.sha256 in first.stdout and str(out / "mine" / "1.0.0") in first.stdout
    listed = prepare("--list", "--data-dir", out)
    assert listed.returncode == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "20 train" in lines["mine"] and "embedded" in lines["digits"] and "embedded" in lines["letters"]


def test_what_goes_wrong_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, says in (
        (("mnist", "--source", tmp_path / "empty"), "holds no files"),
        (("mnist",), "--source FOLDER"),
    ):
        result = prepare(*words, "--data-dir", tmp_path / "out")
        assert result.returncode == 2 and not result.stdout
        assert says in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
