"""Robustness curves on a linear classifier, where the robust accuracy is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.analysis import curves
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch

SHAPE, N = (3, 3, 1), 40
RNG = np.random.default_rng(0)
X = RNG.uniform(0.3, 0.7, size=(N, *SHAPE)).astype(np.float32)
MODEL = small.linear(classes=2, shape=SHAPE)
PARAMS, STATE = MODEL.init(jax.random.key(0))
Y = np.array(MODEL.apply(PARAMS, STATE, jnp.asarray(X))[0].argmax(axis=1), np.int32)
Y[::7] = 1 - Y[::7]  # some are wrong from the start
RADII = [0.2, 0.0, 0.05, 0.1]


def batches(size=16):
    for first in range(0, N, size):
        rows = np.minimum(np.arange(first, first + size), N - 1)
        yield (
            Batch(jnp.asarray(X[rows]), jnp.asarray(Y[rows])),
            jnp.asarray(np.arange(first, first + size) < N),
        )


def attack_at(eps):
    return compose.against(pgd(Threat("linf", eps), steps=10, step_size=eps / 2), objectives.margin)


def test_curve_is_the_closed_form_of_a_linear_classifier():
    """Two classes: broken exactly where eps |w_0 - w_1|_1 exceeds the clean margin."""
    kernel = np.asarray(PARAMS["head"]["kernel"])
    slope = np.abs(kernel[:, 0] - kernel[:, 1]).sum()
    z = np.asarray(MODEL.apply(PARAMS, STATE, jnp.asarray(X))[0])
    margin = z[np.arange(N), Y] - z[np.arange(N), 1 - Y]
    found = curves.over_radii(MODEL, attack_at)(jax.random.key(0), PARAMS, STATE, batches(), RADII)
    np.testing.assert_allclose(found.eps, sorted(RADII), rtol=1e-6)
    for eps, robust, worst in zip(found.eps, found.robust, found.margin, strict=True):
        np.testing.assert_array_equal(robust, margin - eps * slope > 0)
        np.testing.assert_allclose(worst, eps * slope - margin, atol=1e-4)


def test_curve_never_rises_and_points_are_feasible():
    weak = lambda eps: compose.against(
        pgd(Threat("linf", eps), steps=1, step_size=eps), objectives.cross_entropy
    )
    found = curves.over_radii(MODEL, weak)(jax.random.key(0), PARAMS, STATE, batches(), RADII)
    assert (np.diff(found.robust.astype(int), axis=0) <= 0).all()
    assert (np.diff(found.margin, axis=0) >= 0).all()
    for eps, x in zip(found.eps, found.x, strict=True):
        assert Threat("linf", float(eps)).contains(jnp.asarray(x), jnp.asarray(X)).all()
    np.testing.assert_array_equal(found.x[0], X)
    estimates = found.accuracy()
    assert [e.value for e in estimates] == [r.mean() for r in found.robust]
    assert all(e.low <= e.value <= e.high for e in estimates)


def test_curve_compiles_once_for_all_radii_and_batches():
    traces = []

    def counted(eps):
        traces.append(1)
        return attack_at(eps)

    run = curves.over_radii(MODEL, counted)
    run(jax.random.key(0), PARAMS, STATE, batches(), np.linspace(0, 0.3, 10))
    run(jax.random.key(1), PARAMS, STATE, batches(), np.linspace(0, 0.1, 10))
    assert len(traces) == 1


def test_bad_radii_are_refused():
    run = curves.over_radii(MODEL, attack_at)
    for radii in ([], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="over_radii: eps is"):
            run(jax.random.key(0), PARAMS, STATE, batches(), radii)
