"""The training loop: resumed it ends where an uninterrupted one ends, and it never keeps a state that is not finite."""

import itertools
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Checkpoints, Run, fit, read_metrics, stopping


def update(state, batch):
    new = 0.5 * state + batch
    return new, {"loss": new}


def batches(begin, now):
    return (jnp.float32(i) for i in itertools.count(begin))


def trained(folder, total=25, update=update, **more):
    with (
        Run(folder, {}) as run,
        Checkpoints(folder / "checkpoints", best="score", keep=2) as saved,
        stopping() as stop,
    ):
        return fit(
            update, jnp.float32(1.0), batches, total=total, saved=saved, stop=stop, run=run,
            record_every=5, save_every=10, **more,
        )  # fmt: skip


def test_stopped_and_resumed_it_ends_bit_identical(tmp_path):
    whole = trained(tmp_path / "a")

    def stopped_at_13(state, batch):
        if batch == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(state, batch)

    half = trained(tmp_path / "b", update=stopped_at_13)
    assert half.exit_code == 143 and half.updates == 13
    rest = trained(tmp_path / "b")
    assert rest.exit_code == 0 and rest.updates == 25
    assert np.asarray(rest.state).tobytes() == np.asarray(whole.state).tobytes()
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b")
    assert [line["step"] for line in read_metrics(tmp_path / "a")] == [0, 5, 10, 15, 20, 24]


def test_what_is_renewed_at_checkpoints_is_the_same_after_a_stop(tmp_path):
    """A state of two parts: one that updates read, and one made of it at each checkpoint."""

    def both(state, batch):
        first, metrics = update(state[0], batch)
        return jnp.stack([first, state[1]]), metrics

    def stopped_at_13(state, batch):
        if batch == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return both(state, batch)

    def run(folder, update):
        with Checkpoints(folder, keep=2) as saved, stopping() as stop:
            return fit(
                update, jnp.zeros(2), batches, total=25, saved=saved, stop=stop, save_every=10,
                renew=lambda state: jnp.stack([state[0], 7 * state[0]]),
            )  # fmt: skip

    whole = run(tmp_path / "a", both)
    assert float(whole.state[1]) == float(7 * whole.state[0])
    assert run(tmp_path / "b", stopped_at_13).exit_code == 143
    rest = run(tmp_path / "b", both)
    assert np.asarray(rest.state).tobytes() == np.asarray(whole.state).tobytes()


def test_scores_are_recorded_and_choose_the_checkpoint(tmp_path):
    scores = iter([0.9, 0.1, 0.5])
    trained(tmp_path, validate=lambda state: {"score": next(scores)})
    assert [line["score"] for line in read_metrics(tmp_path) if "score" in line] == [0.9, 0.1, 0.5]
    with Checkpoints(tmp_path / "checkpoints", best="score", read_only=True) as saved:
        assert saved.restore_best(jnp.float32(0))[1] == 10


def test_only_the_last_checkpoint_counts_where_scores_do_not_choose(tmp_path):
    scores = iter([0.9, 0.1, 0.5])
    trained(tmp_path, validate=lambda state: {"score": next(scores)}, choose=False)
    with Checkpoints(tmp_path / "checkpoints", best="score", read_only=True) as saved:
        assert saved.restore_best(jnp.float32(0))[1] == 25


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("at", [12, 19, 21])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path, bad, at):
    def diverging(state, batch):
        new, _ = update(state, batch)
        new = jnp.where(batch >= at, bad, new)
        return new, {"loss": new}

    with pytest.raises(ValueError, match=r"train: loss is (nan|inf) at update \d+, must be finite"):
        trained(tmp_path, update=diverging)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as saved:
        state, step = saved.restore(jnp.float32(0))
    assert step == (20 if at == 21 else 10) and np.isfinite(state)


@pytest.mark.parametrize("at", [9, 19])
def test_an_update_that_breaks_the_state_is_not_saved_though_its_own_loss_was_finite(tmp_path, at):
    """The gradient of a finite loss may be NaN; the checkpoint after that update would have been the last good one."""

    def diverging(state, batch):
        new, metrics = update(state, batch)
        return jnp.where(batch >= at, jnp.nan, new), {"loss": jnp.nan_to_num(metrics["loss"])}

    with pytest.raises(ValueError, match=f"train: the parameters are NaN after update {at}"):
        trained(tmp_path, update=diverging)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as saved:
        found = saved.restore(jnp.float32(0))
    assert found is None if at == 9 else (found[1] == 10 and np.isfinite(found[0]))


def test_without_checkpoints_a_stopped_training_ends_early(tmp_path):
    def stopped_at_3(state, batch):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(state, batch)

    with stopping() as stop:
        ended = fit(stopped_at_3, jnp.float32(1.0), batches, total=9, saved=None, stop=stop)
    assert ended.exit_code == 143 and ended.updates == 3 and not list(tmp_path.iterdir())
