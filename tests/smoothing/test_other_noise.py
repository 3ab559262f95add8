"""Certificates in other norms, with a denoiser, and at any stopping time; classifiers whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax import binomial
from robustjax.models.diffusion import Process
from robustjax.smoothing import anytime, noise, radii
from robustjax.smoothing.certify import certificate, certify
from robustjax.smoothing.denoised import denoised, one_step, time_of
from robustjax.smoothing.sequential import certify_up_to
from robustjax.smoothing.votes import votes

KEY = jax.random.key(0)
ANYWHERE = {"lower": -np.inf, "upper": np.inf}
X = jnp.asarray([[0.02, 0.3], [0.1, -0.2], [0.25, 0.1], [0.5, 0.0], [-0.15, 0.4]], jnp.float32)


def first_feature(x):
    """Two classes by the sign of the first feature: each image's distance to the other class is |x_1| in any norm."""
    return jnp.stack([x[:, 0], -x[:, 0]], axis=1)


def test_uniform_noise_certifies_the_distance_and_no_more():
    """One feature decides: p = 1/2 + |x_1| / (2 h) while |x_1| < h, so 2 h (p - 1/2) is the distance itself."""
    half = 0.3
    count = votes(first_feature, noise.uniform_in_pixels(half, **ANYWHERE), classes=2)
    found = certify(count, reach=radii.uniform(half), samples=20_000)(KEY, X)
    distance = np.abs(np.asarray(X)[:, 0])
    assert (found.radius <= distance).all()
    near = (found.label >= 0) & (distance < half)
    assert near.sum() >= 3 and (distance - found.radius)[near].max() < 0.02
    assert found.radius[3] < half  # beyond the width of the noise nothing can be seen
    np.testing.assert_array_equal(found.label[near], (np.asarray(X)[near, 0] < 0).astype(int))


def test_laplace_noise_certifies_the_distance_and_no_more():
    """p = 1 - exp(-|x_1| / scale) / 2, so -scale log(2 (1 - p)) is the distance itself."""
    scale = 0.2
    count = votes(first_feature, noise.laplace_in_pixels(scale, **ANYWHERE), classes=2)
    found = certify(count, reach=radii.laplace(scale), samples=20_000)(KEY, X)
    distance = np.abs(np.asarray(X)[:, 0])
    assert (found.radius <= distance).all()
    decided = found.label >= 0
    assert decided.sum() >= 4 and (distance - found.radius)[decided].max() < 0.06


@pytest.mark.parametrize("reach", [radii.gaussian(0.5), radii.uniform(0.5), radii.laplace(0.5)])
def test_chances_are_the_inverse_of_radii(reach):
    chance = np.asarray([0.5, 0.6, 0.9, 0.99])
    np.testing.assert_allclose([reach.chance(float(r)) for r in reach.radius(chance)], chance, rtol=1e-12)
    np.testing.assert_array_equal(reach.radius(np.asarray([0.0, 0.3, 0.5])), 0)


def test_samples_have_the_deviation_they_say():
    for law in (noise.uniform_in_pixels(0.3), noise.laplace_in_pixels(0.2), noise.in_pixels(0.25)):
        drawn = np.asarray(law.sample(KEY, jnp.zeros(50), 4000))
        assert drawn.std() == pytest.approx(law.sigma, rel=0.01) and abs(drawn.mean()) < 0.005
    assert np.abs(np.asarray(noise.uniform_in_pixels(0.3).sample(KEY, jnp.zeros(9), 900))).max() <= 0.3


def test_a_ball_in_linf_lies_in_that_of_l2():
    np.testing.assert_allclose(radii.in_linf(np.asarray([1.0, 0.5]), 784), [1 / 28, 1 / 56])


def test_bounds_for_all_times_are_where_the_odds_are():
    """The odds are betabinom / binom of scipy; at the bounds they are 1 / alpha."""
    wins, samples, alpha = np.asarray([0, 3, 50, 990, 1000]), np.asarray([5, 9, 100, 1000, 1000]), 0.01
    low, high = binomial.between(wins, samples, alpha)
    for w, n, a, b in zip(wins, samples, low, high, strict=True):
        for p, edge in ((a, w == 0), (b, w == n)):
            if not edge:
                odds = stats.betabinom.logpmf(w, n, 0.5, 0.5) - stats.binom.logpmf(w, n, p)
                assert odds == pytest.approx(-np.log(alpha), rel=1e-6)
    assert low[0] == 0 and high[-1] == 1
    # Wider than a bound for one number of samples, by less than twice.
    once = binomial.lower(np.asarray([990]), 1000, alpha / 2)
    assert once > low[3] > 0.99 - 2 * (0.99 - once)
    assert binomial.between(0, 0, 0.01) == (0, 1)


def test_bounds_for_all_times_hold_at_the_worst_time():
    """Of 1,000 sequences at most a share alpha ever leaves them, whenever one looks; here at every sample."""
    alpha, p, rng = 0.1, 0.7, np.random.default_rng(0)
    wins = np.cumsum(rng.random((1000, 250)) < p, axis=1)
    low, high = binomial.between(wins, np.arange(1, 251)[None], alpha)
    wrong = ((low > p) | (high < p)).any(axis=1).mean()
    assert wrong <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 1000)
    # The bound for one number of samples does leave it, at some time, far more often.
    once = binomial.lower(wins, np.broadcast_to(np.arange(1, 251), wins.shape), alpha / 2)
    assert (once > p).any(axis=1).mean() > 1.5 * alpha


def test_an_image_stops_when_its_radius_is_known():
    sigma = 0.3
    count = votes(first_feature, noise.in_pixels(sigma, **ANYWHERE), classes=2, chunk_size=500)
    run = anytime.certify_within(count, sigma=sigma, gap=0.05, look_every=500, most=20_000)
    found = run(KEY, X)
    distance = np.abs(np.asarray(X)[:, 0])
    assert (found.certificate.radius <= distance).all()
    stopped = found.samples < 20_000
    assert stopped[1:3].all() and (distance - found.certificate.radius)[stopped].max() < 0.05
    assert (found.samples % 500 == 0).all()
    alone = run(jax.random.split(KEY, 5)[1:2], X[1:2])
    np.testing.assert_array_equal(alone.samples, run(jax.random.split(KEY, 5), X).samples[1:2])


def test_one_kind_of_noise_is_asked_for():
    count = votes(first_feature, noise.in_pixels(0.3, **ANYWHERE), classes=2)
    with pytest.raises(ValueError, match="neither is given"):
        certify(count)
    with pytest.raises(ValueError, match="both are given"):
        certify_up_to(count, sigma=0.3, radius=0.1, reach=radii.uniform(0.3))
    # The radius of other noise than that which is drawn would promise what does not hold.
    uniform = votes(first_feature, noise.uniform_in_pixels(0.3, **ANYWHERE), classes=2)
    for run in (
        lambda: certify(uniform, sigma=0.3),
        lambda: certify(count, reach=radii.uniform(0.3)),
        lambda: certify_up_to(uniform, sigma=0.3, radius=0.1),
        lambda: anytime.certify_within(uniform, sigma=0.3, gap=0.1),
    ):
        with pytest.raises(ValueError, match="the noise of the count certifies in"):
            run()
    with pytest.raises(ValueError, match="must be at most as many"):
        anytime.certify_within(count, sigma=0.3, gap=0.1, look_every=10, most=5)
    assert certificate(np.asarray([1]), np.asarray([10]), 10, alpha=0.01, reach=radii.uniform(1.0)).label == 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_the_time_of_a_noise_has_its_share_of_the_image(sigma):
    process = Process()
    t = time_of(process, sigma)
    assert float(process.kept(jnp.float32(t))) == pytest.approx(1 / (1 + 4 * sigma**2), rel=1e-4)
    assert time_of(Process(2.0, 2.0), 0.5) == pytest.approx(np.log(2) / 2)  # 2 t = log(1 + 4 / 4)
    with pytest.raises(ValueError, match="noise at the end"):
        time_of(process, 1e3)


def test_one_step_of_a_perfect_denoiser_gives_the_image_back():
    """The network that knows the image predicts (x_t - sqrt(a) x_0) / sqrt(1 - a), whatever noise was added."""
    sigma, image = 0.5, jnp.asarray([0.1, 0.9, 0.4], jnp.float32).reshape(1, 1, 3, 1)
    a, seen = 1 / (1 + 4 * sigma**2), []

    def predict(params, x, t):
        seen.append(t)
        return (x - jnp.sqrt(a) * (2 * params - 1)) / jnp.sqrt(1 - a)

    denoise = one_step(predict, image, sigma)
    noisy = image + sigma * jax.random.normal(KEY, (7, 1, 3, 1))
    np.testing.assert_allclose(denoise(noisy), jnp.broadcast_to(image, (7, 1, 3, 1)), atol=1e-5)
    np.testing.assert_allclose(seen[0], time_of(Process(), sigma), rtol=1e-6)
    count = votes(
        denoised(lambda x: first_feature(x[:, 0, :, 0]), denoise), noise.in_pixels(sigma), classes=2
    )
    np.testing.assert_array_equal(count(KEY, image, 50), [[50, 0]])


def test_a_linear_denoiser_of_gaussian_images_is_the_best_estimate():
    """Images N(1/2, s^2): the mean of the image given the noisy one is 1/2 + s^2 / (s^2 + sigma^2) (x - 1/2)."""
    sigma, s = 0.25, 0.1
    a, rng = 1 / (1 + 4 * sigma**2), np.random.default_rng(0)
    spread = a * 4 * s**2 + (1 - a)  # of x_t, in [-1, 1]

    def predict(params, x, t):  # E[noise | x_t]
        return jnp.sqrt(1 - a) / spread * x

    noisy = jnp.asarray(0.5 + rng.normal(size=(6, 2, 2, 1)) * 0.2, jnp.float32)
    want = 0.5 + s**2 / (s**2 + sigma**2) * (np.asarray(noisy) - 0.5)
    np.testing.assert_allclose(one_step(predict, None, sigma)(noisy), want, atol=1e-5)
