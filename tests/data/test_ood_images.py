"""Noise: its distribution, SciPy's Gaussian filter, and the pixels it is made from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from robustjax.data import ood_images
from robustjax.numerics import keys_for

SHAPE = (4, 12, 10, 3)
IMAGES = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
FROM_IMAGES = {
    "permuted": ood_images.permuted,
    "smoothed": ood_images.smoothed,
    "contrast_stretched": ood_images.contrast_stretched,
    "acet_noise": ood_images.acet_noise,
    "ccu_noise": ood_images.ccu_noise,
}
FROM_NOTHING = {
    name: lambda key, images, f=f: f(key, images.shape)
    for name, f in {
        "uniform": ood_images.uniform,
        "gaussian": ood_images.gaussian,
        "low_frequency": ood_images.low_frequency,
    }.items()
}
ALL = FROM_IMAGES | FROM_NOTHING


@pytest.mark.parametrize("name", ALL)
def test_images_stay_images(name):
    made = ALL[name](jax.random.key(0), IMAGES)
    assert made.shape == SHAPE and made.dtype == jnp.float32
    assert float(made.min()) >= 0 and float(made.max()) <= 1 and bool(jnp.isfinite(made).all())
    again = ALL[name](jax.random.key(0), IMAGES)
    other = ALL[name](jax.random.key(1), IMAGES)
    np.testing.assert_array_equal(made, again)
    assert all(not np.array_equal(a, b) for a, b in zip(made, other, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_one_key_means_one_key_per_example(name):
    keys = keys_for(jax.random.key(3), SHAPE[0])
    np.testing.assert_array_equal(ALL[name](jax.random.key(3), IMAGES), ALL[name](keys, IMAGES))


@pytest.mark.parametrize("name", ["acet_noise", "ccu_noise"])
def test_every_transformation_gives_the_same(name, variant):
    keys = keys_for(jax.random.key(2), SHAPE[0])
    want = ALL[name](keys, IMAGES)
    np.testing.assert_allclose(variant(ALL[name])(keys, IMAGES), want, atol=2e-6)


def test_uniform_and_gaussian_follow_their_distributions():
    shape = (1, 40, 40, 3)
    flat = np.ravel(ood_images.uniform(jax.random.key(0), shape))
    assert scipy.stats.kstest(flat, "uniform").pvalue > 1e-3
    clipped = np.ravel(ood_images.gaussian(jax.random.key(0), shape))
    inner = clipped[(clipped > 0) & (clipped < 1)]
    assert scipy.stats.kstest(inner, scipy.stats.truncnorm(-0.5, 0.5, loc=0.5).cdf).pvalue > 1e-3
    assert abs((clipped == 0).mean() - scipy.stats.norm.cdf(-0.5)) < 0.03


def test_permuted_keeps_the_pixels_with_their_channels():
    made = ood_images.permuted(jax.random.key(0), IMAGES)
    for before, after in zip(IMAGES, made, strict=True):
        rows = [np.asarray(x).reshape(-1, 3) for x in (before, after)]
        order = [r[np.lexsort(r.T)] for r in rows]
        np.testing.assert_array_equal(*order)
        assert (rows[0] != rows[1]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.5])
def test_blur_is_scipys_gaussian_filter(deviation):
    made = ood_images.blurred(IMAGES, jnp.full(SHAPE[0], deviation))
    want = [
        scipy.ndimage.gaussian_filter(
            np.asarray(x, np.float64), (deviation, deviation, 0), mode="reflect", radius=7
        )
        for x in IMAGES
    ]
    np.testing.assert_allclose(made, want, atol=1e-5)


def test_blur_works_on_images_smaller_than_its_reach():
    tiny = IMAGES[:, :4, :4]
    made = ood_images.blurred(tiny, jnp.full(SHAPE[0], 2.0))
    want = [
        scipy.ndimage.gaussian_filter(np.asarray(x, np.float64), (2, 2, 0), mode="reflect", radius=7)
        for x in tiny
    ]
    np.testing.assert_allclose(made, want, atol=1e-5)


def test_every_image_is_blurred_by_its_own_deviation():
    deviation = jnp.asarray([0.5, 1.0, 2.0, 3.0])
    same = jnp.broadcast_to(IMAGES[:1], SHAPE)
    spread = np.asarray(ood_images.blurred(same, deviation)).std(axis=(1, 2, 3))
    assert (np.diff(spread) < 0).all()


def test_stretched_reaches_both_ends():
    made = ood_images.stretched(0.3 + 0.2 * IMAGES)
    np.testing.assert_array_equal(made.min(axis=(1, 2, 3)), 0)
    np.testing.assert_array_equal(made.max(axis=(1, 2, 3)), 1)
    np.testing.assert_array_equal(ood_images.stretched(jnp.full((2, 3, 3, 1), 0.4)), 0)


def test_contrast_keeps_grey_and_order():
    grey = ood_images.contrast_stretched(jax.random.key(0), jnp.full(SHAPE, 0.5))
    np.testing.assert_allclose(grey, 0.5)
    made = ood_images.contrast_stretched(jax.random.key(0), IMAGES)
    gain = np.log(np.asarray(made, np.float64) / (1 - np.asarray(made, np.float64))) / (
        np.asarray(IMAGES) - 0.5
    )
    middle = np.abs(np.asarray(IMAGES) - 0.5)
    usable = (middle > 0.05) & (middle < 0.25)  # where the sigmoid neither vanishes nor saturates
    for row, use in zip(gain, usable, strict=True):
        assert np.ptp(row[use]) < 0.05 and 5 <= row[use].mean() <= 30


@pytest.mark.slow
def test_acet_noise_is_of_both_kinds():
    # Blurring keeps the mean: permuted pixels of a dark image stay dark before stretching, noise does not.
    dark = jnp.zeros((64, 12, 10, 1)).at[:, 0, 0].set(1.0)
    made = np.asarray(ood_images.acet_noise(jax.random.key(0), dark))
    lonely = (made < 0.01).mean(axis=(1, 2, 3)) > 0.3  # one blurred dot on black
    assert 16 < lonely.sum() < 48
