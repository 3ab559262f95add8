"""The minimiser against golden numbers, closed forms, direct minimisation and its own optimality conditions."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_vectors import DUAL, KIND, KINDS, ORDER, cases, model_of, random_model

from robustjax.analysis.linear import box, closed_form, pair
from robustjax.analysis.linear.gaussian import core_only, gaussian, shifted
from robustjax.analysis.linear.minimiser import (
    eps_of,
    lam_of,
    least_subgradient,
    minimise,
    path,
    thresholds,
)

C = np.sqrt(2 / np.pi)


def test_golden_optima():
    for inputs, expected, atol in cases("opt2") + cases("opt_multi"):
        found = minimise(model_of(inputs), inputs["eps"], KIND[inputs["p"]])
        np.testing.assert_allclose(found.theta, expected["w"], atol=atol)
        assert found.loss == pytest.approx(expected["loss"], abs=1e-9) and found.kkt < 1e-9
        assert found.lam == pytest.approx(expected["lam"], abs=atol)
        for ours, theirs in (("s", "s"), ("t", "dual_norm")):
            if theirs in expected:
                assert getattr(found, ours) == pytest.approx(expected[theirs], abs=atol)
        if "eps_zero" in expected:
            zero = thresholds(model_of(inputs), KIND[inputs["p"]]).zero
            assert zero == pytest.approx(expected["eps_zero"], abs=1e-7)
    for inputs, expected, atol in cases("two_core_linf"):
        found = minimise(model_of(inputs), inputs["eps"], "linf")
        np.testing.assert_allclose(found.theta, expected["w"], atol=atol)
        assert found.loss == pytest.approx(expected["loss"], abs=1e-9)


def test_golden_benefits():
    for inputs, expected, atol in cases("benefit"):
        model, kind = model_of(inputs), KIND[inputs["p"]]
        best = minimise(model, inputs["eps"], kind)
        np.testing.assert_allclose(best.theta, expected["w"], atol=atol)
        assert best.loss == pytest.approx(expected["robust_loss"], abs=1e-9)
        alone = minimise(core_only(model), inputs["eps"], kind)
        assert alone.loss == pytest.approx(expected["robust_loss_core_only"], abs=1e-9)
        with jax.enable_x64(True):
            broken = closed_form.adversarial_risk(shifted(model, 0.0), best.theta, inputs["eps"], kind)
        assert float(broken) == pytest.approx(expected["robust_loss_broken"], abs=atol)


def test_golden_thresholds():
    for inputs, expected, atol in cases("threshold"):
        kind = KIND[inputs["p"]]
        noiseless = thresholds(model_of(inputs, sigma=0.0), kind)
        assert thresholds(model_of(inputs), kind).zero == pytest.approx(expected["eps_zero"], abs=atol)
        assert thresholds(model_of(inputs), kind).exact == 0
        assert noiseless.exact == pytest.approx(expected["eps_one_noiseless"], abs=atol)
        assert noiseless.zero == pytest.approx(expected["eps_zero_noiseless"], abs=atol)


@pytest.mark.parametrize("name, kind, radius", [("tie_p1", "l1", "eps_tie"), ("takeover_pinf", "linf", None)])
def test_golden_transitions(name, kind, radius):
    for inputs, expected, atol in cases(name):
        found = pair.transition(**inputs, kind=kind)
        assert found.lam == pytest.approx(expected["lam"], abs=atol)
        assert found.eps == pytest.approx(expected[radius or "eps_takeover"], abs=atol)
        np.testing.assert_allclose(found.theta, expected["w"], atol=atol)
        np.testing.assert_allclose(
            minimise(model_of(inputs), found.eps, kind).theta, expected["w"], atol=atol
        )


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms_of_two_features(kind):
    for b in (0.25, 0.5, 0.9, 1.3, 2.0, 4.0):
        for rho in (-0.95, -0.5, 0.0, 0.3, 0.7, 0.95):
            beta = 1.0 if b < 1 else -0.7
            model = pair.pair(a=1.1, b=b, rho=rho, beta=beta, sigma=0.5)
            full = np.linalg.norm(model.covariance @ model.theta_star, ORDER[kind])
            shape = {"a": 1.1, "b": b, "rho": rho, "beta": beta}
            for share in (0.01, 0.2, 0.5, 0.8, 0.99):
                if kind == "l2":
                    expected = pair.under_l2(share, **shape)
                    lam = share * np.linalg.norm(expected)
                else:
                    lam = share * full
                    expected = {"l1": pair.under_l1, "linf": pair.under_linf}[kind](lam, **shape)
                np.testing.assert_allclose(path(model, lam, kind), expected, atol=1e-11)


def direct(model, eps, kind):
    """Minimise the risk as it stands, in variables (plus, minus, t) that make every norm smooth."""
    m = len(model.theta_star)

    def split(v):
        return v[:m] - v[m : 2 * m], v[-1]

    def risk(v):
        theta, t = split(v)
        gap = theta - model.theta_star
        s = np.sqrt(gap @ model.covariance @ gap + model.sigma**2)
        return s * s + 2 * C * eps * s * t + (eps * t) ** 2

    above = {
        "linf": lambda v: [v[-1] - v[: 2 * m].sum()],
        "l2": lambda v: [v[-1] - np.sqrt(np.square(split(v)[0]).sum() + 1e-30)],
        "l1": lambda v: v[-1] - v[:m] - v[m : 2 * m],
    }[kind]
    start = np.r_[np.maximum(model.theta_star, 0), np.maximum(-model.theta_star, 0), 5.0] * 0.5 + 0.01
    found = scipy.optimize.minimize(
        risk,
        start,
        bounds=[(0, None)] * (2 * m + 1),
        constraints={"type": "ineq", "fun": above},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-15},
    )
    return split(found.x)[0], found.fun


@pytest.mark.parametrize("kind", KINDS)
def test_direct_minimisation_agrees(kind):
    rng = np.random.default_rng(0)
    for _ in range(12):
        model = random_model(rng)
        eps = rng.uniform(0.05, 0.9) * thresholds(model, kind).zero
        found, (theta, loss) = minimise(model, eps, kind), direct(model, eps, kind)
        assert found.loss == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(found.theta, theta, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1 - 1e-6), st.sampled_from([None, 0.0]))
def test_optimality_conditions_hold_and_nothing_nearby_is_better(kind, seed, share, sigma):
    rng = np.random.default_rng(seed)
    model = random_model(rng, sigma=sigma)
    limits = thresholds(model, kind)
    eps = limits.exact + share * (limits.zero - limits.exact)
    best = minimise(model, eps, kind)
    assert best.kkt < 1e-9

    def risk(theta):
        gap = theta - model.theta_star
        s = np.sqrt(gap @ model.covariance @ gap + model.sigma**2)
        t = np.linalg.norm(theta, DUAL[kind])
        return s * s + 2 * C * eps * s * t + (eps * t) ** 2

    assert risk(best.theta) == pytest.approx(best.loss, rel=1e-12)
    for size in (1e-1, 1e-4):
        assert risk(best.theta + size * rng.normal(size=len(best.theta))) >= best.loss * (1 - 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_predictor_leaves_theta_star_and_reaches_zero_at_the_thresholds(kind):
    rng = np.random.default_rng(1)
    for sigma in (0.0, 0.3):
        model = random_model(rng, sigma=sigma)
        limits = thresholds(model, kind)
        assert not minimise(model, limits.zero * 1.000001, kind).theta.any()
        assert minimise(model, limits.zero * 0.999999, kind).theta.any()
        np.testing.assert_array_equal(minimise(model, 0.0, kind).theta, model.theta_star)
        if sigma == 0:
            np.testing.assert_array_equal(minimise(model, limits.exact * 0.999, kind).theta, model.theta_star)
            moved = minimise(model, limits.exact * 1.01, kind).theta - model.theta_star
            assert np.abs(moved).max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theta_star", [[1.0, -0.5, 0.0], [0.7, -0.7, 0.0]])
def test_small_radii_push_along_the_least_subgradient(kind, theta_star):
    covariance = np.array([[1.0, 0.3, 0.6], [0.3, 1.5, -0.5], [0.6, -0.5, 1.2]])
    model, eps = gaussian(covariance, theta_star, 0.5, core=2), 1e-5
    push = -eps * C * 0.5 * np.linalg.solve(covariance, least_subgradient(model, kind))
    moved = minimise(model, eps, kind).theta - model.theta_star
    np.testing.assert_allclose(moved, push, atol=3e-4 * np.abs(push).max())


@given(st.floats(1e-6, 10), st.floats(1e-3, 5), st.floats(0, 5))
def test_radius_and_weight_of_the_penalty_are_inverse(eps, s, t):
    assert eps_of(lam_of(eps, s, t), s, t) == pytest.approx(eps, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 3.0))
def test_nearest_point_of_a_box(seed, radius):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 9))
    root, centre = rng.normal(size=(m + 1, m)), 2 * rng.normal(size=m)
    metric = root.T @ root + 0.01 * np.eye(m)
    x, side = box.nearest(metric, centre, radius)
    pull = metric @ (centre - x)
    scale = 1e-9 * np.abs(metric).sum()
    assert (np.abs(x) <= radius).all()
    np.testing.assert_array_equal(x[side != 0], (side * radius)[side != 0])
    np.testing.assert_allclose(pull[side == 0], 0, atol=scale)
    assert (side * pull >= -scale).all()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_arrays_of_jax_are_taken_too(kind):
    model = random_model(np.random.default_rng(2))
    single = jax.tree.map(lambda a: jax.numpy.asarray(a, "float32"), model)
    np.testing.assert_allclose(minimise(single, 0.2, kind).theta, minimise(model, 0.2, kind).theta, atol=1e-5)
    assert minimise(single, 0.2, kind).theta.dtype == np.float64


GOOD = {"covariance": [[1.0, 0.5], [0.5, 1.0]], "theta_star": [1.0, 0.0], "sigma": 0.5, "core": 1}
BAD = {
    "shapes": ({"theta_star": [1.0, 0.0, 0.0]}, "covariance is"),
    "no core": ({"core": 0}, "core is 0"),
    "asymmetric": ({"covariance": [[1.0, 0.5], [0.4, 1.0]]}, "not symmetric"),
    "indefinite": ({"covariance": [[1.0, 1.1], [1.1, 1.0]]}, "positive definite"),
    "no rule": ({"theta_star": [0.0, 0.0]}, "not zero"),
    "spurious coefficient": ({"theta_star": [1.0, 0.1]}, "must be zero there"),
    "negative noise": ({"sigma": -0.1}, "sigma is -0.1"),
    "noise that is no number": ({"sigma": float("nan")}, "sigma is nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_assumptions_on_the_model_are_checked(name):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        gaussian(**(GOOD | change))


def test_settings_are_checked():
    model = gaussian(**GOOD)
    for eps in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="minimise: eps"):
            minimise(model, eps, "l2")
    with pytest.raises(ValueError, match="path: lam"):
        path(model, -1.0, "l2")
    with pytest.raises(ValueError, match="pair: rho"):
        pair.pair(b=1.0, rho=1.0, sigma=0.5)
    with pytest.raises(ValueError, match="pair: the scales"):
        pair.pair(b=0.0, rho=0.5, sigma=0.5)
    with pytest.raises(ValueError, match="transition: kind"):
        pair.transition(a=1.0, b=1.0, rho=0.5, beta=1.0, sigma=0.5, kind="linf")
