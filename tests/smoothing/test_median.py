"""Median smoothing: closed forms for scores of one direction, order statistics by enumeration, coverage."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import binomial
from robustjax.smoothing.median import certified, median, noisy_scores
from robustjax.smoothing.noise import in_pixels

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(2, 3, 1)), jnp.float32)
LENGTH = float(jnp.linalg.norm(W))


def linear(x):
    """Score by w.x: the median over Gaussian noise is w.x itself."""
    return jnp.tensordot(x, W, 3)


def bent(x):
    """Score by a monotone function of w.x, which commutes with quantiles."""
    return jnp.exp(linear(x))


@pytest.mark.parametrize("score, bend", [(linear, lambda v: v), (bent, np.exp)])
def test_a_score_of_one_direction_has_a_closed_form(score, bend):
    """The smoothed score is g(w.x), and within the radius it runs over g(w.x +- radius |w|)."""
    x = jnp.asarray(RNG.uniform(size=(4, 2, 3, 1)), jnp.float32)
    sigma, radius = 0.3, 0.2
    run = median(score, in_pixels(sigma), radius=radius, samples=20_000, alpha=0.01)
    found = run(jax.random.key(0), x)
    at = np.asarray(linear(x), np.float64)
    low, high = bend(at - radius * LENGTH), bend(at + radius * LENGTH)
    assert (found.lower <= low).all() and (found.upper >= high).all()
    slack = 0.05 * sigma * LENGTH  # of 20,000 samples
    np.testing.assert_allclose(found.value, bend(at), atol=slack * bend(at.max() + 1))
    np.testing.assert_allclose(found.lower, low, atol=slack * bend(at.max() + 1))
    np.testing.assert_allclose(found.upper, high, atol=slack * bend(at.max() + 1))


def enumerated(n, chance, most):
    """Sum the probabilities of a binomial number up to `most`, from the definition."""
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(most + 1))


@pytest.mark.parametrize(
    "n, shift, alpha", itertools.product([1, 8, 9, 40], [0.0, 0.5, 2.0], [0.001, 0.1, 0.5])
)
def test_order_statistics_are_the_tightest_that_are_allowed(n, shift, alpha):
    first, last = binomial.order_statistics(n, alpha, quantile=0.5, shift=shift)
    below = 0.5 * math.erfc(shift / math.sqrt(2))
    fails = lambda k: enumerated(n, below, k - 1)  # the k-th smallest exceeds the lower quantile
    assert 0 <= first <= n
    assert first == 0 or fails(first) <= alpha / 2
    assert first == n or fails(first + 1) > alpha / 2
    assert last == n + 1 - first  # by symmetry


def test_coverage_is_what_is_promised_and_no_more_than_needed():
    """Each bound fails in at most alpha / 2 of many experiments, and not much less: the binomial is discrete."""
    n, alpha, radius, sigma = 100, 0.2, 0.5, 1.0
    scores = RNG.normal(size=(20_000, n))  # of s(x) = x at x = 0: within the radius s runs over +-0.5
    found = certified(scores, radius=radius, sigma=sigma, alpha=alpha)
    for wrong in ((found.lower > -radius).mean(), (found.upper < radius).mean()):
        assert 0.04 < wrong < alpha / 2 + 0.01


def test_few_samples_say_nothing_and_nan_says_the_worst():
    found = certified(RNG.normal(size=(3, 5)), radius=0.0, sigma=1.0, alpha=0.001)
    assert (found.lower == -np.inf).all() and (found.upper == np.inf).all()
    scores = RNG.normal(size=(1, 200))
    dirty = np.where(np.arange(200) < 20, np.nan, scores)
    sound = certified(scores, radius=0.1, sigma=1.0)
    worse = certified(dirty, radius=0.1, sigma=1.0)
    assert worse.lower < sound.lower and worse.upper > sound.upper


def test_other_quantiles_move_alike():
    scores = RNG.normal(size=(1, 50_000))
    found = certified(scores, radius=0.3, sigma=1.0, quantile=0.9, alpha=0.01)
    expected = 1.2815515655446004  # of the normal distribution at 0.9
    for have, want in zip(found, (expected, expected - 0.3, expected + 0.3), strict=True):
        assert have[0] == pytest.approx(want, abs=0.05)


def test_samples_do_not_depend_on_the_batch():
    x = jnp.asarray(RNG.uniform(size=(3, 2, 3, 1)), jnp.float32)
    scores = noisy_scores(linear, in_pixels(0.5), samples=25, chunk_size=10)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(3))
    together = scores(jax.random.key(3), x)
    assert together.shape == (3, 25)
    assert len(np.unique(together[0])) == 25
    np.testing.assert_allclose(scores(keys[1:2], x[1:2])[0], together[1], rtol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"radius": -1.0}, "radius is -1"),
        ({"radius": 1.0, "alpha": 0.0}, "alpha is 0"),
        ({"radius": 1.0, "samples": 0}, "samples is 0"),
        ({"radius": 1.0, "chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        median(linear, in_pixels(0.3), **settings)
