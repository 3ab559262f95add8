"""CCU: densities against scipy, the posterior and the loss by their formulas, and what is guaranteed far away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from robustjax import training
from robustjax.losses import gaussian_mixture
from robustjax.losses.ccu import ccu, mixed, optimizer
from robustjax.models import small
from robustjax.types import Batch, Pair

SHAPE, K, N, M = (2, 2, 1), 3, 8, 4
RNG = np.random.default_rng(0)
DATA = jnp.asarray(RNG.beta(2, 5, size=(60, *SHAPE)) * [[[0.2], [1.0]], [[0.6], [1.0]]], jnp.float32)
STRANGE = jnp.asarray(RNG.uniform(size=(40, *SHAPE)), jnp.float32)
AXES = gaussian_mixture.principal(DATA)
KEY = jax.random.key(0)
INSIDE, OUTSIDE = (gaussian_mixture.fitted(KEY, AXES, x, components=3, rounds=5) for x in (DATA, STRANGE))
NETWORK = small.mlp(classes=K, shape=SHAPE, widths=(5,))
MODEL = mixed(NETWORK, AXES, INSIDE, OUTSIDE, odds=2.0)
PARAMS, STATE = MODEL.init(KEY)
BATCH = Pair(Batch(DATA[:N], jnp.asarray(RNG.integers(0, K, N), jnp.int32)), STRANGE[:M])


def density(mixture, x):
    """Normal densities over images, with the covariance that the axes and the variance stand for."""
    backward = np.linalg.inv(np.float64(AXES.forward))
    flat = np.float64(x).reshape(len(x), -1)
    parts = [
        scipy.stats.multivariate_normal(
            backward @ np.float64(m), np.exp(float(v)) * backward @ backward.T
        ).logpdf(flat)
        for m, v in zip(mixture.mean, mixture.log_variance, strict=True)
    ]
    return scipy.special.logsumexp(parts, axis=0) - np.log(len(parts))


def posterior(x):
    p = scipy.special.softmax(np.float64(NETWORK.apply(PARAMS.network, STATE, x)[0]), 1)
    known, strange = (np.exp(density(m, x))[:, None] for m in (PARAMS.inside, PARAMS.outside))
    return (known * p + 2.0 * strange / K) / (known + 2.0 * strange)


def test_density_is_that_of_the_gaussians():
    for mixture in (INSIDE, OUTSIDE):
        found = gaussian_mixture.log_density(AXES, mixture, STRANGE)
        np.testing.assert_allclose(found, density(mixture, STRANGE), rtol=1e-4, atol=1e-4)


def test_axes_are_principal_and_divide_by_the_roots_of_singular_values():
    flat = np.float64(DATA).reshape(len(DATA), -1)
    singular = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
    scatter = (flat - flat.mean(0)) @ np.float64(AXES.forward).T
    np.testing.assert_allclose(scatter.T @ scatter, np.diag(np.sort(singular)), atol=1e-4)
    np.testing.assert_allclose(AXES.log_volume, -0.5 * np.log(singular).sum(), rtol=1e-5)


def test_fit_is_a_fixed_point_of_k_means_and_its_variance_the_mean_square():
    fit = gaussian_mixture.fitted(KEY, AXES, DATA, components=3, rounds=50)
    points, mean = np.float64(AXES(DATA)), np.float64(fit.mean)
    square = ((points[:, None] - mean) ** 2).sum(2)
    member = square.argmin(1)
    np.testing.assert_allclose(mean, [points[member == j].mean(0) for j in range(3)], atol=1e-5)
    np.testing.assert_allclose(np.exp(fit.log_variance), np.full(3, square.min(1).mean() / 4), rtol=1e-4)
    np.testing.assert_allclose(
        gaussian_mixture.squared_distance(AXES(DATA), fit.mean), square, rtol=1e-4, atol=1e-6
    )


def test_posterior_is_its_formula_and_a_distribution():
    log_p = MODEL.apply(PARAMS, STATE, STRANGE)[0]
    np.testing.assert_allclose(jnp.exp(log_p), posterior(STRANGE), rtol=2e-4)
    np.testing.assert_allclose(jnp.exp(log_p).sum(1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_far_from_everything_the_prediction_is_uniform_and_near_likely_data_the_networks():
    ray = jnp.asarray(RNG.normal(size=(16, *SHAPE)), jnp.float32)
    ray = 1e3 * ray / jnp.linalg.norm(ray.reshape(16, -1), axis=1)[:, None, None, None]
    log_p, slope = (
        MODEL.apply(PARAMS, STATE, ray)[0],
        jax.grad(lambda x: MODEL.apply(PARAMS, STATE, x)[0].max()),
    )
    np.testing.assert_allclose(log_p, -np.log(K), atol=1e-3)
    assert np.isfinite(slope(ray)).all()
    sure = PARAMS._replace(inside=PARAMS.inside._replace(log_variance=PARAMS.inside.log_variance + 4.0))
    sure = sure._replace(outside=PARAMS.outside._replace(mean=PARAMS.outside.mean + 1e3))
    network = jax.nn.log_softmax(NETWORK.apply(PARAMS.network, STATE, DATA)[0])
    np.testing.assert_allclose(MODEL.apply(sure, STATE, DATA)[0], network, atol=1e-4)


@pytest.mark.slow
def test_loss_is_its_formula():
    value, (_, metrics) = jax.jit(ccu(MODEL, AXES, ood_prior=0.3))(PARAMS, STATE, BATCH, KEY)
    p, q = posterior(BATCH.id.image), posterior(BATCH.ood)
    known, strange = (
        np.log(0.7 * np.exp(density(PARAMS.inside, x)) + 0.3 * np.exp(density(PARAMS.outside, x))).mean()
        for x in (BATCH.id.image, BATCH.ood)
    )
    risk, uniform = -np.log(p[np.arange(N), np.asarray(BATCH.id.label)]).mean(), -np.log(q).mean()
    np.testing.assert_allclose(value, 0.7 * (risk - known) + 0.3 * (uniform - strange), rtol=1e-4)
    np.testing.assert_allclose(metrics["risk"], risk, rtol=1e-4)
    np.testing.assert_allclose(metrics["ood_evidence"], strange, rtol=1e-3)


@pytest.mark.slow
def test_training_keeps_the_ood_mixture_wide_and_raises_the_likelihood():
    tx = optimizer(optax.sgd(0.1), learning_rate=1e-3)
    step = training.step(ccu(MODEL, AXES), tx)
    state, losses = training.start(KEY, MODEL, tx), []
    for _ in range(5):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
        gap = state.params.outside.log_variance - state.params.inside.log_variance.max()
        assert (gap >= np.log(4) - 1e-5).all()
    assert losses[-1] < losses[0]
    assert not np.allclose(state.params.inside.mean, INSIDE.mean)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: mixed(NETWORK, AXES, INSIDE, OUTSIDE, odds=0.0), "mixed: odds is 0.0"),
        (lambda: ccu(MODEL, AXES, ood_prior=1.0), "ccu: ood_prior is 1.0"),
        (lambda: optimizer(optax.sgd(0.1), factor=1.0), "optimizer: factor is 1.0"),
        (lambda: gaussian_mixture.principal(DATA, floor=0.0), "principal: floor is 0.0"),
        (
            lambda: gaussian_mixture.principal(jnp.ones((3, *SHAPE))),
            "principal: the 3 images are all the same",
        ),
        (lambda: gaussian_mixture.fitted(KEY, AXES, DATA, components=61), "fitted: components is 61"),
        (lambda: gaussian_mixture.fitted(KEY, AXES, DATA, components=3, rounds=-1), "fitted: rounds is -1"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
