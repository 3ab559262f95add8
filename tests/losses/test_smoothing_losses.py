"""SmoothAdv, MACER, stability and the harder of two, against their formulas in numpy on a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.losses.consistency import consistency
from robustjax.losses.macer import gap, macer
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.noise_augmentation import noise_augmented
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.smoothmix import smoothmix
from robustjax.losses.stability import augmented, stability
from robustjax.numerics import keys_for
from robustjax.smoothing.noise import white
from robustjax.threats import Threat
from robustjax.types import Batch, Model

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(6, 2, 2, 1)), jnp.float32)
BATCH = Batch(X, jnp.asarray([0, 1, 2, 0, 1, 2]))
PARAMS = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)


def apply(params, state, x, *, train=False, key=None):
    return x.reshape(x.shape[0], -1) @ params, state


MODEL = Model(lambda key: (PARAMS, {}), apply, lambda *_: {})
Y = np.asarray(BATCH.label)


def log_p(x):
    return special.log_softmax(np.asarray(x, np.float64).reshape(len(x), -1) @ np.asarray(PARAMS), axis=1)


def test_samples_lie_next_to_one_another_and_depend_on_their_image_only():
    out = noise_augmented(KEY, X, sigma=0.1, samples=50)
    assert out.shape == (300, 2, 2, 1)
    spread = np.asarray(out).reshape(6, 50, 4) - np.asarray(X).reshape(6, 1, 4)
    assert abs(spread.std() - 0.1) < 0.01 and np.abs(spread.mean(axis=1)).max() < 0.07
    np.testing.assert_array_equal(
        noise_augmented(keys_for(KEY, 6)[2:4], X[2:4], sigma=0.1, samples=50), out[100:200]
    )


@pytest.mark.slow
def test_macer_is_its_formula():
    sigma, samples, weight, gamma, beta = 0.5, 4, 3.0, 2.0, 16.0
    loss = macer(MODEL, sigma=sigma, samples=samples, weight=weight, gamma=gamma)
    (value, (_, metrics)), slope = jax.value_and_grad(loss, has_aux=True)(PARAMS, {}, BATCH, KEY)
    seen = noise_augmented(jax.random.split(KEY)[0], X, sigma=sigma, samples=samples)
    z = np.asarray(seen, np.float64).reshape(24, 4) @ np.asarray(PARAMS)
    p = special.softmax(z, axis=1).reshape(6, samples, 3).mean(axis=1)
    soft = special.softmax(beta * z, axis=1).reshape(6, samples, 3).mean(axis=1)
    total = -np.log(p[np.arange(6), Y]).sum()
    for i in range(6):
        second, first = np.sort(soft[i])[-2:]
        xi = stats.norm.ppf(first) - stats.norm.ppf(second)
        if soft[i].argmax() == Y[i] and np.isfinite(xi) and xi <= gamma:
            total += weight * sigma / 2 * (gamma - xi)
    np.testing.assert_allclose(value, total / 6, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], (soft.argmax(axis=1) == Y).mean())
    assert metrics["radius"] > 0 and jnp.isfinite(slope).all()


@pytest.mark.slow
def test_gaps_that_are_infinite_do_no_harm():
    sure = jnp.asarray([[1.0, 0.0, 0.0], [0.6, 0.3, 0.1]])
    xi, known, right = gap(sure, jnp.asarray([0, 1]))
    assert known.tolist() == [False, True] and right.tolist() == [True, False]
    np.testing.assert_allclose(xi[1], stats.norm.ppf(0.6) - stats.norm.ppf(0.3), rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda p: gap(p, jnp.asarray([0, 1]))[0].sum())(sure)).all()


@pytest.mark.slow
def test_smoothadv_climbs_the_mean_probability_of_copies_that_stay():
    eps, sigma, samples = 0.2, 0.3, 3
    ascent = pgd(Threat("l2", eps), steps=10, step_size=0.05, start=at_origin)
    loss = smoothadv(MODEL, ascent, sigma=sigma, samples=samples)
    attacked = jax.jit(lambda k: loss.attack(PARAMS, {}, BATCH, k))(KEY)
    noise = np.asarray(
        noise_augmented(jax.random.split(KEY)[1], jnp.zeros_like(X), sigma=sigma, samples=samples)
    )
    moved = (np.asarray(attacked) - noise).reshape(6, samples, 4)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-6)
    assert (np.linalg.norm(moved[:, 0] - np.asarray(X).reshape(6, 4), axis=1) <= eps + 1e-5).all()

    def miss(x):
        copied = np.repeat(x.reshape(6, 4), samples, axis=0) + noise.reshape(-1, 4)
        return -np.log(
            np.exp(log_p(copied)[np.arange(18), Y.repeat(samples)]).reshape(6, samples).mean(axis=1)
        )

    found = miss(moved[:, 0])
    # No point of the ball's surface among many beats it by more than the search's precision.
    rays = RNG.normal(size=(300, 6, 4))
    rays *= eps / np.linalg.norm(rays, axis=2, keepdims=True)
    others = np.stack([miss(np.clip(np.asarray(X).reshape(6, 4) + ray, 0, 1)) for ray in rays])
    assert (found >= others.max(axis=0) - 1e-3).all()
    value, (_, metrics) = loss(PARAMS, {}, BATCH, jax.random.key(1))
    assert jnp.isfinite(value) and 0 <= metrics["robust_accuracy"] <= 1


def test_stability_and_augmentation_are_their_formulas():
    perturb = white(0.2)
    draw = jax.random.split(KEY)[0]
    clean, moved = log_p(X), log_p(perturb(draw, X))
    risk = -clean[np.arange(6), Y].mean()
    drift = (np.exp(clean) * (clean - moved)).sum(axis=1).mean()
    value, (_, metrics) = stability(MODEL, perturb, weight=2.0)(PARAMS, {}, BATCH, KEY)
    np.testing.assert_allclose(value, risk + 2 * drift, rtol=1e-5)
    np.testing.assert_allclose(metrics["drift"], drift, rtol=1e-4)
    value, _ = augmented(MODEL, perturb)(PARAMS, {}, BATCH, KEY)
    np.testing.assert_allclose(value, -moved[np.arange(6), Y].mean(), rtol=1e-5)


def test_the_harder_of_two_counts_per_image():
    attack = compose.against(pgd(Threat("linf", 0.1), steps=0, step_size=0.0), objectives.cross_entropy)
    loss = max_clean_adversarial(MODEL, attack)
    attacked = loss.attack(PARAMS, {}, BATCH, jax.random.split(KEY)[0])
    losses = [-log_p(x)[np.arange(6), Y] for x in (X, attacked)]
    assert (losses[0] > losses[1]).any() and (losses[0] < losses[1]).any()
    value, (_, metrics) = loss(PARAMS, {}, BATCH, KEY)
    np.testing.assert_allclose(value, np.maximum(*losses).mean(), rtol=1e-5)
    assert set(metrics) == {"risk", "accuracy", "robust_accuracy"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: macer(MODEL, sigma=1.0, samples=0), "samples is 0"),
        (
            lambda: smoothadv(MODEL, pgd(Threat("l2", 1.0), steps=1, step_size=1.0), sigma=1.0, samples=0),
            "samples is 0",
        ),
        (lambda: stability(MODEL, white(1.0), weight=-1.0), "weight is -1.0"),
    ],
)
def test_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("compat", [None, "official"])
def test_consistency_is_its_formula(compat):
    loss = consistency(MODEL, sigma=0.5, samples=3, weight=4.0, entropy_weight=0.7, compat=compat)
    (value, (_, metrics)), slope = jax.value_and_grad(loss, has_aux=True)(PARAMS, {}, BATCH, KEY)
    seen = noise_augmented(jax.random.split(KEY)[0], X, sigma=0.5, samples=3)
    each = log_p(seen).reshape(6, 3, 3)
    risk = -each[np.arange(6), :, Y].mean()
    mean = np.exp(each).mean(axis=1)
    divergence = (mean[:, None] * (np.log(mean)[:, None] - each)).sum(axis=2).mean()
    entropy = stats.entropy(special.softmax(mean, axis=1) if compat else mean, axis=1).mean()
    np.testing.assert_allclose(value, risk + 4 * divergence + (4 if compat else 0.7) * entropy, rtol=1e-5)
    np.testing.assert_allclose([metrics["risk"], metrics["divergence"]], [risk, divergence], rtol=1e-4)
    assert jnp.isfinite(slope).all()


def test_smoothmix_is_its_formula():
    """The search is one of normalised steps on the smoothed risk; the rest of it is written out."""
    sigma, samples, steps, length = 0.3, 2, 3, 0.2
    loss = smoothmix(MODEL, sigma=sigma, samples=samples, steps=steps, step_size=length, weight=0.5)
    value, (_, metrics) = loss(PARAMS, {}, BATCH, KEY)
    inner, outer = jax.random.split(KEY)
    noise = np.asarray(
        noise_augmented(jax.random.split(inner)[1], jnp.zeros_like(X), sigma=sigma, samples=samples),
        np.float64,
    ).reshape(6, samples, 4)
    w, far = np.asarray(PARAMS, np.float64), np.asarray(X, np.float64).reshape(6, 4)
    for _ in range(steps):
        p = special.softmax((far[:, None] + noise) @ w, axis=2)
        own = p[np.arange(6), :, Y]
        one_hot = np.eye(3)[Y][:, None]
        # The slope of -log mean_j p_y: copies weigh by their share of p_y.
        slope = ((own / own.sum(axis=1, keepdims=True))[:, :, None] * ((p - one_hot) @ w.T)).sum(axis=1)
        far = np.clip(far + length * slope / np.linalg.norm(slope, axis=1, keepdims=True), 0, 1)
    x = np.asarray(X, np.float64).reshape(6, 4)
    share = np.asarray(jax.random.uniform(jax.random.split(outer, 3)[0], (6,), maxval=0.5), np.float64)[
        :, None
    ]
    each = special.log_softmax((x[:, None] + noise) @ w, axis=2)
    risk, mean = -each[np.arange(6), :, Y].mean(), np.exp(each).mean(axis=1)
    between = (1 - share) * x + share * far
    mixed = special.log_softmax((between[:, None] + noise) @ w, axis=2)
    target = (1 - share) * mean + share / 3
    divergence = (target[:, None] * (np.log(target)[:, None] - mixed)).sum(axis=2)
    right = mean.argmax(axis=1) == Y
    assert 0 < right.sum() < 6
    mixture_risk = (right[:, None] * divergence).mean()
    np.testing.assert_allclose([metrics["risk"], metrics["mixture_risk"]], [risk, mixture_risk], rtol=1e-3)
    np.testing.assert_allclose(value, risk + 0.5 * mixture_risk, rtol=1e-3)
