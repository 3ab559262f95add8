"""Measures of confidence: closed values, ranges, gradients, and where their adversaries differ."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from robustjax.losses import confidences

K = 10
Z = np.random.default_rng(0).normal(size=(5, K)) * 3
P = scipy.special.softmax(Z, 1)

FORMULAS = {
    "kl_from_uniform": -math.log(K) - np.log(P).mean(1),
    "ce_to_uniform": -np.log(P).mean(1),
    "log_confidence": np.log(P.max(1)),
    "negative_entropy": (P * np.log(P)).sum(1),
    "top": P.max(1),
    "normalised": (P.max(1) - 1 / K) / (1 - 1 / K),
    "squared": (P.max(1) - 1 / K) ** 2,
    "log_barrier": -np.log(1 + 1 / K - P.max(1)),
    "bhattacharyya": -np.log(np.sqrt(P / K).sum(1)),
    "spread": P.max(1) - P.min(1),
    "logit_spread": Z.max(1) - Z.min(1),
    "logit_excess": Z.max(1) - (Z.sum(1) - Z.max(1)),
    "acceptance": -np.log(P[:, -1]),
}
LEAST_AT_UNIFORM = [*list(FORMULAS)[:-2], "renyi 2", "renyi 1", "renyi inf", "renyi half"]


def named(name):
    orders = {"renyi 2": 2.0, "renyi 1": 1.0, "renyi inf": math.inf, "renyi half": 0.5}
    return confidences.renyi(orders[name]) if name in orders else getattr(confidences, name)


@pytest.mark.parametrize("name", FORMULAS)
def test_value_is_the_formula(name):
    np.testing.assert_allclose(named(name)(jnp.float32(Z)), FORMULAS[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEAST_AT_UNIFORM)
def test_least_where_all_classes_are_equally_likely_and_finite_where_one_is_certain(name):
    confidence = named(name)
    uniform, sure = jnp.zeros((1, K)), 1e4 * jax.nn.one_hot(jnp.array([3]), K)
    assert (confidence(jnp.float32(Z)) > confidence(uniform)).all()
    for z in (uniform, sure):
        value, grad = jax.value_and_grad(lambda a: confidence(a).sum())(z)
        assert np.isfinite(value) and np.isfinite(grad).all()
    assert confidence(sure) > confidence(uniform)


def test_divergence_from_uniform_at_known_confidences():
    """By hand for max confidence c, the rest equal: -log K - (log c + (K - 1) log((1 - c) / (K - 1))) / K."""
    for c, expected in ((0.1, 0.0), (0.2, 0.036690), (0.5, 0.368064), (0.9, 1.757780), (0.99, 3.820575)):
        p = jnp.full((1, K), (1 - c) / (K - 1)).at[0, 4].set(c)
        np.testing.assert_allclose(confidences.kl_from_uniform(jnp.log(p) + 7.0), expected, atol=2e-6)


def test_gradient_of_the_divergence_is_p_minus_uniform():
    grad = jax.grad(lambda z: confidences.kl_from_uniform(z).sum())(jnp.float32(Z))
    np.testing.assert_allclose(grad, P - 1 / K, atol=1e-6)


def test_renyi_divergences_grow_with_their_order_and_meet_their_limits():
    z = jnp.float32(Z)
    orders = (0.5, 0.999, 1.0, 1.001, 2.0, 50.0, math.inf)
    values = np.stack([confidences.renyi(a)(z) for a in orders])
    assert (np.diff(values, axis=0) > -1e-4).all()
    np.testing.assert_allclose(values[1], values[2], atol=5e-3)
    np.testing.assert_allclose(values[0], 2 * FORMULAS["bhattacharyya"], rtol=1e-4)  # the known identity
    np.testing.assert_allclose(values[-1], math.log(K) + np.log(P.max(1)), rtol=1e-5)


def test_a_suppressed_class_counts_as_sure_by_the_divergence_only():
    """Why an attack on the divergence is not one on the confidence."""
    p = np.full((2, K), 0.0)
    p[0], p[1] = (1 - 1e-6) / (K - 1), 0.5 / (K - 1)
    p[0, 0], p[1, 0] = 1e-6, 0.5
    z = jnp.float32(np.log(p))
    divergence, top = confidences.kl_from_uniform(z), confidences.top(z)
    np.testing.assert_allclose(divergence, [1.056, 0.368], atol=1e-3)
    assert divergence[0] > divergence[1] and top[0] < top[1]


def test_bad_order_is_refused():
    with pytest.raises(ValueError, match="renyi: order is 0"):
        confidences.renyi(0)
