"""What is wrong with the input ends in one clear line, exit code 2, and nothing overwritten."""

import json
import shutil

import pytest
import scripts
import tyro

from experiments.classification.config import TrainConfig
from experiments.shared import command_line
from robustjax.runtime.provenance import plain
from robustjax.runtime.run_folder import from_plain

CASES = {
    "unknown preset": ("classification.train", ["mnits"], "preset is 'mnits', must be one of digits, mnist"),
    "negative radius": (
        "classification.train",
        ["smoke", "--attack.eps", "-1"],
        "--attack.eps is -1, must be at least 0",
    ),
    "radius in bytes": (
        "classification.train",
        ["smoke", "--attack.eps", "8"],
        "at most 1 for images in [0, 1]",
    ),
    "no restarts": (
        "classification.attack",
        ["smoke", "--source.run", "x", "--restarts", "0"],
        "--restarts is 0, must be at least 1",
    ),
    "unknown model": (
        "classification.train",
        ["smoke", "--model", "resnet19"],
        "--model is 'resnet19', must be one of",
    ),
    "unknown loss": (
        "classification.train",
        ["smoke", "--loss", "tradse"],
        "--loss is 'tradse', must be one of standard, adversarial, half_adversarial, trades",
    ),
    "unknown data": ("classification.train", ["smoke", "--dataset", "mnits"], "no mnits in"),
    "a seed out of range": (
        "classification.train",
        ["smoke", "--seed", str(2**63 - 1)],
        "--seed is 9223372036854775807, must be in [0, 4294967295]",
    ),
    "no images": (
        "classification.train",
        ["smoke", "--images", "0"],
        "--images is 0, must be N, at least 1, for the stratified subset of N images, or official:N for the first N",
    ),
    "images by an unknown rule": (
        "classification.train",
        ["smoke", "--images", "first:9"],
        "--images is first:9, must be N, at least 1, for the stratified subset",
    ),
    "half a batch": (
        "classification.train",
        ["smoke", "--loss", "half_adversarial", "--batch-size", "33"],
        "--batch-size is 33, must be even with --loss half_adversarial",
    ),
    "no pixels": ("ood_to_id.train", ["smoke", "--size", "0"], "--size is 0, must be at least 1"),
    "no updates": ("classification.train", ["smoke", "--updates", "0"], "--updates is 0, must be at least 1"),
    "unknown augmentation": ("classification.train", ["smoke", "--augment", "blur"], "--augment has 'blur'"),
    "weights moved without attack": (
        "classification.train",
        ["smoke", "--loss", "standard", "--awp", "0.1"],
        "--awp is 0.1, must be 0 with --loss standard",
    ),
    "smoothing that a loss would ignore": (
        "classification.train",
        ["smoke", "--loss", "trades", "--smoothing", "0.1"],
        "--smoothing is 0.1, must be 0 with --loss trades",
    ),
    "no such run": (
        "classification.attack",
        ["smoke", "--source.run", "nowhere"],
        "nowhere holds no run of classification.train",
    ),
    "no network": (
        "classification.attack",
        ["smoke"],
        "are all missing, must be one: the network to evaluate",
    ),
    "unknown attack": (
        "classification.attack",
        ["smoke", "--source.run", "x", "--attacks", "pdg"],
        "--attacks is 'pdg', must be one of apgd-ce",
    ),
    "not a part": (
        "classification.attack",
        ["smoke", "--source.run", "x", "--share", "3/2"],
        "--share is '3/2', must be like 2/8",
    ),
    "no such function": (
        "classification.attack",
        ["smoke", "--source.function", "json:nothing", "--source.dataset", "digits"],
        "which cannot be imported",
    ),
    "no such checkpoint": (
        "classification.attack",
        [
            "smoke",
            "--source.checkpoint",
            "no.pt",
            "--source.architecture",
            "resnet18",
            "--source.dataset",
            "digits",
        ],
        "no.pt",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(name, tmp_path, capsys, monkeypatch):
    script, words, message = CASES[name]
    done = scripts.call(capsys, monkeypatch, script, *words, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_another_config_in_the_same_folder_is_refused_and_nothing_changed(trained, capsys, monkeypatch):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    words = ("smoke", "--out", trained, "--attack.eps", "0.2")
    done = scripts.call(capsys, monkeypatch, "classification.train", *words)
    assert done.returncode == 2 and "attack.eps" in done.stderr and "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_checkpoint_of_another_architecture_is_refused(trained, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    page = json.loads((copy / "config.json").read_text())
    page["config"]["model"] = "convnet_small"
    (copy / "config.json").write_text(json.dumps(page))
    done = scripts.call(capsys, monkeypatch, "classification.attack", "smoke", "--source.run", copy)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "conv0" in done.stderr


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run" / "deep"):
        with pytest.raises(ValueError, match=r"--out is .*, must be a folder: .*file is a file"):
            command_line.require_writable(str(folder), "--out")
    command_line.require_writable(str(tmp_path / "new" / "run"), "--out")
    assert not (tmp_path / "new").exists()


def test_images_are_a_number_or_the_first_in_official_order():
    for written, read in (("7", 7), ("official:7", "official:7")):
        config = tyro.cli(TrainConfig, args=["--images", written])
        command_line.validate(config)
        assert config.images == read
        assert from_plain(TrainConfig, json.loads(json.dumps(plain(config)))) == config
    assert tyro.cli(TrainConfig, args=["--images", "None"]).images is None
