"""Training on a set that is decoded while needed: prepared by the command, killed and resumed with other workers."""

import io
import json
import signal
import socket
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image
from test_devices import metrics
from test_interruption import final_arrays, lines, wait_for

from experiments.data import prepare as preparing
from robustjax import runtime

WORDS = [
    "smoke", "--dataset", "made", "--size", "12", "--streamed", "--augment", "resized_crop", "flip",
    "--batch-size", "16", "--images", "8",
]  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A made-up set of two classes, prepared by the command."""
    root, shelf = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("shelf")
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10)):
        for label, kind in enumerate(("n01", "n02")):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                sides = tuple(rng.integers(14, 40, 2).tolist())
                colours = rng.integers(0, 100, (3, 3, 3)) + 155 * label
                picture = Image.fromarray(colours.astype(np.uint8)).resize(sides, Image.Resampling.BILINEAR)
                out = io.BytesIO()
                picture.save(out, "JPEG")
                (folder / f"{kind}_{number}.JPEG").write_bytes(out.getvalue())
    preparing.main(preparing.Config(name="made", source=str(root), data_dir=str(shelf), keep_files=True))
    return shelf


@pytest.mark.slow
def test_trains_by_name_and_saves_where_it_reads(shelf, tmp_path, capsys, monkeypatch):
    words = [*WORDS, "--data-dir", shelf, "--updates", 4, "--validate-every", 2, "--workers", 0]
    done = scripts.call(capsys, monkeypatch, "classification.train", *words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with runtime.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        told = saved.reading(4)
    assert told["next batch"] == 4 and told["SHA-256"].startswith("CRC-32s:")
    assert told["windows"] == [0.08, 1.0, 3 / 4, 4 / 3]


def test_what_cannot_be_streamed_is_said(shelf, tmp_path, capsys, monkeypatch):
    words = [*WORDS, "--data-dir", shelf]
    wrong = [*words, "--extra", "digits"]
    done = scripts.call(capsys, monkeypatch, "classification.train", *wrong, "--out", tmp_path / "other")
    assert done.returncode == 2 and "--extra is digits, must be left out" in done.stderr
    wrong = [*words, "--augment", "flip", "resized_crop"]
    done = scripts.call(capsys, monkeypatch, "classification.train", *wrong, "--out", tmp_path / "other")
    assert done.returncode == 2 and "must begin with resized_crop" in done.stderr


@pytest.mark.slow
def test_killed_and_resumed_with_other_workers_it_ends_bit_identical(shelf, tmp_path):
    pytest.importorskip("grain")
    words = [
        *WORDS,
        "--data-dir",
        shelf,
        "--ema",
        "--updates",
        120,
        "--validate-every",
        20,
        "--record-every",
        10,
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = scripts.run("classification.train", *words, "--workers", 2, "--out", whole, optimised=True)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        scripts.command("classification.train", *words, "--workers", 1, "--out", cut),
        env=scripts.environment(optimised=True), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(process, cut, 4)
    assert process.poll() is None and lines(cut) < 12
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)  # until its workers have ended too: they hold its stderr
    done = scripts.run("classification.train", *words, "--workers", 3, "--out", cut, optimised=True)
    assert done.returncode == 0, done.stderr
    first, second = final_arrays(whole, 120), final_arrays(cut, 120)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert (whole / "metrics.jsonl").read_text() == (cut / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_are_one(shelf, tmp_path):
    words = [
        *WORDS,
        "--data-dir",
        shelf,
        "--updates",
        4,
        "--validate-every",
        4,
        "--record-every",
        1,
        "--workers",
        0,
    ]
    done = scripts.run("classification.train", *words, "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    both = [
        subprocess.Popen(
            scripts.command(
                "classification.train", *words, "--out", tmp_path / "two", "--distributed", "--cluster.coordinator",
                f"localhost:{port}", "--cluster.processes", 2, "--cluster.process-id", i,
            ),
            env=scripts.environment(2), stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    reference = final_arrays(tmp_path / "one", 4)
    for name, value in final_arrays(tmp_path / "two", 4).items():
        np.testing.assert_allclose(value, reference[name], atol=1e-5, err_msg=name)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        np.testing.assert_allclose([a["loss"]], [b["loss"]], atol=1e-5)


def test_reading_is_measured_beside_a_plan(shelf, tmp_path, capsys, monkeypatch):
    plan = tmp_path / "plan.jsonl"
    line = {
        "program": "training step",
        "topology": "v5e:1x1",
        "images/s at most": 5000.0,
        "script": "s",
        "config": {},
    }
    plan.write_text(json.dumps(line) + "\n")
    words = [
        "smoke",
        "--dataset",
        "made",
        "--data-dir",
        shelf,
        "--plan",
        plan,
        "--out",
        tmp_path / "lines.jsonl",
    ]
    done = scripts.call(capsys, monkeypatch, "benchmarks.reading", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "lines.jsonl").read_text())
    (need,) = found["needs"]
    assert need["cores"] == pytest.approx(5000 / found["per core"])
    assert "images per second and core" in done.stderr and "cores decode" in done.stderr


def test_another_set_is_refused_when_a_run_goes_on(tmp_path):
    def fit(total, name):
        with runtime.Checkpoints(tmp_path / "saved") as saved:
            return runtime.fit(
                lambda state, batch: (state + batch, {"loss": state}),
                jnp.float32(0.0),
                lambda begin, _: (jnp.float32(i) for i in range(begin, 100)),
                total=total,
                saved=saved,
                reading=lambda done: {"next batch": done, "name": name},
                save_every=2,
            )

    assert fit(2, "one").updates == 2
    with pytest.raises(ValueError, match="name of the training images is 'other', must be 'one' as it was"):
        fit(4, "other")
    assert float(fit(4, "one").state) == 0 + 1 + 2 + 3
