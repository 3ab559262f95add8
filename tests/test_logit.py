"""Functions of logits against plain numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from robustjax import logit

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 5)) * 3
Q = RNG.normal(size=(6, 5)) * 3
Y = np.array([0, 1, 2, 3, 4, 0], np.int32)
T = np.array([1, 2, 3, 4, 0, 3], np.int32)
P = scipy.special.softmax(Z, axis=1)
OTHERS = np.where(np.eye(5, dtype=bool)[Y], -np.inf, Z)
SORTED = -np.sort(-Z, axis=1)
ROWS = np.arange(6)

EXPECTED = {
    "cross_entropy": (logit.cross_entropy, (Z, Y), -np.log(P[ROWS, Y])),
    "smoothed": (
        lambda z, y: logit.cross_entropy(z, y, smoothing=0.1),
        (Z, Y),
        -0.9 * np.log(P[ROWS, Y]) - 0.1 * np.log(P).mean(axis=1),
    ),
    "margin": (logit.margin, (Z, Y), OTHERS.max(axis=1) - Z[ROWS, Y]),
    "targeted_margin": (logit.targeted_margin, (Z, Y, T), Z[ROWS, T] - Z[ROWS, Y]),
    "dlr": (logit.dlr, (Z, Y), (OTHERS.max(axis=1) - Z[ROWS, Y]) / (SORTED[:, 0] - SORTED[:, 2])),
    "targeted_dlr": (
        logit.targeted_dlr,
        (Z, Y, T),
        (Z[ROWS, T] - Z[ROWS, Y]) / (SORTED[:, 0] - (SORTED[:, 2] + SORTED[:, 3]) / 2),
    ),
    "kl": (
        logit.kl,
        (Z, Q),
        np.array([scipy.stats.entropy(p, q) for p, q in zip(P, scipy.special.softmax(Q, 1))]),
    ),
    "ce_to_uniform": (logit.ce_to_uniform, (Z,), -np.log(P).mean(axis=1)),
    "log_confidence": (logit.log_confidence, (Z,), np.log(P.max(axis=1))),
    "entropy": (logit.entropy, (Z,), scipy.stats.entropy(P, axis=1)),
    "energy": (lambda z: logit.energy(z, temperature=2.0), (Z,), 2 * scipy.special.logsumexp(Z / 2, axis=1)),
    "correct": (logit.correct, (Z, Y), (Z.argmax(axis=1) == Y).astype(float)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_equals_numpy(variant, name):
    fn, arrays, expected = EXPECTED[name]
    arrays = [jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else jnp.int32) for a in arrays]
    np.testing.assert_allclose(variant(fn)(*arrays), expected, rtol=2e-5, atol=2e-6)


def test_dlr_ignores_shift_and_scale():
    z, y = jnp.asarray(Z, jnp.float32), jnp.asarray(Y)
    np.testing.assert_allclose(logit.dlr(7.0 * z + 3.0, y), logit.dlr(z, y), rtol=1e-4)


def test_nan_logits_are_never_correct():
    z = jnp.array([[jnp.nan, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(logit.correct(z, jnp.array([0, 0])), [0.0, 1.0])


def test_everything_is_finite_at_extreme_logits():
    z = jnp.array([[1e4, -1e4, 0.0, 5.0]])
    y = jnp.array([1])
    for fn in (logit.cross_entropy, logit.margin, logit.dlr):
        value, grad = jax.value_and_grad(lambda a, fn=fn: fn(a, y).sum())(z)
        assert np.isfinite(value) and np.isfinite(grad).all()


def test_too_few_classes_are_refused_by_name():
    with pytest.raises(ValueError, match="dlr: 2 classes"):
        logit.dlr(jnp.ones((1, 2)), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match="targeted_dlr: 3 classes"):
        logit.targeted_dlr(jnp.ones((1, 3)), jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32))
