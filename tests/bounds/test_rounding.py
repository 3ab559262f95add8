"""Bounds hold for what float32 computes: against sums in float64 and in other orders, where nearly all cancels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.bounds import rounding
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.enclosure import differences, enclose, margins
from robustjax.bounds.program import traced
from robustjax.threats import Threat

LABEL = jnp.zeros(1, int)
UNIT = 2.0**-24  # of float32: half the distance from 1 to the next number


def test_a_network_that_rounds_its_input_away_is_not_certified():
    """In real numbers the first logit leads by 0.19 at least; float32 adds 2^25 to it and takes that off again: 0."""
    large = jnp.float32(2.0**25)

    def logits(x):
        return jnp.stack([(x[:, 0] + large) - large, 0.01 + 0.0 * x[:, 0]], axis=1)

    x = jnp.full((1, 1), 0.3)
    assert logits(x)[0, 0] == 0.0
    for method in ("ibp", "crown"):
        bound = jax.jit(
            lambda x, method=method: margins(logits, Threat("linf", 0.1), x, LABEL, method=method)
        )
        assert bound(x)[0] >= 0.01


def in_orders(weights, x, count):
    """Sum products one after the other in float32, in several orders."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        order, total = rng.permutation(len(x)), np.float32(0)
        for product in np.float32(weights[order] * x[order]):
            total = np.float32(total + product)
        yield float(total)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_sums_that_cancel_lie_between_the_bounds_in_every_order(method):
    """Products of about 1e3 of which the sum is about 1; the ball is the point alone."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, size=101).astype(np.float32)
    weights = (1e3 * rng.normal(size=101)).astype(np.float32)
    weights[-1] = -np.float64(weights[:-1]) @ x[:-1] / x[-1]
    exact = np.float64(weights) @ np.float64(x)
    kernel = jnp.asarray(weights)[:, None]
    fn = lambda z: jax.nn.relu(z @ kernel + 2e3) - 2e3
    found = jax.jit(lambda z: enclose(fn, Threat("linf", 0.0), z, method=method, outward=True))(
        jnp.asarray(x[None])
    )
    for value in (exact, *in_orders(weights, x, 20)):
        assert found.low[0, 0] <= value <= found.high[0, 0]
    # And not much wider than the worst that rounding can do on both sides of the claim.
    worst = 2 * 101 * UNIT * np.abs(weights) @ x
    assert worst < found.high[0, 0] - found.low[0, 0] < 6 * worst


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1.0, 30.0, 1e3]))
def test_a_network_in_float64_and_permuted_in_float32_stays_within(seed, size):
    """Three layers; hidden numbers are permuted, which in real numbers changes nothing. Eight points of each ball."""
    rng = np.random.default_rng(seed)
    w = [(size * rng.normal(size=s) / np.sqrt(s[0])).astype(np.float32) for s in ((6, 40), (40, 30), (30, 3))]
    x = rng.uniform(0.2, 0.8, size=(1, 6)).astype(np.float32)
    eps = 1e-6  # so that rounding is not hidden by the relaxation
    low, high, between = (np.asarray(v) for v in BOUNDED(x, w, eps))
    points = np.clip(x + rng.uniform(-eps, eps, size=(8, 6)), x - np.float32(eps), x + np.float32(eps))
    points = np.float32(points)
    order = rng.permutation(40)
    permuted = [w[0][:, order], w[1][order], w[2]]
    # In float64, and as NumPy sums in float32.
    answers = np.concatenate([network(points, w, np.float64), network(points, permuted, np.float32)])
    assert (answers >= low).all() and (answers <= high).all()
    apart = answers[:, :, None].astype(np.float64) - answers[:, None]
    assert (apart <= between).all()


def network(x, weights, kind):
    x = x.astype(kind)
    for w in weights[:-1]:
        x = np.maximum(x @ w.astype(kind), 0)
    return x @ weights[-1].astype(kind)


@jax.jit
def BOUNDED(x, w, eps):
    def fn(z):
        return jax.nn.relu(jax.nn.relu(z @ w[0]) @ w[1]) @ w[2]

    threat = Threat("linf", eps, -10.0, 10.0)
    found = enclose(fn, threat, x, method="crown", outward=True)
    return found.low, found.high, differences(fn, threat, x, method="crown-ibp", outward=True)


def test_what_an_operation_may_be_off_by_is_counted_by_hand():
    """A product of 3 x 2 numbers: 3 products forwards and 2 backwards; the sums of absolute values by NumPy."""
    kernel = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 0.5]], np.float32)
    program = traced(lambda z: z @ kernel, jnp.zeros(3))
    values = {program.x: Interval(jnp.asarray([-1.0, 0.0, 2.0]), jnp.asarray([0.5, 1.0, 3.0]))}
    (line,) = program.lines
    sums = np.array([1.0, 1.0, 3.0]) @ np.abs(kernel)
    np.testing.assert_allclose(rounding.magnitude(line, values)[0], sums)
    found = rounding.slack(line, values)
    assert (found > (3 + 2) * UNIT * sums).all() and (found < 50 * UNIT * sums).all()


def test_halves_are_summed():
    z = np.random.default_rng(0).normal(size=(2, 13)).astype(np.float32)
    np.testing.assert_allclose(rounding.tree_sum(jnp.asarray(z)), z.sum(axis=1), rtol=1e-5)
    assert rounding.tree_sum(jnp.ones((3, 1))).tolist() == [1.0] * 3
