"""A run that is killed, or told to stop, ends as if nothing had happened."""

import json
import random
import signal
import subprocess
import time

import numpy as np
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


def test_killed_three_times_at_random_it_ends_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert scripts.run("classification.train", *WORDS, "--out", whole).returncode == 0
    rng = random.Random()
    seed = rng.randrange(10**6)
    rng.seed(seed)
    kills, metrics = 0, cut / "metrics.jsonl"
    while kills < 3:
        process = subprocess.Popen(
            scripts.command("classification.train", *WORDS, "--out", cut),
            env=scripts.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        while process.poll() is None and (
            not metrics.exists() or len(metrics.read_text().splitlines()) < max(before, kills * 7) + 3
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:
            break  # it finished first: there is nothing left to kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 3, f"seed {seed}: the run was too fast to be killed"
    done = scripts.run("classification.train", *WORDS, "--out", cut)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, cut)


def test_sigterm_saves_and_leaves_with_a_clear_line(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        scripts.command("classification.train", *WORDS, "--out", out),
        env=scripts.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "metrics.jsonl").exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "saved; the same command goes on from there" in said
    step = int(said.split("stopped after ")[1].split()[0])
    assert (out / "checkpoints" / str(step)).is_dir()
    done = scripts.run("classification.train", *WORDS, "--out", out)
    assert done.returncode == 0 and f"{step}/300" not in done.stderr.splitlines()[-1]
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 299
