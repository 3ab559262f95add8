"""Attacks through a decoder: exact against brute force over the parameters, never worse than clean."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import compose, objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.grid import grid, refined
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack, own_merit
from robustjax.attacks.square import square
from robustjax.numerics import keys_for, per_example
from robustjax.perturbations import sets
from robustjax.perturbations.spatial import warp
from robustjax.threats import Threat

B, K = 4, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(B, 8, 8, 1)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(64, K)), jnp.float32)
Y = jnp.asarray([0, 1, 2, 3])
KEY = jax.random.key(0)
SPACE = sets.spatial((30.0, 2.0, 2.0))


def net(x):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ WEIGHT)


CLEAN = logit.margin(net(X), Y)


def attacks(space):
    threat = space.threat
    coarse = as_attack(grid(threat, counts=(5, 3, 3)[: space.dimension]))
    return {
        "grid": coarse,
        "grid then apgd": refined(coarse, lambda start: as_attack(apgd(threat, steps=10, start=start))),
        "pgd": compose.against(pgd(threat, steps=10, step_size=0.1)),
        "random": compose.against(compose.restarts(pgd(threat, steps=0, step_size=0.0), 10)),
        "square": as_attack(square(threat, queries=20)),
    }


@pytest.mark.slow
def test_grid_through_a_warp_is_brute_force():
    found = jax.jit(lambda k: sets.attack_through(SPACE, attacks(SPACE)["grid"])(k, net, X, Y))(KEY)
    best, image = np.asarray(CLEAN), np.asarray(X)
    for rotation, down, right in itertools.product(np.linspace(-30, 30, 5), (-2, 0, 2), (-2, 0, 2)):
        warped = warp(X, jnp.tile(jnp.asarray([rotation, down, right], jnp.float32), (B, 1)))
        value = np.asarray(logit.margin(net(warped), Y))
        image = np.where((value > best)[:, None, None, None], warped, image)
        best = np.maximum(best, value)
    np.testing.assert_allclose(found.value, best, atol=1e-5)
    np.testing.assert_allclose(found.x, image, atol=1e-5)


@pytest.mark.parametrize("name", attacks(SPACE))
def test_any_solver_goes_through(name):
    found = jax.jit(lambda k: sets.attack_through(SPACE, attacks(SPACE)[name])(k, net, X, Y))(KEY)
    assert found.x.shape == X.shape and found.x.dtype == X.dtype
    assert (found.x >= 0).all() and (found.x <= 1).all()
    np.testing.assert_allclose(logit.margin(net(found.x), Y), found.value, atol=1e-5)
    if name.startswith("grid"):
        assert (found.value >= CLEAN).all()
    assert (found.value > CLEAN).any()


@pytest.mark.slow
def test_a_larger_box_is_no_weaker_and_refinement_no_worse_than_its_grid():
    values = []
    for limits in ((0.0, 0.0, 0.0), (15.0, 1.0, 1.0), (30.0, 2.0, 2.0)):
        space = sets.spatial(limits)
        attack = sets.attack_through(space, attacks(space)["grid"])
        values.append(jax.jit(lambda k: attack(k, net, X, Y).value)(KEY))
    np.testing.assert_allclose(values[0], CLEAN, atol=1e-6)
    assert (values[1] >= values[0] - 1e-6).all() and (values[2].mean() > values[1].mean())
    refining = sets.attack_through(SPACE, attacks(SPACE)["grid then apgd"])
    better = jax.jit(lambda k: refining(k, net, X, Y).value)(KEY)
    assert (better >= values[2] - 1e-5).all() and (better > values[2] + 1e-3).any()


def _ball():
    """A set whose worst point has a closed form: x + u . directions with |u|_2 <= 1."""
    directions = jnp.asarray(RNG.normal(size=(B, 3, 8, 8, 1)), jnp.float32)

    def decode(key, x, u):
        return x + jnp.einsum("bd,bdhwc->bhwc", u, directions)

    return sets.PerturbationSet(decode, Threat("l2", 1.0, -jnp.inf, jnp.inf), 3), directions


def test_reaches_the_closed_form_of_a_linear_decoder():
    space, directions = _ball()
    slope = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)

    def objective(x):
        return (slope * x).sum(axis=(1, 2, 3))

    best = objective(X) + jnp.linalg.norm(jnp.einsum("bdhwc,bhwc->bd", directions, slope), axis=1)
    climb = sets.ascent_through(space, pgd(space.threat, steps=40, step_size=0.2))
    np.testing.assert_allclose(jax.jit(climb, static_argnums=1)(KEY, objective, X).value, best, rtol=1e-3)
    solver = sets.solver_through(space, apgd(space.threat, steps=40))
    found = jax.jit(lambda k: solver(k, objective, X))(KEY)
    np.testing.assert_allclose(found.value, best, rtol=1e-3)


@pytest.mark.slow
def test_a_lifted_solver_runs_in_segments_over_chosen_rows():
    solver = sets.solver_through(SPACE, square(SPACE.threat, queries=6))
    whole = solver(KEY, objectives.margin(net, Y), X)
    order = jnp.array([2, 0])
    state = solver.advance(own_merit(objectives.margin(net, Y)), solver.init(KEY, X), 3)
    state = jax.tree.map(lambda a: a[order], state)
    found = solver.finish(solver.advance(own_merit(objectives.margin(net, Y[order])), state, solver.length))
    np.testing.assert_allclose(found.x, whole.x[order], atol=1e-5)
    np.testing.assert_allclose(found.value, whole.value[order], atol=1e-5)


def test_the_decoder_sees_one_fixed_key_per_example():
    def decode(key, x, u):
        noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(key)
        return x + per_example(u[:, 0], x) * noise

    space = sets.PerturbationSet(decode, Threat("linf", 0.1, 0.0, 0.1), 1)
    attack = jax.jit(
        lambda k, x, y: sets.attack_through(space, as_attack(apgd(space.threat, steps=5)))(k, net, x, y)
    )
    keys = keys_for(KEY, B)
    found, order = attack(keys, X, Y), jnp.array([3, 1, 2, 0])
    np.testing.assert_allclose(logit.margin(net(found.x), Y), found.value, atol=1e-5)
    np.testing.assert_allclose(attack(keys[order], X[order], Y[order]).x, found.x[order], atol=1e-6)


def test_same_under_every_transformation(variant):
    keys = keys_for(KEY, B)
    np.testing.assert_allclose(variant(SPACE.sample)(keys, X), jax.jit(SPACE.sample)(keys, X), atol=1e-5)


@pytest.mark.slow
def test_samples_are_in_the_set_and_differ():
    space, directions = _ball()
    drawn = space.sample(KEY, X)
    u = jnp.linalg.lstsq(directions.reshape(B, 3, 64)[0].T, (drawn - X)[0].reshape(64))[0]
    assert 0 < float(jnp.linalg.norm(u)) <= 1 + 1e-5
    assert not np.allclose(SPACE.sample(jax.random.key(1), X), SPACE.sample(jax.random.key(2), X))


@pytest.mark.parametrize("limits", [(30.0, 3.0), (-1.0, 0, 0), (1, 1, 1, 1.0), (1, 1, 1, 0.1, 1, 1)])
def test_refuses_limits_it_does_not_understand(limits):
    with pytest.raises(ValueError, match="spatial: limits"):
        sets.spatial(limits)
