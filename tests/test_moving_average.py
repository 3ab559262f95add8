"""Averages of the weights, their statistics, and learning rates of the cosine, by their published formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import optimizers, training
from robustjax.types import Model


@pytest.mark.parametrize(
    "updates, decay",
    [(1, 2 / 11), (2, 3 / 12), (90, 0.91), (8989, 8990 / 8999), (8990, 0.999), (10**6, 0.999)],
)
def test_the_decay_warms_up_to_its_cap(updates, decay):
    """The average of 1 with a new 0 is the decay itself."""
    kept = training.moving_average({"w": jnp.ones(2)}, {"w": jnp.zeros(2)}, jnp.int32(updates), 0.999)
    np.testing.assert_allclose(kept["w"], decay, rtol=1e-6)


def test_the_first_update_copies_and_constants_stay():
    first = training.moving_average(jnp.float32(5.0), jnp.float32(2.0), jnp.int32(0), 0.999)
    assert float(first) == 2
    for t in (1, 7, 9000):
        assert float(training.moving_average(first, first, jnp.int32(t), 0.999)) == pytest.approx(2, rel=1e-6)


def test_cosine_over_300_epochs():
    rate = optimizers.cosine(0.1, 300)
    np.testing.assert_allclose(
        [rate(t) for t in (0, 75, 150, 225, 300)], [0.1, 0.085355, 0.05, 0.014645, 0.0], atol=1e-6
    )


@pytest.mark.parametrize("start, every", [(0, 1), (3, 1), (2, 4)])
def test_the_even_average_is_the_mean_of_the_iterates_that_count(start, every):
    iterates = np.random.default_rng(0).normal(size=13).astype(np.float32)
    average, kept = training.even(start=start, every=every), jnp.float32(99.0)
    for t, new in enumerate(iterates):
        kept = average(kept, jnp.float32(new), jnp.int32(t))
        counted = [
            iterates[done - 1] for done in range(1, t + 2) if done > start and (done - start) % every == 0
        ]
        want = np.mean(counted) if counted else iterates[min(t, max(start - 1, 0))]
        if counted or t < start:
            assert float(kept) == pytest.approx(want, abs=1e-5)


def test_statistics_of_batchnorm_are_the_means_over_batches():
    """Of a network without weights before its BatchNorm: moments of the images, whatever the momentum."""
    images = [jnp.asarray(np.random.default_rng(i).uniform(size=(5, 4, 4, 2)), jnp.float32) for i in range(3)]

    calls = []

    def apply(params, state, x, *, train=False, key=None):
        calls.append(train)
        moments = {"mean": x.mean(axis=(0, 1, 2)), "var": x.var(axis=(0, 1, 2))}
        moved = {n: 0.9 * state["norm"][n] + 0.1 * moments[n] for n in moments}
        return x, {"norm": moved, "count": state["count"] + 1, "still": state["still"]}

    state = {
        "norm": {"mean": jnp.full(2, 7.0, jnp.float32), "var": jnp.full(2, 5.0, jnp.float32)},
        "count": jnp.asarray(np.int32(4)),
        "still": jnp.asarray(np.float32(3.0)),
    }
    renewed = training.renewal(Model(lambda key: ({}, state), apply, lambda p, s, x: {}))
    new = renewed({}, state, images)
    np.testing.assert_allclose(
        new["norm"]["mean"], np.mean([x.mean((0, 1, 2)) for x in images], 0), rtol=1e-5
    )
    np.testing.assert_allclose(new["norm"]["var"], np.mean([x.var((0, 1, 2)) for x in images], 0), rtol=1e-5)
    assert int(new["count"]) == 4 and float(new["still"]) == 3
    with pytest.raises(ValueError, match="no batch"):
        renewed({}, state, [])
    traced = len(calls)
    renewed({}, new, images)
    assert len(calls) == traced  # one program serves all calls
