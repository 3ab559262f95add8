"""A stage with checkpoints and records: stopped and resumed it ends where an uninterrupted one ends."""

import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Checkpoints, Run, fit_stage, stopping, weights_of
from robustjax.runtime.stopping import Stop
from robustjax.staged_training import Stage


def stage(bad_from=99):
    def step(state, batch):
        state = 0.9 * state + batch.sum()
        return state, {"mean": batch.mean(), "loss": jnp.where(state >= bad_from, jnp.nan, state)}

    rows = jnp.asarray(np.random.default_rng(0).normal(size=10).astype(np.float32))
    return Stage("numbers", lambda: jnp.float32(0), step, rows, 3, 8, seed=1, weights=lambda s: (s, None))


class StopAt(Stop):
    """Asked to stop after a segment."""

    def __init__(self, at):
        super().__init__(1)
        self.at, self._signal = at, 15

    def agreed(self, step):
        return step == self.at


def test_stopped_twice_it_ends_bit_identical(tmp_path):
    ends = []
    for name, stops in (("whole", (0,)), ("cut", (2, 3, 0))):
        for at in stops:
            with Run(tmp_path / name, {}) as run, Checkpoints(tmp_path / name / "c", keep=1) as saved:
                fitted = fit_stage(
                    stage(), saved=saved, stop=StopAt(at), run=run, updates_before=10, segment=2, save_every=9
                )
            assert (fitted.exit_code, fitted.updates) == ((143, 2 * at) if at else (0, 8))
        ends.append(float(fitted.state))
    assert ends[0] == ends[1] == float(weights_of(stage())[0])
    one, other = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut"))
    assert one == other
    lines = [json.loads(line) for line in one.splitlines()]
    assert [line["step"] for line in lines] == [11, 13, 15, 17]
    assert set(lines[0]) == {"step", "numbers_mean", "numbers_loss"}


def test_a_signal_stops_it(tmp_path):
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert fit_stage(stage(), stop=stop, segment=2)[1:] == (2, 143)


def test_a_loss_that_is_not_finite_is_not_saved(tmp_path):
    with Checkpoints(tmp_path, keep=3) as saved:
        with pytest.raises(ValueError, match="numbers: loss is nan at update 1, must be finite"):
            fit_stage(stage(bad_from=-99), saved=saved, segment=2)
        assert saved.steps() == []


@pytest.mark.parametrize("bad_from", [-99, 1.5])
def test_a_loss_that_is_not_finite_ends_training_in_memory_too(bad_from):
    with pytest.raises(ValueError, match="numbers: loss is nan at update"):
        weights_of(stage(bad_from=bad_from))


def test_a_state_that_is_nan_is_no_result():
    diverging = stage()._replace(step=lambda state, batch: (state * jnp.nan, {"loss": jnp.nan_to_num(state)}))
    with pytest.raises(ValueError, match="numbers: the parameters are NaN after update 7"):
        weights_of(diverging)
