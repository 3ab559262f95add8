"""Frank-Wolfe over lp balls with a box: its vertices against a convex solver, and what it reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from robustjax.attacks.frank_wolfe import Ball, frank_wolfe

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(5, 2, 3, 1)), jnp.float32)
G = jnp.asarray(RNG.normal(size=X.shape) * np.array([1e-6, 1, 1, 1e4, 1])[:, None, None, None], jnp.float32)


@pytest.mark.parametrize("p, eps", [(1.5, 0.4), (1.5, 1.5), (3.0, 0.3), (1.2, 0.2)])
def test_vertices_are_those_of_a_convex_solver(p, eps):
    found = np.asarray(Ball(p, eps).vertex(G, X)).reshape(5, -1)
    for grad, x, d in zip(np.float64(G).reshape(5, -1), np.float64(X).reshape(5, -1), found, strict=True):
        unit = grad / np.abs(grad).max()
        assert (
            np.linalg.norm(d, p) <= eps * (1 + 1e-5) and (x + d >= -1e-6).all() and (x + d <= 1 + 1e-6).all()
        )
        best = scipy.optimize.minimize(
            lambda v: -(unit @ v),
            np.zeros(6),
            method="SLSQP",
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "ineq", "fun": lambda v: eps**p - (np.abs(v) ** p).sum()},
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert unit @ d >= -best.fun - 1e-4


def test_a_ball_that_holds_the_box_has_its_corners():
    d = np.asarray(Ball(1.5, 50.0).vertex(G, X))
    np.testing.assert_allclose(np.asarray(X) + d, np.asarray(G) > 0, atol=1e-6)
    assert not np.asarray(Ball(1.5, 0.3).vertex(jnp.zeros_like(G), X)).any()


def test_a_linear_objective_is_solved_and_a_concave_one_nearly():
    eps = 0.5
    weight = jnp.asarray(RNG.normal(size=(6,)), jnp.float32)
    solve = frank_wolfe(p=1.5, eps=eps, steps=40, lower=-np.inf, upper=np.inf)
    found = jax.jit(lambda: solve(jax.random.key(0), lambda z: z.reshape(5, -1) @ weight, X))()
    gain = np.asarray(found.value) - np.asarray(X).reshape(5, -1) @ np.asarray(weight)
    np.testing.assert_allclose(gain, eps * np.linalg.norm(weight, 3), rtol=1e-3)  # the dual norm of 1.5 is 3

    aim = X + 1.0  # the nearest point to it within the ball moves all six features alike
    near = jax.jit(lambda: solve(jax.random.key(0), lambda z: -jnp.square(z - aim).sum((1, 2, 3)), X))()
    np.testing.assert_allclose(near.x - X, eps / 6 ** (1 / 1.5), atol=0.01)


def test_points_are_feasible_and_a_radius_of_zero_stays():
    def objective(z):
        return jnp.sin(9 * z).sum((1, 2, 3))

    run = jax.jit(lambda eps: frank_wolfe(eps=eps, steps=10)(jax.random.key(0), objective, X))
    for eps in (0.0, 0.3):
        x = run(eps).x
        assert (np.asarray(Ball(1.5, eps).length(x - X)) <= eps * (1 + 1e-5) + 1e-6).all()
        assert ((x >= 0) & (x <= 1)).all()
    np.testing.assert_array_equal(run(0.0).x, X)
    assert (run(0.3).value > objective(X)).all()


@pytest.mark.parametrize("settings", [{"p": 1.0}, {"p": np.inf}, {"steps": 0}, {"pace": 0.0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="frank_wolfe: "):
        frank_wolfe(eps=0.1, **settings)
