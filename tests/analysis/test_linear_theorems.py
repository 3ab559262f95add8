"""The theorems decide what the minimiser then does, on random models; their assumptions are checked."""

import numpy as np
import pytest
from linear_vectors import KIND, KINDS, cases, model_of, random_model

from robustjax.analysis.linear import pair
from robustjax.analysis.linear.gaussian import core_only, gaussian, shifted
from robustjax.analysis.linear.minimiser import minimise, thresholds
from robustjax.analysis.linear.theorems import (
    benefit,
    irrepresentable,
    relative_scale,
    relies,
    shift,
    shift_of,
)


def uses_spurious(model, eps, kind):
    return bool((np.abs(minimise(model, eps, kind).theta[model.core :]) > 1e-9).any())


@pytest.mark.slow
def test_reliance_is_decided_right_and_shift_and_benefit_hold_on_random_models():
    rng = np.random.default_rng(0)
    seen = set()
    for i in range(210):
        kind = KINDS[i % 3]
        model = random_model(rng)
        eps = rng.uniform(0.02, 0.98) * thresholds(core_only(model), kind).zero
        found = relies(model, eps, kind)
        assert found.relies == uses_spurious(model, eps, kind), (i, found)
        if kind == "linf":
            assert found.relies == bool((irrepresentable(model, eps) > 1 + 1e-9).any())
        moved, gain = shift(model, eps, kind), benefit(model, eps, kind)
        assert moved.gain >= moved.cost - 1e-12 and moved.cost >= 0
        assert (moved.gain > 1e-15) == found.relies
        errors = [moved.error(tau) for tau in (1.0, 0.5, 0.0, -0.5, -1.0)]
        assert errors == sorted(errors)
        assert gain.preserved <= gain.core_only + 1e-12 and gain.broken >= gain.core_only - 1e-12
        # Among small gains rounding decides: ask only where the spurious part matters.
        if moved.gain > 1e-6:
            assert gain.preserved < gain.core_only < gain.broken
        seen.add((kind, found.relies))
    assert {("linf", True), ("linf", False), ("l1", True), ("l2", True)} <= seen


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_claim_one_any_correlation_is_used_and_none_is_not(kind):
    for rho in (0.9, 0.01, -0.3):
        model = pair.pair(b=0.1, rho=rho, sigma=0.5)
        for share in (0.01, 0.5, 0.99):
            eps = share * thresholds(core_only(model), kind).zero
            assert relies(model, eps, kind).relies and uses_spurious(model, eps, kind)
    free = pair.pair(b=3.0, rho=0.0, sigma=0.5)
    assert not relies(free, 0.5, kind).relies and not uses_spurious(free, 0.5, kind)


def test_claim_one_a_correlation_that_explains_nothing_left_is_not_used():
    """Two like core features are shrunk alike; their difference then explains nothing."""
    covariance = [[1.0, 0.0, 0.5], [0.0, 1.0, -0.5], [0.5, -0.5, 1.0]]
    model = gaussian(covariance, [1.0, 1.0, 0.0], 0.5, core=2)
    for kind in KINDS:
        assert not relies(model, 0.3, kind).relies and not uses_spurious(model, 0.3, kind)


def test_claim_two_scale_decides_for_one_core_feature():
    for a, b, rho in [
        (1.0, 1.24, 0.8),
        (1.0, 1.26, 0.8),
        (2.0, 5.0, -0.41),
        (2.0, 5.0, -0.39),
        (1.0, 1.0, 0.99),
    ]:
        model = pair.pair(a=a, b=b, rho=rho, sigma=0.4)
        expected = abs(rho) * b > a
        assert (relative_scale(model)[0] > 1) == expected
        for share in (0.01, 0.5, 0.99):
            eps = share * thresholds(core_only(model), "linf").zero
            assert relies(model, eps, "linf").relies == expected == uses_spurious(model, eps, "linf")


def test_irrepresentable_condition_is_the_golden_one():
    for inputs, expected, atol in cases("irrepresentable"):
        found = irrepresentable(model_of(inputs))
        np.testing.assert_allclose(found, expected["ic"], atol=atol)
        assert (found > 1).tolist() == expected["reliant_small_eps"]
    for inputs, expected, _ in cases("two_core_linf"):
        model = model_of(inputs)
        np.testing.assert_allclose(irrepresentable(model), expected["ic"], atol=1e-9)
        # Scale is not the criterion with two core features: 0.75 < 1 is enough.
        assert relies(model, inputs["eps"], "linf").relies == (expected["ic"] > 1)


def test_reliance_may_appear_only_at_larger_radii():
    inputs, expected, _ = next(c for c in cases("opt_multi") if c[0]["p"] == "inf" and c[0]["eps"] == 0.8)
    model = model_of(inputs)
    assert any(expected["w"][3:]) and relies(model, 0.8, "linf").relies
    assert not relies(model, 0.05, "linf").relies
    assert irrepresentable(model).max() < 1 < irrepresentable(model, 0.8).max()
    np.testing.assert_allclose(irrepresentable(model, 1e-4), irrepresentable(model), atol=1e-9)


def test_errors_under_shift_are_the_golden_ones_and_those_of_the_shifted_model():
    rng = np.random.default_rng(1)
    for inputs, expected, atol in cases("opt_multi"):
        model = model_of(inputs)
        found = shift(model, inputs["eps"], KIND[inputs["p"]])
        for tau, error in expected["mse_tau"].items():
            assert found.error(float(tau)) == pytest.approx(error, abs=atol)
        theta, tau = rng.normal(size=5), rng.uniform(-1, 1)
        gap = theta - model.theta_star
        direct = gap @ shifted(model, tau).covariance @ gap + model.sigma**2
        assert shift_of(model, theta).error(tau) == pytest.approx(direct)
        assert shift_of(model, model.theta_star).error(tau) == pytest.approx(model.sigma**2)


def test_golden_benefits():
    for inputs, expected, atol in cases("benefit"):
        found = benefit(model_of(inputs), inputs["eps"], KIND[inputs["p"]])
        assert found.preserved == pytest.approx(expected["robust_loss"], abs=atol)
        assert found.core_only == pytest.approx(expected["robust_loss_core_only"], abs=atol)
        assert found.broken == pytest.approx(expected["robust_loss_broken"], abs=atol)


def test_assumptions_are_checked():
    model, still = (pair.pair(b=2.0, rho=0.8, sigma=sigma) for sigma in (0.5, 0.0))
    for theorem in (relies, shift, benefit):
        with pytest.raises(ValueError, match="sigma is 0"):
            theorem(still, 0.5, "l2")
        with pytest.raises(ValueError, match="eps is 0"):
            theorem(model, 0.0, "l2")
    with pytest.raises(ValueError, match="irrepresentable: sigma"):
        irrepresentable(still)
    given_up = 1.01 * thresholds(core_only(model), "linf").zero
    with pytest.raises(ValueError, match="core features alone predicts zero"):
        relies(model, given_up, "linf")
    two = gaussian(np.eye(3), [1.0, 1.0, 0.0], 0.5, core=2)
    with pytest.raises(ValueError, match="2 core features"):
        relative_scale(two)
