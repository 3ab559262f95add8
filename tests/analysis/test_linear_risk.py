"""The closed form against quadrature, sampling with a brute-force adversary, and derivatives by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from linear_vectors import DUAL, KIND, KINDS, ORDER, cases, model_of, random_model

from robustjax.analysis.linear import closed_form
from robustjax.analysis.linear.gaussian import gaussian, shifted
from robustjax.analysis.linear.measures import measures, squared_error
from robustjax.analysis.linear.minimiser import minimise


@pytest.mark.parametrize("s, b", [(1.0, 0.3), (0.5, 1.2), (2.0, 0.01), (1.0, 0.0), (0.03, 4.0)])
def test_expected_square_is_the_integral(s, b):
    def density(z):
        return (s * z + b) ** 2 * math.sqrt(2 / math.pi) * math.exp(-z * z / 2)

    integral, _ = scipy.integrate.quad(density, 0, 40, epsabs=1e-13, epsrel=1e-13, limit=200)
    assert closed_form.expected_square(s, b) == pytest.approx(integral, abs=1e-11)


def test_golden_numbers():
    for given, expected, atol in cases("expect"):
        assert closed_form.expected_square(given["s"], given["b"]) == pytest.approx(
            expected["value"], abs=atol
        )
    with jax.enable_x64(True):
        for given, expected, atol in cases("loss_eval"):
            model, theta, kind = model_of(given), np.array(given["w"]), KIND[given["p"]]
            assert float(closed_form.error(model, theta)) == pytest.approx(expected["s"], abs=atol)
            assert float(closed_form.dual_norm(theta, kind)) == pytest.approx(expected["dual_norm"], abs=atol)
            risk = closed_form.adversarial_risk(model, theta, given["eps"], kind)
            assert float(risk) == pytest.approx(expected["loss"], abs=atol)


def unit_ball_corners(kind, m):
    """Points whose convex hull is the unit ball, or a fine net of it: a convex function is largest there."""
    if kind == "linf":
        return np.array(list(itertools.product([-1.0, 1.0], repeat=m)))
    if kind == "l1":
        return np.vstack([np.eye(m), -np.eye(m)])
    net = np.random.default_rng(0).normal(size=(2000, m))
    return net / np.linalg.norm(net, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_with_a_brute_force_adversary_agrees(kind):
    rng = np.random.default_rng(1)
    covariance = np.array([[1.0, 0.3, 0.5], [0.3, 2.0, -0.4], [0.5, -0.4, 0.8]])
    model = gaussian(covariance, [1.0, -0.5, 0.0], 0.3, core=2)
    theta, eps = np.array([0.4, -0.2, 0.3]), 0.4
    x = rng.multivariate_normal(np.zeros(3), covariance, size=200_000)
    y = x @ model.theta_star + 0.3 * rng.normal(size=len(x))
    reach = eps * (unit_ball_corners(kind, 3) @ theta)
    residual = y - x @ theta
    worst = np.maximum((residual - reach.max()) ** 2, (residual - reach.min()) ** 2)
    noise = worst.std() / math.sqrt(len(x))
    risk = float(closed_form.adversarial_risk(model, theta, eps, kind))
    # The net of the l2 ball misses the best direction by a little, downwards.
    assert -4 * noise <= risk - worst.mean() <= 4 * noise + (2e-3 * risk if kind == "l2" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_worst_points_are_feasible_and_reach_the_closed_form_residual_by_residual(kind):
    rng = np.random.default_rng(2)
    theta = np.array([0.5, -1.5, 0.0, 0.7], np.float32)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    y = rng.normal(size=50).astype(np.float32)
    worst = np.asarray(closed_form.worst_point(*map(jnp.asarray, (theta, x, y)), 0.3, kind))
    assert (np.linalg.norm(worst - x, ORDER[kind], axis=1) <= 0.3 * (1 + 1e-5)).all()
    expected = (np.abs(y - x @ theta) + 0.3 * np.linalg.norm(theta, DUAL[kind])) ** 2
    np.testing.assert_allclose((y - worst @ theta) ** 2, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_hessian_are_those_derived_by_hand(kind):
    """L = s^2 + 2 c eps s t + eps^2 t^2 with s' = Sigma d / s and, away from kinks, t' = z."""
    rng = np.random.default_rng(3)
    derivatives = jax.jit(
        lambda model, w, eps: [
            f(closed_form.adversarial_risk, argnums=1)(model, w, eps, kind) for f in (jax.grad, jax.hessian)
        ]
    )
    for _ in range(5):
        model = random_model(rng, (3, 2))
        theta, eps = rng.normal(size=len(model.theta_star)), rng.uniform(0.1, 1.0)
        sigma, gap = model.covariance, theta - model.theta_star
        s = math.sqrt(gap @ sigma @ gap + model.sigma**2)
        ds = sigma @ gap / s
        dds = sigma / s - np.outer(ds, ds) / s
        t = np.linalg.norm(theta, DUAL[kind])
        if kind == "linf":
            dt, ddt = np.sign(theta), 0 * sigma
        elif kind == "l1":
            dt, ddt = np.sign(theta) * (np.abs(theta) == t), 0 * sigma
        else:
            dt = theta / t
            ddt = (np.eye(len(theta)) - np.outer(dt, dt)) / t
        c = math.sqrt(2 / math.pi)
        slope = 2 * s * ds + 2 * c * eps * (t * ds + s * dt) + 2 * eps**2 * t * dt
        bend = 2 * (np.outer(ds, ds) + s * dds)
        bend = bend + 2 * c * eps * (np.outer(ds, dt) + np.outer(dt, ds) + t * dds + s * ddt)
        bend = bend + 2 * eps**2 * (np.outer(dt, dt) + t * ddt)
        with jax.enable_x64(True):
            found = derivatives(model, theta, eps)
        np.testing.assert_allclose(found[0], slope, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(found[1], bend, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_risk_is_convex_along_chords(kind):
    rng = np.random.default_rng(4)
    model = random_model(rng, (3, 2))
    one, two = rng.normal(size=(2, 300, len(model.theta_star)))
    with jax.enable_x64(True):
        risk = jax.vmap(lambda w: closed_form.adversarial_risk(model, w, 0.4, kind))
        assert (risk((one + two) / 2) <= (risk(one) + risk(two)) / 2 + 1e-12).all()


def test_no_nan_where_the_residual_or_the_predictor_vanishes():
    model = gaussian([[1.0, 0.5], [0.5, 1.0]], [1.0, 0.0], 0.0, core=1)
    for kind in KINDS:
        for theta in (np.zeros(2, np.float32), np.array([1, 0], np.float32)):
            value, slope = jax.value_and_grad(closed_form.adversarial_risk, argnums=1)(
                model, theta, 0.3, kind
            )
            assert np.isfinite(value) and np.isfinite(slope).all()


def test_same_under_every_transformation(variant):
    rng = np.random.default_rng(5)
    model = random_model(rng, (3, 2))
    theta = jnp.asarray(rng.normal(size=(4, len(model.theta_star))), jnp.float32)
    eps = jnp.asarray([0.0, 0.1, 0.5, 2.0])

    def everything(theta, eps):
        def one(w, e):
            risks = [closed_form.adversarial_risk(model, w, e, kind) for kind in KINDS]
            return jnp.stack([*risks, *measures(model, w), squared_error(model, w, tau=e)])

        return jax.vmap(one)(theta, eps)

    found = variant(everything)(theta, eps)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, everything(theta, eps), rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        exact = everything(np.asarray(theta, np.float64), np.asarray(eps, np.float64))
        assert exact.dtype == jnp.float64
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-5)


def test_measures_are_the_golden_ones():
    names = {"variance_share": "var_share", "weight_share": "weight_share_l1", "noise_share": "lin_rfs"}
    with jax.enable_x64(True):
        for given, expected, atol in cases("opt2") + cases("opt_multi"):
            model = model_of(given)
            found = measures(model, np.array(expected["w"]))
            for ours, theirs in names.items():
                assert float(getattr(found, ours)) == pytest.approx(expected[theirs], abs=atol)
            gap = squared_error(model, np.array(expected["w"]), tau=0.0) - squared_error(
                model, np.array(expected["w"])
            )
            assert float(found.shift_gap) == pytest.approx(float(gap), abs=1e-12)
    assert all(float(v) == 0 for v in measures(model, np.zeros(5, np.float32)))


def test_error_and_risk_in_shifted_domains_are_the_golden_ones():
    with jax.enable_x64(True):
        for given, expected, atol in cases("opt_multi"):
            model, theta = model_of(given), np.array(expected["w"])
            for tau, error in expected["mse_tau"].items():
                assert float(squared_error(model, theta, tau=float(tau))) == pytest.approx(error, abs=atol)
                risk = closed_form.adversarial_risk(
                    shifted(model, float(tau)), theta, given["eps"], KIND[given["p"]]
                )
                assert float(risk) == pytest.approx(expected["adv_tau"][tau], abs=atol)


def test_a_shift_may_be_swept():
    model = model_of(cases("opt_multi")[0][0])
    taus = jnp.asarray([1.0, 0.5, 0.0, -1.0])
    swept = jax.jit(jax.vmap(lambda tau: shifted(model, tau).covariance))(taus)
    np.testing.assert_allclose(swept, [shifted(model, float(tau)).covariance for tau in taus], rtol=1e-6)
    np.testing.assert_array_equal(shifted(model, 1.0).covariance, model.covariance)
    assert not shifted(model, 0.0).covariance[:3, 3:].any()


def test_radii_zero_and_the_mean_squared_error():
    model = random_model(np.random.default_rng(6))
    best = minimise(model, 0.3, "l2")
    for kind in KINDS:
        risk = closed_form.adversarial_risk(model, best.theta, 0.0, kind)
        assert float(risk) == pytest.approx(float(squared_error(model, best.theta)), rel=1e-6)


def test_gradient_vanishes_at_smooth_optima():
    """The minimiser on the host and the risk in JAX are two programs; they must speak of the same function."""
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(closed_form.adversarial_risk, argnums=1), static_argnums=3)
        for inputs, _, _ in cases("opt2") + cases("opt_multi"):
            if inputs["p"] == "2":
                model = model_of(inputs)
                found = slope(model, minimise(model, inputs["eps"], "l2").theta, inputs["eps"], "l2")
                np.testing.assert_allclose(found, 0, atol=1e-8)
