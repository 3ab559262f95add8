"""Drawing data, attacking it with PGD and training against it agrees with the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_vectors import KINDS, random_model

from robustjax.analysis.linear import closed_form, pair, sampled
from robustjax.analysis.linear.minimiser import minimise
from robustjax.attacks.pgd import pgd
from robustjax.threats import Threat

MODEL = pair.pair(b=2.0, rho=0.8, sigma=0.5)
THETA = jnp.asarray([0.6, 0.15], jnp.float32)


def test_samples_have_the_moments_of_the_model():
    model = random_model(np.random.default_rng(0), (2, 2))
    gap = np.append(model.theta_star, -1.0)
    for whiten, atol in ((True, 2e-4), (False, 0.06)):
        x, y = sampled.draw(jax.random.key(0), model, 20_000, whiten=whiten)
        np.testing.assert_allclose(np.cov(x.T, bias=True), model.covariance, atol=atol)
        noise = -np.column_stack([x, y]) @ gap
        assert noise.std() == pytest.approx(model.sigma, abs=atol)
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=atol)
    with pytest.raises(ValueError, match="draw: count"):
        sampled.draw(jax.random.key(0), model, 6, whiten=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pgd_reaches_the_closed_form(kind):
    """The average within 1 % of the expectation, and each point up to rounding."""
    x, y = sample = sampled.draw(jax.random.key(0), MODEL, 30_000, whiten=True)
    ascent = sampled.adversary(0.5, kind, steps=3 if kind == "l1" else 10)
    found = jax.jit(sampled.risk, static_argnums=3)(jax.random.key(1), THETA, sample, ascent)
    assert float(found) == pytest.approx(
        float(closed_form.adversarial_risk(MODEL, THETA, 0.5, kind)), rel=0.01
    )
    worst = jnp.square(y - closed_form.worst_point(THETA, x, y, 0.5, kind) @ THETA).mean()
    assert float(found) == pytest.approx(float(worst), rel=1e-4)


def test_a_random_start_underrates_the_adversary():
    sample = sampled.draw(jax.random.key(0), MODEL, 20_000, whiten=True)
    ball = Threat("linf", 0.5, -jnp.inf, jnp.inf)
    blind = pgd(ball, steps=10, step_size=0.125)
    lost = jax.jit(sampled.risk, static_argnums=3)(jax.random.key(1), THETA, sample, blind)
    assert float(lost) < 0.99 * float(closed_form.adversarial_risk(MODEL, THETA, 0.5, "linf"))


@pytest.mark.slow
@pytest.mark.parametrize("kind, count, steps", [("linf", 2000, 10), ("l2", 2000, 10), ("l1", 500, 3)])
def test_adversarial_training_finds_the_minimiser(kind, count, steps):
    @jax.jit
    def trained(key, eps):
        sample = sampled.draw(key, MODEL, count, whiten=True)
        return sampled.fit(key, sample, sampled.adversary(eps, kind, steps=steps), updates=400)

    for eps in (0.1, 0.5):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers in
            found = trained(jax.random.key(0), eps)
        np.testing.assert_allclose(found, minimise(MODEL, eps, kind).theta, atol=8e-3)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="fit: updates"):
        sampled.fit(
            jax.random.key(0), (jnp.ones((4, 2)), jnp.ones(4)), sampled.adversary(0.1, "l2"), updates=0
        )
