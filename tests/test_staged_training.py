"""Segments of compiled updates: the same examples in the same updates, wherever they are cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.staged_training import Stage, segment_ends, segments


def numbers():
    """Write a stage without a network: sums of examples that are forgotten slowly."""

    def step(state, batch):
        return 0.9 * state + batch.sum(), {"mean": batch.mean()}

    rows = jnp.asarray(np.random.default_rng(0).normal(size=10).astype(np.float32))
    stage = Stage("numbers", lambda: jnp.float32(0), step, rows, 3, 8, seed=1, weights=lambda s: (s, None))
    return stage, rows


def by_hand(rows_of_epoch):
    """Every epoch sees every example at most once, in another order."""
    state = jnp.float32(0)
    for update in range(8):
        epoch, place = divmod(update, 3)
        order = np.random.default_rng((1, epoch)).permutation(10)[3 * place : 3 * place + 3]
        state = 0.9 * state + rows_of_epoch(epoch)[order].sum()
    return state


def test_cut_and_continued_it_ends_in_the_same_state():
    stage, rows = numbers()
    whole = list(segments(stage, stage.start(), length=3))
    assert [part.done for part in whole] == [3, 6, 8]
    half = next(segments(stage, stage.start(), length=5))
    *_, last = segments(stage, half.state, begin=5, length=5)
    assert last.done == 8 and float(last.state) == float(whole[-1].state)
    np.testing.assert_allclose(last.state, by_hand(lambda epoch: rows), rtol=1e-5)


@pytest.mark.parametrize("length", [2, 5])
def test_examples_are_made_anew_at_the_same_updates_whatever_the_segments(length):
    stage, rows = numbers()
    stage = stage._replace(renew_every=1, renew=lambda turn: rows + 100.0 * turn)
    assert segment_ends(stage, length=5) == [3, 5, 6, 8]
    *_, last = segments(stage, stage.start(), length=length)
    np.testing.assert_allclose(last.state, by_hand(lambda epoch: rows + 100.0 * epoch), rtol=1e-5)


def test_a_batch_larger_than_the_data_is_refused_and_no_updates_are_none():
    stage, _ = numbers()
    with pytest.raises(ValueError, match="batch size is 11, must be at most the 10 examples"):
        next(segments(stage._replace(batch_size=11), stage.start(), length=1))
    assert list(segments(stage._replace(total=0), stage.start())) == []
