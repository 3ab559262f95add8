"""Certificates per pixel, on a segmenter whose pixels are linear classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from robustjax import binomial
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.segmenters import certify_pixels
from robustjax.smoothing.votes import votes

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 1)), jnp.float32)


def signs(x):
    """Classify each pixel by its sign."""
    return jnp.concatenate([-x, x], axis=-1)


def test_votes_and_radii_of_pixels_are_those_of_the_normal_distribution():
    sigma, n = 0.5, 4000
    count = votes(signs, in_pixels(sigma, lower=-np.inf, upper=np.inf), classes=2, chunk_size=1000)
    found = np.asarray(jax.jit(count)(KEY, X, n))
    assert found.shape == (2, 3, 4, 2) and (found.sum(axis=-1) == n).all()
    share = stats.norm.cdf(np.asarray(X)[..., 0] / sigma)
    assert np.abs(found[..., 1] / n - share).max() < 5 * np.sqrt(0.25 / n)
    joint = certify_pixels(count, sigma=sigma, selection_samples=100, samples=n)(KEY, X)
    single = certify_pixels(count, sigma=sigma, selection_samples=100, samples=n, joint=False)(KEY, X)
    sure = joint.label >= 0
    assert (joint.label[sure] == (np.asarray(X)[..., 0] > 0)[sure]).all() and sure.mean() > 0.7
    # The class of a pixel changes at a distance of its own value, so no radius may be larger.
    assert (joint.radius <= np.abs(np.asarray(X))[..., 0] + 1e-6).all()
    assert (joint.radius <= single.radius).all() and (joint.radius < single.radius).any()
    ceiling = binomial.radius(np.asarray((0.001 / 12) ** (1 / n)), sigma)
    assert joint.radius.max() <= ceiling + 1e-9
