"""Balls with a box: feasibility, exactness against independent solvers, and the same under every transformation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.numerics import norm
from robustjax.threats import Threat

NORMS = ["linf", "l2", "l1"]
SHAPES = [(7,), (5, 3), (4, 6, 3)]


def points(seed, shape, spread=1.0):
    rng = np.random.default_rng(seed)
    origin = rng.uniform(size=shape)
    origin = np.where(rng.uniform(size=shape) < 0.3, np.round(origin), origin)  # some features on the box
    return jnp.asarray(origin + spread * rng.normal(size=shape), jnp.float32), jnp.asarray(
        origin, jnp.float32
    )


@jax.jit
def projected_and_sampled(threat, key, x, origin):
    once, sample = threat.project(x, origin), threat.sample(key, origin)
    return once, threat.project(once, origin), threat.contains(once, origin) & threat.contains(sample, origin)


@pytest.mark.parametrize("kind", NORMS)
@settings(max_examples=60, deadline=None)
@given(
    st.booleans(),
    st.floats(0.0, 30.0, width=32),
    st.sampled_from([(7,), (4, 6, 3)]),
    st.floats(1e-4, 1e4),
    st.integers(0, 99),
)
def test_projections_and_samples_are_feasible(kind, exact, eps, shape, spread, seed):
    x, origin = points(seed, (3, *shape), spread)
    threat = Threat(kind, jnp.float32(eps), exact=exact and kind == "l2")
    once, twice, feasible = projected_and_sampled(threat, jax.random.key(seed), x, origin)
    assert feasible.all()
    np.testing.assert_allclose(twice, once, atol=2e-6 * max(1.0, eps))


@pytest.mark.parametrize("kind", NORMS)
def test_exact_projection_is_the_nearest_point(kind):
    """Quadratic programming in float64 is the oracle."""
    x, origin = points(1, (4, 12))
    eps = 0.7
    found = np.asarray(Threat(kind, eps, exact=True).project(x, origin), np.float64)
    for xi, oi, fi in zip(np.float64(x), np.float64(origin), found):
        n = xi.size
        # v = o + a - b with a, b >= 0 makes all three balls smooth.
        split = np.concatenate([np.maximum(fi - oi, 0), np.maximum(oi - fi, 0)])
        ball = {
            "l1": lambda s: eps - s.sum(),
            "l2": lambda s: eps**2 - ((s[:n] - s[n:]) ** 2).sum(),
            "linf": lambda s: eps - s[:n] - s[n:],
        }[kind]
        limits = [(0, 1 - o) for o in oi] + [(0, o) for o in oi]
        best = scipy.optimize.minimize(
            lambda s: ((oi + s[:n] - s[n:] - xi) ** 2).sum(),
            np.full(2 * n, 1e-3) if split.sum() == 0 else 0.5 * split,
            bounds=limits,
            constraints={"type": "ineq", "fun": ball},
            method="SLSQP",
            options={"maxiter": 2000, "ftol": 1e-14},
        )
        np.testing.assert_allclose(((fi - xi) ** 2).sum(), best.fun, rtol=1e-4, atol=1e-6)


def test_l2_projection_as_published_is_ball_then_box():
    x, origin = points(2, (5, 10), 3.0)
    delta = np.float64(x - origin)
    length = np.linalg.norm(delta, axis=1, keepdims=True)
    expected = np.clip(np.float64(origin) + delta * np.minimum(1, 0.5 / length), 0, 1)
    np.testing.assert_allclose(Threat("l2", 0.5).project(x, origin), expected, atol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_without_a_box_a_far_point_lands_on_the_sphere(kind):
    x, origin = points(3, (4, 9), 50.0)
    found = Threat(kind, 2.0, -jnp.inf, jnp.inf).project(x, origin)
    np.testing.assert_allclose(norm(found - origin, kind), 2.0, rtol=1e-5)


@pytest.mark.parametrize("size", [100, 3072, 20000])
def test_dense_l1_points_stay_inside_however_they_are_summed(size):
    rng = np.random.default_rng(size)
    origin = jnp.asarray(rng.uniform(0.3, 0.7, size=(8, size)), jnp.float32)
    x = origin + jnp.asarray(rng.normal(size=(8, size)), jnp.float32)
    eps = 0.1 * size
    found = jax.jit(Threat("l1", eps, -jnp.inf, jnp.inf).project)(x, origin)
    length = np.abs(np.float64(found) - np.float64(origin)).sum(axis=1)
    assert (length <= eps * (1 + 1e-6)).all() and (length >= eps * (1 - 5e-6)).all()


@pytest.mark.parametrize("kind", NORMS)
def test_steepest_direction_has_unit_length_and_the_dual_slope(kind):
    """With one feature moving, max over the unit ball of <g, d> is the dual norm of g."""
    grad = jnp.asarray(np.random.default_rng(0).normal(size=(5, 40)), jnp.float32)
    direction = Threat(kind, 1.0, density=1 / 40).steepest(grad)
    np.testing.assert_allclose(norm(direction, kind), 1.0, rtol=1e-6)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[kind]
    np.testing.assert_allclose((grad * direction).sum(axis=1), np.linalg.norm(grad, dual, axis=1), rtol=1e-5)


def test_l1_steps_move_the_given_share_and_skip_stuck_features():
    grad = jnp.asarray(np.random.default_rng(0).permutation(np.arange(1.0, 101.0))[None], jnp.float32)
    direction = Threat("l1", 1.0, density=0.05).steepest(grad)
    assert set(np.asarray(grad[direction != 0])) == {96.0, 97.0, 98.0, 99.0, 100.0}
    on_the_box = jnp.where(grad > 98.0, 1.0, 0.5)
    direction = Threat("l1", 1.0, density=0.05).steepest(grad, on_the_box)
    assert set(np.asarray(grad[direction != 0])) == {94.0, 95.0, 96.0, 97.0, 98.0}


@pytest.mark.parametrize("kind", NORMS)
def test_zero_gradient_gives_zero_step(kind):
    assert (Threat(kind, 1.0).steepest(jnp.zeros((2, 5))) == 0).all()


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_samples_are_uniform_in_the_ball(kind):
    """The radius of a uniform point in d dimensions to the power d is uniform on [0, 1]."""
    d, n = 3, 4000
    origin = jnp.zeros((n, d))
    sample = Threat(kind, 2.0, -jnp.inf, jnp.inf).sample(jax.random.key(0), origin)
    share = (norm(sample, kind) / 2.0) ** d
    assert scipy.stats.kstest(np.asarray(share), "uniform").pvalue > 1e-3
    if kind == "l1":  # the density is flat: each orthant has its share
        assert (
            scipy.stats.chisquare(np.unique(np.signbit(sample) @ [1, 2, 4], return_counts=True)[1]).pvalue
            > 1e-3
        )


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("exact", [False, True])
def test_same_under_every_transformation(variant, kind, exact):
    x, origin = points(4, (4, 3, 5, 2))
    eps = jnp.array([0.1, 0.5, 1.0, 3.0])
    keys = jax.random.split(jax.random.key(0), 4)

    def everything(x, origin, eps, keys):
        threat = Threat(kind, eps, exact=exact)
        return threat.project(x, origin), threat.sample(keys, origin), threat.steepest(x, origin)

    for found, expected in zip(variant(everything)(x, origin, eps, keys), everything(x, origin, eps, keys)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_radius_per_example_is_that_radius_for_each():
    x, origin = points(5, (3, 8), 5.0)
    eps = jnp.array([0.1, 0.4, 2.0])
    for kind in NORMS:
        together = Threat(kind, eps).project(x, origin)
        apart = [
            Threat(kind, float(e)).project(x[i : i + 1], origin[i : i + 1])[0] for i, e in enumerate(eps)
        ]
        np.testing.assert_allclose(together, jnp.stack(apart), atol=1e-6)


def test_a_radius_sweep_compiles_once():
    x, origin = points(6, (2, 8))
    traces = []

    @jax.jit
    def project(threat, x, origin):
        traces.append(1)
        return threat.project(x, origin)

    for eps in np.linspace(0, 1, 10):
        project(Threat("l1", jnp.float32(eps)), x, origin)
    assert len(traces) == 1
    curve = jax.vmap(lambda e: dataclasses.replace(Threat("l2", 0.0), eps=e).project(x, origin))(
        jnp.arange(4.0)
    )
    assert curve.shape == (4, 2, 8)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"norm": "l3", "eps": 1.0}, "must be one of linf, l2, l1"),
        ({"norm": "l2", "eps": -1.0}, "eps is -1.0, must be at least 0"),
        ({"norm": "l2", "eps": float("nan")}, "eps is nan"),
        ({"norm": "linf", "eps": np.float32(-0.1)}, "eps is -0.1"),
        ({"norm": "linf", "eps": jnp.array([0.1, -0.1])}, "must be at least 0"),
        ({"norm": "l1", "eps": np.array([0.1, np.nan])}, "must be at least 0"),
        ({"norm": "linf", "eps": "8/255"}, "eps is '8/255', must be a number such as 8 / 255"),
        ({"norm": "linf", "eps": [0.1, 0.2]}, "must be a number, or an array"),
        ({"norm": "l2", "eps": 1.0, "lower": 1.0, "upper": 0.0}, "lower must be below upper"),
        ({"norm": "l2", "eps": 1.0, "lower": 0.5, "upper": 0.5}, "lower must be below upper"),
        ({"norm": "l2", "eps": 1.0, "lower": np.array([0.0, 2.0])}, "lower must be below upper"),
        ({"norm": "l2", "eps": 1.0, "upper": np.float32(np.nan)}, "upper is nan"),
        ({"norm": "l2", "eps": 1.0, "lower": "0"}, "lower is '0'"),
        ({"norm": "l1", "eps": 1.0, "density": 0.0}, "density is 0.0"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        Threat(**settings)


@pytest.mark.parametrize("use", ["project", "sample", "contains"])
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (2,), (3, 1)])
def test_a_radius_of_another_shape_is_refused_in_use_inside_jit_too(use, shape):
    x, origin = points(7, (3, 2, 2, 1))
    first = jax.random.key(0) if use == "sample" else x
    method = jax.jit(lambda eps: getattr(Threat("l2", eps), use)(first, origin))
    with pytest.raises(ValueError, match=r"eps has shape .* must be a number or \(3,\)"):
        method(jnp.ones(shape))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", NORMS)
def test_points_of_16_bits_stay_in_the_ball_exactly(kind, dtype):
    """To the nearest number, bfloat16 would leave the ball by up to 1 part in 20 here."""
    x, origin = (v.astype(dtype) for v in points(8, (20, 30)))
    threat = Threat(kind, {"linf": 0.031, "l2": 0.2, "l1": 1.0}[kind])

    @jax.jit
    def both(x, origin):
        found = threat.project(x, origin), threat.sample(jax.random.key(0), origin)
        return found, [threat.contains(point, origin) for point in found]

    found, contained = both(x, origin)
    for point, inside in zip(found, contained):
        delta = np.float64(point) - np.float64(origin)
        length = np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[kind], axis=1)
        assert point.dtype == dtype and (length <= threat.eps * (1 + 1e-6)).all()
        assert (point >= 0).all() and (point <= 1).all() and inside.all()
    assert np.abs(np.float64(found[0]) - np.float64(origin)).max() > 0.02
