"""DDN step by step, and beside another implementation on a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twin import X, Y, foolbox_distances, net

from robustjax import logit
from robustjax.attacks.ddn import ddn
from robustjax.attacks.solver import as_attack, classified, own_merit
from robustjax.numerics import norm
from robustjax.threats import Threat

KEY = jax.random.key(0)


def test_points_are_those_of_the_recursion():
    """The paper's recursion in float64 for a linear objective, whose gradient never changes."""
    w = np.random.default_rng(0).normal(size=5)
    x0, gamma, steps, high = np.full(5, 0.5), 0.1, 12, 0.9
    beyond = x0 @ w + 0.4 * np.linalg.norm(w)
    points, adversarial, delta, radius = [], [], np.zeros(5), 1.0
    for k in range(steps):
        if (x0 + delta) @ w > beyond:
            adversarial.append(x0 + delta)
        length = 0.01 + 0.99 * (1 + np.cos(np.pi * k / steps)) / 2
        radius *= (1 - gamma) if (x0 + delta) @ w > beyond else (1 + gamma)
        radius = min(radius, np.linalg.norm(np.maximum(x0, high - x0)))
        ahead = delta + length * w / np.linalg.norm(w)
        delta = np.clip(x0 + radius * ahead / np.linalg.norm(ahead), 0, high) - x0
        points.append(x0 + delta)
    nearest = min(adversarial, key=lambda p: np.linalg.norm(p - x0))

    solver = ddn(Threat("l2", jnp.inf, 0.0, high), steps=steps, gamma=gamma)
    objective = own_merit(lambda x: x @ jnp.asarray(w, jnp.float32) - beyond)
    advance = jax.jit(lambda state: solver.advance(objective, state, 1))
    state = solver.init(KEY, jnp.asarray(x0, jnp.float32)[None])
    for point in points:
        state = advance(state)
        np.testing.assert_allclose(state.x[0], point, atol=1e-5)
    np.testing.assert_allclose(state.kept.nearest.x[0], nearest, atol=1e-5)


@pytest.mark.slow
def test_the_first_radius_may_differ_between_rows():
    first = jnp.linspace(0.1, 2.0, 20)
    solver = ddn(Threat("l2", jnp.inf), init_eps=first, steps=3)
    state = solver.advance(classified(net, Y, logit.margin), solver.init(KEY, X), 1)
    corner = np.linalg.norm(np.maximum(X, 1 - X), axis=1)
    np.testing.assert_allclose(state.memory, np.minimum(1.05 * first, corner), rtol=1e-5)


@pytest.mark.oracle
def test_distances_are_those_of_foolbox():
    theirs = foolbox_distances("DDNAttack", 2, steps=60)
    found = jax.jit(lambda: as_attack(ddn(Threat("l2", jnp.inf), steps=60))(KEY, net, X, Y))()
    assert (found.value > 0).all()
    np.testing.assert_allclose(norm(found.x - X, "l2"), theirs, rtol=5e-3)
