"""SPSA: estimates that are right on average, optima known in closed form, and values only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import objectives
from robustjax.attacks.solver import classified
from robustjax.attacks.spsa import estimated_gradient, spsa
from robustjax.numerics import keys_for
from robustjax.threats import Threat

N, D = 4, 12
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(N, D)), jnp.float32)
SLOPE = jnp.asarray(RNG.choice([-1.0, 1.0], size=(N, D)) * RNG.uniform(0.5, 1.5, size=(N, D)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(D, 3)), jnp.float32)
Y = (X @ WEIGHT).argmax(axis=1)
KEY = jax.random.key(0)


def linear(x):
    return (SLOPE * x).sum(axis=1)


def net(x):
    return x.reshape(x.shape[0], -1) @ WEIGHT


def estimates(objective, x, times, samples, delta=0.01, chunk_size=None):
    keys = jax.random.split(KEY, (times, N))
    one = lambda keys: estimated_gradient(
        keys, objective, x, samples=samples, delta=delta, chunk_size=chunk_size
    )
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_the_estimate_is_unbiased_on_linear_functions_and_its_error_known():
    """With v of random signs g_j v_j v_i has mean g_i and the other features add variance sum_{j != i} g_j^2."""
    times, samples = 400, 5
    drawn = estimates(linear, X, times, samples)
    variance = (np.square(SLOPE).sum(axis=1, keepdims=True) - np.square(SLOPE)) / samples
    error = (drawn.mean(axis=0) - SLOPE) / np.sqrt(variance / times)
    assert np.abs(error).max() < 4.5
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.4)
    np.testing.assert_allclose(drawn.var(axis=0).mean(), variance.mean(), rtol=0.1)


def test_curvature_of_even_order_cancels_in_pairs():
    quadratic = lambda x: linear(x) + 3.0 * jnp.square(x).sum(axis=1)
    drawn = estimates(quadratic, X, 400, 20, delta=0.3)
    slope = SLOPE + 6.0 * X
    error = (drawn.mean(axis=0) - slope) / np.sqrt(np.square(slope).sum(axis=1, keepdims=True) / 8000)
    assert np.abs(error).max() < 4.5


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 99])
def test_parts_may_be_of_any_size(chunk_size):
    whole, parts = (estimates(linear, X, 1, 7, chunk_size=n) for n in (None, chunk_size))
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


def test_reaches_the_optimum_of_a_linear_objective_and_asks_for_no_gradient():
    @jax.custom_jvp
    def values_only(x):
        return linear(x)

    @values_only.defjvp
    def _refuse(primals, tangents):
        raise AssertionError("a gradient was asked for")

    threat = Threat("linf", 0.1)
    found = jax.jit(lambda key: spsa(threat, steps=60)(key, values_only, X))(KEY)
    np.testing.assert_allclose(found.value - linear(X), 0.1 * np.abs(SLOPE).sum(axis=1), rtol=1e-3)
    assert threat.contains(found.x, X).all()


@pytest.mark.parametrize("kind, eps", [("l2", 0.5), ("l1", 2.0)])
def test_feasible_never_worse_and_honest_in_other_norms(kind, eps):
    threat, objective = Threat(kind, eps), objectives.margin(net, Y)
    found = jax.jit(lambda key: spsa(threat, steps=20, samples=16, step_size=0.05)(key, objective, X))(KEY)
    assert threat.contains(found.x, X).all()
    np.testing.assert_allclose(found.value, objective(found.x), atol=1e-5)
    # Within the ball the margin rises by eps |w|_dual at most, w between the two classes that are leading there.
    assert (found.value > objective(X) + 0.3 * eps).all()


def test_the_start_is_evaluated_and_nothing_else_without_steps():
    found = spsa(Threat("linf", 0.1), steps=0, samples=1)(KEY, linear, X)
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_allclose(found.value, linear(X), rtol=1e-6)


def test_every_step_and_every_row_draws_anew():
    solver = spsa(Threat("linf", 0.5), steps=9, samples=1)
    same = jnp.broadcast_to(X[:1], X.shape)
    state = solver.init(KEY, same)
    moved = [
        np.asarray(
            solver.advance(lambda x: (x @ WEIGHT[:, 0],) * 2, state._replace(step=0 * state.step + n), 1).x
        )
        for n in (0, 1)
    ]
    assert len(np.unique(np.sign(np.concatenate(moved) - same[:1]), axis=0)) == 2 * N


def test_pairs_without_finite_values_leave_a_feasible_point():
    threat = Threat("linf", 0.1)
    found = jax.jit(lambda: spsa(threat, steps=3, samples=4)(KEY, lambda x: jnp.log(linear(x) - 1e3), X))()
    assert threat.contains(found.x, X).all() and (found.value == -jnp.inf).all()


def test_rows_may_be_dropped_shuffled_padded_and_joined_with_rows_of_another_age():
    traces = []
    solver, keys = spsa(Threat("linf", 0.1), steps=20, samples=8), keys_for(KEY, N)

    @jax.jit
    def advance(state, y, count):
        traces.append(1)
        return solver.advance(classified(net, y, logit.margin), state, count)

    young, order = solver.init(keys, X), jnp.array([3, 0, 0, 1])  # without 2, 0 twice
    whole = solver.finish(advance(young, Y, jnp.int32(solver.length)))
    old = advance(young, Y, jnp.int32(9))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:2], b[2:]]), take(old), take(young))
    for count in (7, 100):  # the second is more than anyone has left
        mixed = advance(mixed, Y[order], jnp.int32(count))
    assert (mixed.step == solver.length).all() and len(traces) == 1
    found = solver.finish(mixed)
    np.testing.assert_allclose(found.value, whole.value[order], rtol=1e-4)
    np.testing.assert_allclose(found.x, whole.x[order], atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": -1}, "steps is -1"),
        ({"samples": 0}, "samples is 0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"step_size": -0.1}, "step_size is -0.1"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=f"spsa: {message}"):
        spsa(Threat("linf", 0.1), **settings)
