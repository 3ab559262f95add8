"""Two processes on one machine: they agree when to stop, write one folder, and one process reads it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Checkpoints, read_metrics
from robustjax.runtime.mesh import LOST

SCRIPT = """
import pathlib, sys
from robustjax import runtime
me, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
runtime.distributed(True, f"localhost:{port}", 2, me)
import jax, jax.numpy as jnp, numpy as np
mesh = runtime.data_mesh()
assert mesh.size == 4 and jax.process_count() == 2
rows = np.arange(24, dtype=np.float32).reshape(8, 3)
state = runtime.place({"key": jax.random.key(3), "w": jnp.zeros(3), "none": None}, mesh)
state["rows"] = jax.make_array_from_callback(rows.shape, runtime.over_data(mesh), lambda index: rows[index])

@jax.jit
def update(state):
    w = state["w"] + state["rows"].mean(axis=0)
    return state | {"w": w}, {"sum": w.sum()}

with (
    runtime.Run(out, {"seed": 0}) as run,
    runtime.Checkpoints(run.folder / "checkpoints", keep=2, best="valid") as saved,
    runtime.stopping(every=4) as stop,
):
    state, done = saved.restore(state) or (state, 0)
    run.resume(done)
    for step, _ in runtime.progress(range(100), start=done, total=13, label="train"):
        state, metrics = update(state)
        run.record(step, metrics)
        if step % 3 == 2:
            saved.save(step + 1, state, {"valid": -abs(step - 2)})
        if hurt := {(0, 5): "TERM", (9, 10): "KILL"}.get((done, step)):
            import os, signal, time
            if me == int(sys.argv[4]):
                os.kill(os.getpid(), signal.Signals["SIG" + hurt])
            time.sleep(0.2)
        if stop.agreed(step):
            saved.save(step + 1, state)
            break
    # Not to stdout, where Gloo writes in between.
    pathlib.Path(f"{out}.{me}").write_text(f"{done} {step + 1} {saved.steps()}")
sys.exit(stop.exit_code)
"""


def start(out, hurt=1):
    """Run both to their ends, with a signal for one of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(me), port, str(out), str(hurt)],
            env=flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in range(2)
    ]
    if hurt < 2:
        both[hurt].wait(timeout=300)
    began = time.monotonic()
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert time.monotonic() - began < 60
    said = [path.read_text() for me in range(2) if (path := out.with_name(f"{out.name}.{me}")).exists()]
    return said, errors, [process.returncode for process in both]


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path):
    said, errors, codes = start(tmp_path / "run")
    # The signal reached one process at step 5; both looked at step 8 and left after it, nine updates done.
    assert codes == [128 + signal.SIGTERM] * 2, errors
    assert said == ["0 9 [3, 6, 9]"] * 2
    assert "9/13" in errors[0] and "9/13" not in errors[1]  # process 0 speaks, the other only of its signal

    # One is killed: the other ends soon, with an exit code that says the job is to be started again.
    for dead in (1, 0):
        _, errors, codes = start(tmp_path / "run", hurt=dead)
        assert codes[dead] == -signal.SIGKILL, errors
        assert codes[1 - dead] in (LOST, -signal.SIGABRT), errors

    said, errors, codes = start(tmp_path / "run", hurt=2)
    assert codes == [0, 0], errors
    assert said == ["9 13 [3, 9, 12]"] * 2  # 3 is the best, though it was saved by the run before
    mean = np.arange(24, dtype=np.float32).reshape(8, 3).mean(axis=0)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(13))
    np.testing.assert_allclose(
        [line["sum"] for line in lines], [(i + 1) * mean.sum() for i in range(13)], rtol=1e-6
    )
    assert len(json.loads((tmp_path / "run/config.json").read_text())["starts"]) == 4

    like = {"key": jax.random.key(0), "w": jnp.zeros(3), "none": None, "rows": jnp.zeros((8, 3))}
    with Checkpoints(tmp_path / "run/checkpoints", keep=2, best="valid") as saved:
        newest, best = saved.restore(like), saved.restore_best(like)
    assert newest is not None and newest[1] == 12 and best is not None and best[1] == 3
    np.testing.assert_allclose(newest[0]["w"], 12 * mean, rtol=1e-6)
    np.testing.assert_array_equal(newest[0]["rows"], np.arange(24).reshape(8, 3))
    assert jax.random.bits(newest[0]["key"]) == jax.random.bits(jax.random.key(3))
