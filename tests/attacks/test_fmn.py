"""FMN: its radius by hand, and its distances beside those of another implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twin import X, Y, foolbox_distances, net

from robustjax import logit
from robustjax.attacks.fab import fab
from robustjax.attacks.fmn import fmn
from robustjax.attacks.solver import as_attack, own_merit
from robustjax.numerics import norm
from robustjax.threats import Threat

KEY = jax.random.key(0)
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


@pytest.mark.parametrize("kind", DUAL)
def test_the_first_radius_is_a_little_more_than_the_way_to_the_boundary(kind):
    w, origin = np.array([3.0, -1.0, 2.0], np.float32), jnp.zeros((1, 3))
    solver = fmn(Threat(kind, jnp.inf, -9.0, 9.0), steps=10)
    objective = own_merit(lambda x: x @ w - 0.5)
    state = solver.advance(objective, solver.init(KEY, origin), 1)
    np.testing.assert_allclose(state.memory, 1.05 * 0.5 / np.linalg.norm(w, DUAL[kind]), rtol=1e-5)


def test_the_radius_follows_the_verdict_and_never_exceeds_the_nearest():
    solver = fmn(Threat("l2", jnp.inf, -9.0, 9.0), steps=30)
    objective = own_merit(lambda x: jnp.sqrt(jnp.square(x).sum(axis=1)) - 1.0)
    state, advance = solver.init(KEY, jnp.full((1, 3), 0.1)), jax.jit(solver.advance, static_argnums=0)
    changes = []
    for step in range(30):
        before, state = state, advance(objective, state, 1)
        merit = objective(before.x)[1]
        change = 1e-4 + (0.05 - 1e-4) * (1 + np.cos(np.pi * step / 30)) / 2
        if merit > 0:
            expected = min(before.memory * (1 - change), float(norm(before.x - before.origin, "l2")[0]))
            assert state.memory <= expected + 1e-6 and state.memory <= state.kept.distance
            changes.append("down")
        elif jnp.isfinite(before.kept.distance):
            np.testing.assert_allclose(state.memory, before.memory * (1 + change), rtol=1e-5)
            changes.append("up")
    assert {"up", "down"} <= set(changes)
    np.testing.assert_allclose(state.kept.distance, 1 - 0.1 * np.sqrt(3), rtol=2e-3)


def test_the_radius_falls_back_to_the_nearest_from_any_height():
    solver = fmn(Threat("l2", jnp.inf, -9.0, 9.0), steps=30)
    origin = jnp.zeros((1, 3))
    state = solver.init(KEY, origin)._replace(x=jnp.full((1, 3), 2.0), memory=jnp.asarray([100.0]))
    state = solver.advance(own_merit(lambda x: x.sum(axis=1) - 1.0), state, 1)
    np.testing.assert_allclose(state.memory, 2.0 * np.sqrt(3), rtol=1e-6)
    assert norm(state.x, "l2")[0] <= 2.0 * np.sqrt(3) + 1e-5


def found_at(kind):
    attack = as_attack(fmn(Threat(kind, jnp.inf), steps=200), logit.margin)
    found = jax.jit(lambda: attack(KEY, net, X, Y))()
    assert (found.value > 0).all()
    return np.asarray(norm(found.x - X, kind))


@pytest.mark.parametrize("kind", DUAL)
def test_comes_nearer_than_fab(kind):
    """FAB steps beyond the boundary by a twentieth each time; in l1 single rows end at another local minimum."""
    nearest = jax.jit(lambda: fab(Threat(kind, jnp.inf))(KEY, net, X, Y))()
    ratio = found_at(kind) / norm(nearest.x - X, kind)
    assert 0.97 < np.median(ratio) < 1.001 and np.mean(ratio < 1.01) > 0.9


@pytest.mark.oracle
@pytest.mark.parametrize("kind, name", [("linf", "LInfFMNAttack"), ("l2", "DDNAttack")])
def test_distances_are_near_those_of_foolbox(kind, name):
    """On this network its FMN ends far behind its DDN in l2, and without success in l1."""
    theirs = foolbox_distances(name, np.inf if kind == "linf" else 2, steps=200)
    ratio = found_at(kind) / theirs
    assert 0.97 < np.median(ratio) < 1.003 and np.mean(ratio < 1.01) >= 0.8
