"""One device is eight devices is two processes with four each."""

import json
import socket
import subprocess

import jax
import numpy as np
import pytest
import scripts
from test_interruption import final_arrays

WORDS = [
    "smoke", "--model", "convnet_small", "--updates", "4", "--validate-every", "4", "--record-every", "1",
    "--images", "32", "--augment", "crop", "flip",
]  # fmt: skip


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def two_processes(out):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    both = [
        subprocess.Popen(
            scripts.command(
                "classification.train", *WORDS, "--out", out, "--distributed",
                "--cluster.coordinator", f"localhost:{port}", "--cluster.processes", 2, "--cluster.process-id", i,
            ),
            env=scripts.environment(4),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said


@pytest.mark.slow
def test_same_losses_and_parameters(tmp_path, capsys, monkeypatch):
    done = scripts.run("classification.train", *WORDS, "--out", tmp_path / "1")
    assert done.returncode == 0, done.stderr
    assert jax.device_count() == 8  # of this process
    done = scripts.call(capsys, monkeypatch, "classification.train", *WORDS, "--out", tmp_path / "8")
    assert done.returncode == 0, done.stderr
    two_processes(tmp_path / "two")
    reference = final_arrays(tmp_path / "1", 4)
    for other in ("8", "two"):
        for name, value in final_arrays(tmp_path / other, 4).items():
            np.testing.assert_allclose(value, reference[name], atol=1e-5, err_msg=f"{other}: {name}")
        for a, b in zip(metrics(tmp_path / "1"), metrics(tmp_path / other), strict=True):
            assert a.keys() == b.keys()
            np.testing.assert_allclose([a["loss"]], [b["loss"]], atol=1e-5)
