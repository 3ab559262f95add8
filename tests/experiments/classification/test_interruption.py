"""A run that is killed, or told to stop, ends as if nothing had happened."""

import random
import signal
import subprocess
import time

import numpy as np
import pytest
import scripts

WORDS = [
    "smoke", "--updates", "300", "--validate-every", "20", "--record-every", "10", "--ema", "--augment", "crop",
    "--model", "convnet_small", "--images", "32",
]  # fmt: skip


def final_arrays(folder, step=300):
    """Read the leaves of the last checkpoint without our own code: orbax's, by name."""
    import orbax.checkpoint as ocp

    path = (folder / "checkpoints" / str(step) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        plain = ocp.RestoreArgs(restore_type=np.ndarray)  # whatever devices wrote it
        names = reader.metadata(path).item_metadata.tree
        return reader.restore(path, restore_args=dict.fromkeys(names, plain))


def assert_same_run(one, other):
    first, second = final_arrays(one), final_arrays(other)
    assert first.keys() == second.keys() and any(name.startswith("ema") for name in first)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def start(out):
    return subprocess.Popen(
        scripts.command("classification.train", *WORDS, "--out", out),
        env=scripts.environment(optimised=True),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(process, folder, count):
    """Wait until so many lines are written, or the process has ended."""
    while process.poll() is None and lines(folder) < count:
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_three_times_at_random_and_stopped_once_it_ends_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert scripts.run("classification.train", *WORDS, "--out", whole, optimised=True).returncode == 0
    rng = random.Random()
    seed = rng.randrange(10**6)
    rng.seed(seed)
    for kills in range(3):
        process = start(cut)
        wait_for(process, cut, max(lines(cut), kills * 7) + 3)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, f"seed {seed}: the run was too fast to be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()

    # SIGTERM saves, and leaves with a clear line.
    process = start(cut)
    wait_for(process, cut, lines(cut) + 2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "saved; the same command goes on from there" in said
    step = int(said.split("stopped after ")[1].split()[0])
    assert (cut / "checkpoints" / str(step)).is_dir()

    done = scripts.run("classification.train", *WORDS, "--out", cut, optimised=True)
    assert done.returncode == 0 and f"{step}/300" not in done.stderr.splitlines()[-1], done.stderr
    assert_same_run(whole, cut)
