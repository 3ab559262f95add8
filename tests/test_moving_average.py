"""The published numbers of a run's settings: decays of the moving average, learning rates of the cosine."""

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import optimizers, training


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
