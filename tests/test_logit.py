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


INF = np.inf
MASKED = {
    "wrong class": [1.0, 2.0, -INF, 0.5, -1.0],
    "right class": [1.0, -INF, 3.0, 0.5, -1.0],
    "all but two": [1.0, 2.0, -INF, -INF, -INF],
    "all but one": [-INF, 2.0, -INF, -INF, -INF],
    "everywhere": [-INF] * 5,
    "inf in the wrong class": [INF, 1.0, 0.0, 2.0, 0.0],
    "inf in the right class": [1.0, INF, 0.0, 2.0, 0.0],
    "inf twice": [INF, INF, 0.0, 1.0, 2.0],
}


def limits(row):
    """Probabilities of infinite logits, as limits of finite ones; log 0 = -inf."""
    top = [value == max(row) for value in row]
    p = np.array(top) / sum(top) if np.isinf(max(row)) else scipy.special.softmax(row)
    with np.errstate(divide="ignore"):
        return p, np.log(p)


def gap(a, b):
    return 0.0 if a == b else a - b


@pytest.mark.parametrize("row", MASKED)
def test_infinite_logits_are_limits(row):
    """Label 1, target 2, against p = Z[0]; 0 log 0 = 0, and what DLR divides by leaves masked classes out."""
    z, other = MASKED[row], scipy.special.softmax(Z[0])
    p, log_p = limits(z)
    wrong = max(v for i, v in enumerate(z) if i != 1)
    lead, aimed, top = gap(wrong, z[1]), gap(z[2], z[1]), sorted(z)[::-1]
    ratio = np.isfinite([lead, top[0], top[2]]).all()
    ratio_t = np.isfinite([aimed, top[0], top[2], top[3]]).all()
    expected = {
        "cross_entropy": -log_p[1],
        "smoothed": -0.9 * log_p[1] - 0.1 * log_p.mean(),
        "margin": lead,
        "targeted_margin": aimed,
        "dlr": lead / (top[0] - top[2]) if ratio else lead,
        "targeted_dlr": aimed / (top[0] - (top[2] + top[3]) / 2) if ratio_t else aimed,
        "kl": scipy.stats.entropy(p, other),
        "kl backwards": scipy.stats.entropy(other, p),
        "kl to itself": 0.0,
        "ce_to_uniform": -log_p.mean(),
        "log_confidence": log_p.max(),
        "entropy": scipy.stats.entropy(p),
        "energy": scipy.special.logsumexp(z),
    }
    q, y, t = jnp.asarray(Z[:1], jnp.float32), jnp.array([1]), jnp.array([2])
    functions = {
        "cross_entropy": lambda z: logit.cross_entropy(z, y),
        "smoothed": lambda z: logit.cross_entropy(z, y, smoothing=0.1),
        "margin": lambda z: logit.margin(z, y),
        "targeted_margin": lambda z: logit.targeted_margin(z, y, t),
        "dlr": lambda z: logit.dlr(z, y),
        "targeted_dlr": lambda z: logit.targeted_dlr(z, y, t),
        "kl": lambda z: logit.kl(z, q),
        "kl backwards": lambda z: logit.kl(q, z),
        "kl to itself": lambda z: logit.kl(z, z),
        "ce_to_uniform": logit.ce_to_uniform,
        "log_confidence": logit.log_confidence,
        "entropy": logit.entropy,
        "energy": logit.energy,
    }

    @jax.jit
    def run(z):
        return {name: jax.value_and_grad(lambda z, f=f: f(z)[0])(z) for name, f in functions.items()}

    for name, (value, grad) in run(jnp.asarray([z], jnp.float32)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.isfinite(grad).all(), name


def test_nan_logits_stay_nan():
    z, y = jnp.array([[jnp.nan, 1.0, 2.0, 3.0]]), jnp.array([1])
    for fn in (logit.cross_entropy, logit.margin, logit.dlr):
        assert np.isnan(fn(z, y)).all()
    for fn in (logit.ce_to_uniform, logit.log_confidence, logit.entropy, logit.energy):
        assert np.isnan(fn(z)).all()
    assert np.isnan(logit.kl(z, z)).all() and np.isnan(logit.kl(jnp.zeros((1, 4)), z)).all()


def test_no_smoothing_is_none_also_when_traced():
    """log(1 + e) for logits 1 and 2 with label 1, 0.31326; the masked class has no part in it."""
    z, y = jnp.array([[1.0, 2.0, -jnp.inf]]), jnp.array([1])
    for smoothing in (0.0, jnp.float32(0.0)):
        found = jax.jit(lambda s: logit.cross_entropy(z, y, smoothing=s))(smoothing)
        np.testing.assert_allclose(found, np.log1p(np.exp(-1.0)), rtol=1e-5)


def test_too_few_classes_are_refused_by_name():
    with pytest.raises(ValueError, match="dlr: 2 classes"):
        logit.dlr(jnp.ones((1, 2)), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match="targeted_dlr: 3 classes"):
        logit.targeted_dlr(jnp.ones((1, 3)), jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32))
