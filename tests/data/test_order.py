"""The order of examples: hashing against a second implementation, and what a permutation must do."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.data import order

SEEDS = st.integers(0, 2**63 - 1)


def splitmix(words):
    """SplitMix64's finaliser over Python integers, which do not wrap around by themselves."""
    wrap = 2**64 - 1
    state = 0
    for word in words:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) & wrap
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & wrap
        state ^= state >> 31
    return state


@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_hash_is_splitmix(words):
    assert int(order.mixed(*words)) == splitmix(words)


def test_first_output_of_splitmix64():
    # The published generator, seeded with 0, returns this number first.
    assert int(order.mixed(0)) == 0xE220A8397B1DCDAF


def test_held_out_is_a_tenth_and_depends_on_the_index_alone():
    index = np.arange(100_000)
    chosen = order.held_out(index)
    assert abs(chosen.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 100_000)
    shuffled = np.random.default_rng(0).permutation(index)
    np.testing.assert_array_equal(order.held_out(shuffled), chosen[shuffled])


@settings(deadline=None)
@given(count=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 1000))
def test_permutation_holds_everything_once(count, seed, epoch):
    np.testing.assert_array_equal(np.sort(order.permutation(count, seed=seed, epoch=epoch)), np.arange(count))


def test_permutations_differ_by_seed_epoch_and_lane():
    orders = [
        order.permutation(500, seed=seed, epoch=epoch, lane=lane)
        for seed in (0, 1)
        for epoch in (0, 1)
        for lane in (0, 1)
    ]
    for i, a in enumerate(orders):
        for b in orders[i + 1 :]:
            assert (a == b).mean() < 0.02  # independent permutations agree in one place on average


def test_permutation_is_uniform():
    # Where does element 0 of 5 go, over 5,000 epochs? Five cells, 1,000 expected in each.
    places = np.bincount([int(order.permutation(5, seed=3, epoch=e).argsort()[0]) for e in range(5000)])
    assert ((places - 1000) ** 2 / 1000).sum() < 25  # chi-squared with 4 degrees of freedom, p < 1e-4


@settings(deadline=None)
@given(count=st.integers(1, 40), seed=SEEDS, start=st.integers(0, 500), length=st.integers(1, 150))
def test_rows_join_the_epochs(count, seed, start, length):
    epochs = (start + length) // count + 1
    whole = np.concatenate([order.permutation(count, seed=seed, epoch=e) for e in range(epochs)])
    rows = order.rows(count, np.arange(start, start + length), seed=seed)
    np.testing.assert_array_equal(rows, whole[start : start + length])
