"""Carlini-Wagner: confidence, the search for the constant, pixels on the box, and another implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twin import X, Y, foolbox_distances, net

from robustjax import logit
from robustjax.attacks.adam import adam, rest
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.signed import signed
from robustjax.attacks.solver import as_attack, own_merit
from robustjax.numerics import norm
from robustjax.threats import Threat

KEY = jax.random.key(0)
W = jnp.asarray([3.0, -1.0, 2.0])
ORIGIN = jnp.full((1, 3), 0.5)


def plane(x):
    return (x - ORIGIN) @ W - 0.5


def test_confidence_moves_the_boundary():
    for confidence in (0.0, 0.4):
        solver = carlini_wagner(
            Threat("l2", jnp.inf, -1.0, 2.0), searches=9, steps=300, confidence=confidence
        )
        state = jax.jit(lambda s=solver: s.advance(own_merit(plane), s.init(KEY, ORIGIN), s.length))()
        best = (0.5 + confidence) / np.linalg.norm(W)
        assert best < state.kept.distance < 1.05 * best
        assert (plane(state.kept.nearest.x) > confidence).all()


@pytest.mark.parametrize("confidence", [0.0, 0.4])
def test_a_large_constant_settles_where_the_confidence_is_reached(confidence):
    settings = {"steps": 700, "step_size": 0.002, "initial_const": 10.0, "confidence": confidence}
    solver = carlini_wagner(Threat("l2", jnp.inf, -1.0, 2.0), searches=1, **settings)
    state = jax.jit(lambda: solver.advance(own_merit(plane), solver.init(KEY, ORIGIN), 699))()
    np.testing.assert_allclose(plane(state.x), confidence, atol=0.1)


def test_constants_grow_by_ten_until_one_is_enough_and_then_halve_the_interval():
    """Below c = 2 gap / |w|^2 the minimum of d^2 + c max(gap - <w, d>, 0) lies before the plane."""
    searches = 8
    solver = carlini_wagner(Threat("l2", jnp.inf, -1.0, 2.0), searches=searches, steps=500, step_size=0.001)
    advance = jax.jit(lambda state: solver.advance(own_merit(plane), state, 500))
    state, enough = solver.init(KEY, ORIGIN), 2 * 0.5 / float(W @ W)
    # Small steps, so that Adam's momentum does not carry it beyond the minimum and over the plane.
    const, low, high = 1e-3, 0.0, np.inf
    for _ in range(searches):
        np.testing.assert_allclose(state.memory.const, const, rtol=1e-5)
        state = advance(state)
        low, high = (low, min(high, const)) if const > enough else (max(low, const), high)
        const = (low + high) / 2 if np.isfinite(high) else 10 * const
    assert np.isfinite(high) and low > 0


def test_pixels_on_the_box_may_leave_it_but_for_the_inside():
    x = jnp.asarray([[0.0, 1.0, 0.0, 1.0, 0.5]])
    w = jnp.asarray([1.0, -1.0, -1.0, 1.0, 0.1])  # the first two must move inwards, the next two cannot
    objective = signed(lambda z: ((z - x) @ w) - 0.5)
    found = jax.jit(lambda: carlini_wagner(Threat("l2", jnp.inf))(KEY, objective, x))()
    best = 0.5 / np.sqrt(2.01)
    assert best < norm(found.x - x, "l2")[0] < 1.05 * best
    np.testing.assert_array_equal((found.x >= 0) & (found.x <= 1), True)
    np.testing.assert_allclose(found.x[0, 2:4], [0.0, 1.0], atol=1e-3)


def test_adam_follows_its_recursion_at_an_age_per_row():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(4, 2, 3))
    moments, first, second = rest(jnp.zeros((2, 3))), np.zeros((2, 3)), np.zeros((2, 3))
    for t, g in enumerate(grads, start=1):
        way, moments = adam(moments, jnp.asarray(g, jnp.float32), jnp.full(2, t - 1))
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        expected = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(way, expected, rtol=1e-4)
    mixed, _ = adam(moments, jnp.asarray(grads[0], jnp.float32), jnp.asarray([0, 4]))
    alone, _ = adam(moments, jnp.asarray(grads[0], jnp.float32), jnp.asarray([4, 4]))
    assert (mixed[0] != alone[0]).all()
    np.testing.assert_array_equal(mixed[1], alone[1])


@pytest.mark.oracle
def test_distances_are_near_those_of_foolbox():
    theirs = foolbox_distances(
        "L2CarliniWagnerAttack", 2, binary_search_steps=6, steps=300, stepsize=0.01, initial_const=0.1
    )
    attack = carlini_wagner(Threat("l2", jnp.inf), searches=6, steps=300, initial_const=0.1)
    found = jax.jit(lambda: as_attack(attack, logit.margin)(KEY, net, X, Y))()
    assert (found.value > 0).all()
    ratio = np.asarray(norm(found.x - X, "l2")) / theirs
    assert 0.98 < np.median(ratio) < 1.02 and ratio.max() < 1.1
