"""Worst-case confidence: the closed form, competition with the image, and rising radii."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.losses import confidences
from robustjax.models import small
from robustjax.numerics import fold, keys_for
from robustjax.ood.score_attacks import raised
from robustjax.ood.worst_confidence import (
    confidence_over_radii,
    confidence_score,
    probability,
    toward_grey,
    worst_confidence,
)
from robustjax.threats import Threat
from robustjax.types import frozen

KEY = jax.random.key(0)
MODEL = small.mlp(classes=4, shape=(4, 4, 1), widths=(16,))
PARAMS, STATE = jax.tree.map(lambda a: 4.0 * a, MODEL.init(KEY))
NET = frozen(MODEL, PARAMS, STATE)
X = jax.random.uniform(jax.random.key(1), (12, 4, 4, 1))


def two_classes(margin):
    """Logits m and 0 with |gradient of m|_2 = 2 and m(x) = margin at mid-grey."""
    return lambda x: jnp.stack([(x - 0.5).reshape(len(x), -1).sum(1) + margin, jnp.zeros(len(x))], axis=1)


GREY = jnp.full((2, 2, 2, 1), 0.5)


@pytest.mark.slow
def test_two_linear_classes_have_the_published_closed_form():
    """Margin .7, radius 1, gradient 2; a wide box stays out of reach."""
    threat = Threat("l2", 1.0, lower=-9.0, upper=9.0)
    found = jax.jit(lambda: worst_confidence(threat, two_classes(0.7), steps=12, restarts=2)(KEY, GREY))()
    np.testing.assert_allclose(probability(found.value), 0.937027, rtol=1e-4)
    climb = confidences.over(confidences.kl_from_uniform, two_classes(0.7))
    ascent = pgd(threat, steps=12, step_size=0.1, momentum=0.9, start=at_origin)
    np.testing.assert_allclose(jax.jit(lambda: ascent(KEY, climb, GREY).value)(), 0.721896, rtol=1e-4)


@pytest.mark.slow
def test_where_all_classes_are_equal_only_a_random_start_moves():
    threat = Threat("l2", 0.4)
    climb = confidences.over(confidences.kl_from_uniform, two_classes(0.0))
    stuck = pgd(threat, steps=5, step_size=0.1, momentum=0.9, start=at_origin)(KEY, climb, GREY)
    np.testing.assert_array_equal(stuck.x, GREY)
    moved = jax.jit(lambda: pgd(threat, steps=60, step_size=0.05)(KEY, climb, GREY))()
    np.testing.assert_allclose(moved.value, np.log(np.cosh(0.4)), rtol=1e-3)  # |m| + 2 eps = .8, halved


@pytest.mark.slow
def test_the_image_competes_and_every_search_adds():
    threat = Threat("l2", 0.5)
    alone = jax.jit(lambda: worst_confidence(threat, NET, steps=5, restarts=1)(KEY, X))()
    clean = confidence_score(NET)(X)
    assert (alone.value >= clean).all() and (alone.value > clean).any()
    part = jax.jit(
        lambda: raised(apgd(threat, steps=5), confidence_score(NET))(fold(keys_for(KEY, 12), 0), X)
    )()
    assert (alone.value >= part.value - 1e-5).all()  # it is the first of the five
    assert (alone.value > part.value + 1e-3).any()
    assert threat.contains(alone.x, X).all()
    np.testing.assert_allclose(confidence_score(NET)(alone.x), alone.value, rtol=1e-4, atol=1e-5)
    p = np.asarray(jax.nn.softmax(NET(alone.x))).max(1)
    np.testing.assert_allclose(probability(alone.value), p, rtol=1e-4)


def plateau(x):
    """Two logits whose margin is flat below a mean of 0.55 and rises by 40 a unit behind it."""
    rise = 40 * jax.nn.relu(x.mean(axis=(1, 2, 3)) - 0.55)
    return jnp.stack([rise, jnp.zeros(len(x))], axis=1)


@pytest.mark.slow
def test_a_plateau_without_gradients_is_crossed():
    """From mean .5 the largest margin in linf .1 is 40 * .05 = 2; gradients alone stay at 0."""
    threat, grey = Threat("linf", 0.1), jnp.full((3, 4, 4, 1), 0.5)
    alone = raised(apgd(threat, steps=20), confidence_score(plateau), restarts=5)(KEY, grey)
    np.testing.assert_allclose(alone.value, 0.0)
    found = jax.jit(lambda: worst_confidence(threat, plateau, steps=5, restarts=1)(KEY, grey))()
    np.testing.assert_allclose(found.value, 2.0, rtol=1e-4)
    radii = (0.02, 0.1, 0.2)
    curve = jax.jit(lambda: confidence_over_radii(plateau, radii, norm="linf", steps=5)(KEY, grey))()
    np.testing.assert_allclose(curve.value[:, 0], [0.0, 2.0, 6.0], rtol=1e-4)
    for build in (
        lambda: worst_confidence(threat, plateau, queries=10),
        lambda: confidence_over_radii(plateau, radii, queries=0),
    ):
        with pytest.raises(ValueError, match="at least 200"):
            build()


@pytest.mark.slow
def test_confidence_never_falls_with_the_radius():
    radii = (0.0, 0.2, 0.5, 1.0)
    found = jax.jit(lambda: confidence_over_radii(NET, radii, steps=4)(KEY, X))()
    assert found.value.shape == (4, 12)
    np.testing.assert_array_equal(found.x[0], X)
    assert (np.diff(found.value, axis=0) >= 0).all() and (found.value[-1] > found.value[0]).all()
    for eps, x in zip(radii, found.x, strict=True):
        assert Threat("l2", eps).contains(x, X).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pulled_to_grey_as_far_as_allowed(norm):
    for eps in (0.1, 100.0):
        x = toward_grey(Threat(norm, eps))(KEY, X)
        assert Threat(norm, eps).contains(x, X).all()
        spread, before = np.asarray(x).std(axis=(1, 2, 3)), np.asarray(X).std(axis=(1, 2, 3))
        assert (spread < before).all() and (eps == 0.1 or spread.max() < 1e-6)
