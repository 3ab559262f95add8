"""Momentum ascents as solvers: the same as pgd, monotone, indifferent to scale, and of a length that may grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks.pgd import monotone, pgd, pgd_solver
from robustjax.attacks.starts import at_origin
from robustjax.attacks.step_schedule import first_steps, rising
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(4, 6)), jnp.float32)
A = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
KEY = jax.random.key(0)
THREAT = Threat("l2", 0.5)
SETTINGS = {"steps": 6, "step_size": 0.2, "momentum": 0.9, "start": at_origin}


def bumpy(z):
    """Rise and fall within a few tenths."""
    return jnp.sin(6.0 * z @ A).sum(axis=1)


def recorded(solver, objective):
    """Run a solver one step at a time and list the state after each."""
    advance = jax.jit(lambda state: solver.advance(lambda z: (objective(z), objective(z)), state, 1))
    states = [advance(solver.init(KEY, X))]
    for _ in range(solver.length - 1):
        states.append(advance(states[-1]))
    return states


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_momentum_pgd_is_pgd_with_momentum(norm):
    threat = Threat(norm, 0.3)
    expected = jax.jit(lambda: pgd(threat, **SETTINGS)(KEY, bumpy, X))()
    found = jax.jit(lambda: pgd_solver(threat, **SETTINGS)(KEY, bumpy, X))()
    np.testing.assert_allclose(found.x, expected.x, atol=1e-5)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    assert (found.value >= bumpy(X)).all()


def test_scale_of_the_objective_and_company_in_the_batch_do_not_matter():
    run = jax.jit(lambda scale, x: pgd_solver(THREAT, **SETTINGS)(KEY, lambda z: scale * bumpy(z), x).x)
    reference = run(1.0, X)
    for scale in (1e3, 1e-3):
        np.testing.assert_allclose(run(scale, X), reference, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(1.0, X[1:2])[0], reference[1], rtol=1e-4, atol=1e-5)


def test_monotone_accepts_no_step_downwards_and_backtracks_with_shorter_ones():
    """Written out by hand, one example at a time."""
    steps, size = 8, 0.6
    solver = monotone(THREAT, steps=steps, step_size=size, momentum=0.5)
    states = recorded(solver, bumpy)
    slope = jax.jit(jax.value_and_grad(lambda z: bumpy(z[None])[0]))
    refusals = 0
    for i, x in enumerate(np.float32(X)):
        z, velocity, length = x, np.zeros_like(x), size
        value, grad = slope(z)
        for state in states[1:]:
            push = 0.5 * velocity + grad / np.abs(grad).sum()
            delta = z + length * push / np.linalg.norm(push) - x
            tried = np.clip(x + delta * min(1, 0.5 / np.linalg.norm(delta)), 0, 1)
            new, new_grad = slope(jnp.asarray(tried, jnp.float32))
            if new < value:
                length, refusals = 0.5 * length, refusals + 1
            else:
                z, velocity, value, grad = tried, push, new, new_grad
            np.testing.assert_allclose(state.x[i], z, atol=2e-4)
            np.testing.assert_allclose(state.value[i], value, atol=2e-3)
    assert refusals > 2
    values = np.stack([state.value for state in states])
    assert (np.diff(values, axis=0) >= 0).all()
    np.testing.assert_array_equal(solver.finish(states[-1]).value, values[-1])


def test_a_traced_number_of_steps_serves_all_lengths():
    solver = pgd_solver(THREAT, **SETTINGS)
    run = jax.jit(lambda count: first_steps(solver, count)(KEY, bumpy, X))
    values = []
    for count in (0, 2, 6, 9):
        found = run(jnp.int32(count))
        values.append(found.value)
        if count in (2, 6):
            exact = jax.jit(lambda n=count: pgd(THREAT, **(SETTINGS | {"steps": n}))(KEY, bumpy, X))()
            np.testing.assert_allclose(found.x, exact.x, atol=1e-5)
    assert run._cache_size() == 1
    np.testing.assert_array_equal(run(jnp.int32(0)).x, X)
    assert (np.diff(np.stack(values), axis=0) >= 0).all()
    np.testing.assert_array_equal(values[2], values[3])


def test_steps_rise_evenly_and_then_stay():
    counts = [int(rising(jnp.int32(t), first=2, last=10, over=100)) for t in (0, 12, 13, 50, 99, 100, 10**6)]
    assert counts == [2, 2, 3, 6, 9, 10, 10]


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: pgd_solver(THREAT, steps=-1, step_size=0.1), "pgd_solver: steps is -1"),
        (lambda: pgd_solver(THREAT, steps=1, step_size=-0.1), "pgd_solver: step_size is -0.1"),
        (lambda: monotone(THREAT, steps=1, step_size=0.1, shrink=1.0), "monotone: shrink is 1.0"),
        (lambda: monotone(Threat("l2", float("inf")), steps=1, step_size=0.1), "monotone: eps is inf"),
        (lambda: rising(0, first=3, last=2, over=1), "rising: first, last, over are 3, 2, 1"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
