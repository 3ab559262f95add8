"""Means over randomness that are functions all the same, and slopes where a defence has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks.adaptive import averaged, fingerprint, substituted
from robustjax.attacks.apgd import apgd
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.starts import at_origin
from robustjax.threats import Threat

N, D, K = 6, 20, 4
RNG = np.random.default_rng(0)
WEIGHT = jnp.asarray(RNG.normal(size=(D, K)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.2, 0.8, size=(N, D)), jnp.float32)
Y = (X @ WEIGHT).argmax(axis=1)
KEY = jax.random.key(0)


def net(x):
    return x.reshape(x.shape[0], -1) @ WEIGHT


def noisy(keys, x):
    """Logits plus normal noise, of standard deviation 1."""
    return net(x) + jax.vmap(lambda key: jax.random.normal(key, (K,)))(keys)


def jittered(keys, x):
    """A network behind noise on its input."""
    return net(x + 0.1 * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys))


@pytest.mark.slow
def test_the_mean_converges_like_one_over_the_root_of_the_passes():
    x = jnp.asarray(RNG.uniform(size=(200, D)), jnp.float32)
    for passes in (1, 16, 256):
        error = averaged(noisy, KEY, samples=passes, chunk_size=16)(x) - net(x)
        assert 0.9 < np.sqrt(passes) * np.std(error) < 1.1
        assert np.abs(np.mean(error)) * np.sqrt(passes) < 4 / np.sqrt(200 * K)


@pytest.mark.slow
def test_the_same_image_gets_the_same_noise_and_any_other_image_another():
    logits_fn = jax.jit(averaged(noisy, KEY, samples=2))
    noise = lambda x: np.asarray(logits_fn(x) - net(x))
    order = jnp.array([4, 2, 0, 0, 5])
    np.testing.assert_allclose(noise(X[order]), noise(X)[order], atol=1e-5)  # any place, any batch
    next_float = jnp.asarray(np.nextafter(np.asarray(X), np.float32(2)))
    one_bit = X.at[:, 7].set(next_float[:, 7])
    assert (np.abs(noise(one_bit) - noise(X)) > 1e-3).any(axis=1).all()
    other = averaged(noisy, jax.random.key(1), samples=2)(X) - net(X)
    assert (np.abs(other - noise(X)) > 1e-3).any(axis=1).all()


@pytest.mark.slow
def test_fingerprints_differ_where_images_differ():
    """A thousand black and white images, single pixels, permuted pixels: no collision, and every bit is used."""
    rng = np.random.default_rng(1)
    binary = rng.integers(0, 2, size=(1000, 64)).astype(np.float32)
    single = np.eye(64, dtype=np.float32)
    swapped = np.tile(rng.uniform(size=64).astype(np.float32), (63, 1))
    for i in range(63):
        swapped[i, [i, i + 1]] = swapped[i, [i + 1, i]]
    marks = np.asarray(fingerprint(jnp.asarray(np.concatenate([binary, single, swapped]))))
    assert len(np.unique(marks)) == len(marks)
    share = ((marks[:, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(axis=0)
    assert np.abs(share - 0.5).max() < 0.07
    zeros = jnp.stack([jnp.zeros(5), -jnp.zeros(5)])
    assert len(np.unique(fingerprint(zeros))) == 1
    image = jnp.asarray(rng.uniform(size=(2, 4, 4, 1)), jnp.float32)
    np.testing.assert_array_equal(fingerprint(image), fingerprint(image.reshape(2, 16)))
    np.testing.assert_array_equal(fingerprint(jnp.ones((2, 3), jnp.bfloat16)), fingerprint(jnp.ones((2, 3))))


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_gradients_are_those_of_the_mean_however_the_passes_are_grouped(chunk_size):
    cubic = lambda keys, x: jittered(keys, x) ** 3
    logits_fn = averaged(cubic, KEY, samples=5, chunk_size=chunk_size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, fingerprint(X))

    def by_hand(x):
        draws = [jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(5)]
        return sum(cubic(draw, x) for draw in draws) / 5

    total = lambda f: jax.jit(jax.value_and_grad(lambda x: f(x)[:, 0].sum()))(X)
    for ours, expected in zip(total(logits_fn), total(by_hand)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_other_means_than_that_of_the_logits():
    logits_fn = averaged(noisy, KEY, samples=50, of=jax.nn.log_softmax)
    assert (jax.nn.logsumexp(logits_fn(X), axis=1) < 0).all()  # a mean of log-probabilities has a smaller sum
    single = averaged(noisy, KEY, samples=1)
    np.testing.assert_allclose(
        averaged(noisy, KEY, samples=1, of=jax.nn.log_softmax)(X), jax.nn.log_softmax(single(X)), atol=1e-5
    )


@pytest.mark.slow
def test_what_an_attack_reports_is_what_the_mean_says_of_its_point():
    """Points are hashed to the last bit, so a rounding between search and verdict would show."""
    logits_fn, threat = averaged(noisy, KEY, samples=3), Threat("linf", 0.1)
    found = jax.jit(lambda key: as_attack(apgd(threat, steps=20))(key, logits_fn, X, Y))(KEY)
    np.testing.assert_allclose(found.value, logit.margin(logits_fn(found.x), Y), atol=1e-4)


@pytest.mark.slow
def test_the_mean_leads_where_one_draw_misleads():
    """A random one of two directions matters at each query; a single fixed draw knows only one of them.

    Class 1 wins where <a, d> + <b, d> is large, but the network shows only 2 <a, d> or 2 <b, d>, chosen by coin.
    """
    half = jnp.arange(D) < D // 2

    def random_half(keys, x):
        coin = jax.vmap(lambda key: jax.random.bernoulli(key))(keys)
        seen = jnp.where(coin[:, None], half, ~half)
        score = 2.0 * jnp.where(seen, x - X, 0.0).sum(axis=1) - 1.5
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    threat, y = Threat("linf", 0.1, -9.0, 9.0), jnp.zeros(N, jnp.int32)
    attack = against(pgd(threat, steps=20, step_size=0.02, start=at_origin))
    keys = jax.random.split(jax.random.key(7), N)
    one_draw = jax.jit(lambda key: attack(key, lambda x: random_half(keys, x), X, y).x)(KEY)
    mean = jax.jit(lambda key: attack(key, averaged(random_half, KEY, samples=20), X, y).x)(KEY)
    reference = averaged(random_half, jax.random.key(99), samples=400, chunk_size=100)
    fooled = [np.asarray(reference(x)[:, 1] > 0) for x in (one_draw, mean)]
    assert not fooled[0].any() and fooled[1].all()


def test_the_mean_is_the_same_under_every_transformation(variant):
    logits_fn = averaged(jittered, KEY, samples=3, chunk_size=2)
    slope = lambda x, y: jax.grad(lambda x: logit.cross_entropy(logits_fn(x), y).sum())(x)
    both = lambda x, y: (logits_fn(x), slope(x, y))
    for ours, expected in zip(variant(both)(X, Y), jax.jit(both)(X, Y)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_quantiser_falls_once_its_slope_is_replaced():
    levels = 8
    quantised = lambda x: jnp.round(x * levels) / levels
    threat = Threat("linf", 0.15)
    attack = against(pgd(threat, steps=10, step_size=0.04, start=at_origin))
    clean = logit.margin(net(quantised(X)), Y)

    plain = attack(KEY, lambda x: net(quantised(x)), X, Y)
    np.testing.assert_array_equal(plain.x, X)  # no gradient, no step
    through = jax.jit(lambda: attack(KEY, lambda x: net(substituted(quantised)(x)), X, Y))()
    np.testing.assert_allclose(through.value, logit.margin(net(quantised(through.x)), Y), atol=1e-5)
    assert (clean < 0).any() and (through.value > 0).all() and threat.contains(through.x, X).all()


def test_values_are_those_of_the_forward_function_to_the_bit_and_slopes_those_of_the_other():
    forward, backward = (lambda x: jnp.round(7.0 * x) / 7.0), (lambda x: 1e3 * jnp.sin(x))
    both = substituted(forward, backward)
    np.testing.assert_array_equal(jax.jit(both)(X), jax.jit(forward)(X))
    value, pull = jax.vjp(both, X)
    np.testing.assert_array_equal(value, forward(X))
    np.testing.assert_allclose(pull(2.0 * X)[0], 2e3 * X * jnp.cos(X), rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(both, (X,), (X,))[1], 1e3 * X * jnp.cos(X), rtol=1e-5)


def test_forward_functions_may_leave_jax_and_close_over_traced_values():
    def outside(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda x: np.sort(x, axis=-1), shape, x, vmap_method="expand_dims")

    @jax.jit
    def slope(x, level):
        return jax.grad(lambda x: (net(substituted(lambda x: jnp.round(x / level) * level)(x))).sum())(x)

    expected = np.broadcast_to(np.asarray(WEIGHT).sum(axis=1), X.shape)
    np.testing.assert_allclose(slope(X, jnp.float32(0.1)), expected, rtol=1e-5)
    each = jax.vmap(lambda x, level: slope(x[None], level)[0])(X, jnp.linspace(0.1, 0.2, N))
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    value, grad = jax.jit(jax.value_and_grad(lambda x: net(substituted(outside)(x)).sum()))(X)
    np.testing.assert_allclose(value, net(jnp.sort(X, axis=1)).sum(), rtol=1e-4)
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": 1, "chunk_size": 0}, "chunk_size is 0"),
        ({"samples": 1, "key": jax.random.split(KEY, 3)}, "key is of key<fry> and shape"),
        ({"samples": 1, "key": jax.random.PRNGKey(0)}, "key is of uint32"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=f"averaged: {message}"):
        averaged(noisy, **{"key": KEY, **settings})
