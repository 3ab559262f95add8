"""Attacks within a perceptual distance, on linear features, where the set is an ellipsoid and its best point known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks import Perceptual, as_attack, lpips, perceptual_pgd
from robustjax.attacks.starts import gaussian_start

RNG = np.random.default_rng(0)
B, SHAPE, D = 3, (2, 3, 1), 6
W = jnp.asarray(RNG.normal(size=(D, 2)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(B, *SHAPE)), jnp.float32)
Y = jnp.zeros(B, jnp.int32)
TURN = np.linalg.qr(RNG.normal(size=(D, D)))[0]
A = jnp.asarray(TURN @ np.diag([0.5, 1.0, 1.0, 2.0, 2.0, 4.0]) @ TURN.T, jnp.float32)


def net(x):
    return x.reshape(len(x), -1) @ W


def stretched(x):
    return x.reshape(len(x), -1) @ A.T


def searched(features, eps, **settings):
    threat = Perceptual(features, eps, -9.0, 9.0)
    attack = as_attack(perceptual_pgd(threat, **settings))
    return threat, jax.jit(lambda key, x: attack(key, net, x, Y))(jax.random.key(0), X)


def test_of_linear_features_it_finds_the_best_point_of_the_ellipsoid():
    """max w'd over |A d| <= eps is eps |A^-T w|: plain steps and a way back along the line would end at d ~ w."""
    w = np.asarray(W[:, 1] - W[:, 0], np.float64)
    best = 0.1 * np.linalg.norm(np.linalg.solve(np.asarray(A, np.float64).T, w))
    plain = 0.1 * w @ w / np.linalg.norm(np.asarray(A, np.float64) @ w)
    threat, found = searched(stretched, 0.1, steps=10)
    gain = np.asarray(found.value) - np.asarray(net(X) @ jnp.array([-1.0, 1.0]))
    assert plain < 0.9 * best
    np.testing.assert_allclose(gain, best, rtol=0.01)
    assert threat.contains(found.x, X).all()
    np.testing.assert_allclose(threat.distance(found.x, X), 0.1, rtol=1e-3)


def test_restarts_begin_elsewhere_and_a_radius_of_zero_moves_nothing():
    eps = jnp.array([0.0, 0.1, 0.2])
    threat, found = searched(stretched, eps, steps=6, start=gaussian_start(0.3))
    distance = np.asarray(threat.distance(found.x, X))
    assert distance[0] == 0 and (distance <= np.asarray(eps) * (1 + 1e-5)).all()
    assert (distance[1:] > 0.09).all()


def test_lpips_by_hand():
    """One pixel, activations (3, 4) and (0, 5): unit vectors (0.6, 0.8) and (0, 1), so 0.36 + 0.04 = 0.4.

    With weights 2 and 5 it is 0.72 + 0.2; a second layer of two pixels, of which one turns round, adds 4 / 2.
    """
    one = lambda *values: jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 2)
    layers = {0.0: [one(3, 4), one(1, 0, 0, 2)], 1.0: [one(0, 5), one(-1, 0, 0, 2)]}

    def activations(x):
        return [jnp.where(x.reshape(()) == 0.0, a, b) for a, b in zip(layers[0.0], layers[1.0], strict=True)]

    gap = lambda f: float(jnp.square(f(jnp.zeros((1, 1, 1, 1))) - f(jnp.ones((1, 1, 1, 1)))).sum())
    assert gap(lpips(lambda x: activations(x)[:1])) == pytest.approx(0.4)
    assert gap(lpips(lambda x: activations(x)[:1], weights=[jnp.array([2.0, 5.0])])) == pytest.approx(0.92)
    assert gap(lpips(activations)) == pytest.approx(2.4)


def test_where_nothing_answers_lpips_has_a_slope_and_the_search_stays_put():
    features = lpips(lambda x: [jax.nn.relu(x - 20.0)])
    slope = jax.grad(lambda x: features(x).sum())(X)
    np.testing.assert_array_equal(slope, 0.0)
    threat = Perceptual(features, 0.1)
    found = as_attack(perceptual_pgd(threat, steps=2))(jax.random.key(0), net, X, Y)
    assert threat.contains(found.x, X).all() and np.isfinite(found.x).all()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: perceptual_pgd(Perceptual(stretched, -1.0)), "eps"),
        (lambda: perceptual_pgd(Perceptual(stretched, 1.0), steps=0), "steps is 0"),
        (lambda: perceptual_pgd(Perceptual(stretched, 1.0), solves=0), "solves is 0"),
        (lambda: lpips(lambda x: [x], weights=[jnp.array([-1.0])]), "weights"),
        (lambda: lpips(lambda x: [x[..., 0]])(X), r"must be \(b, h, w, c\)"),
        (lambda: lpips(lambda x: [x], weights=[jnp.ones(1)] * 2)(X), "one for each of 2 weights"),
    ],
)
def test_what_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
