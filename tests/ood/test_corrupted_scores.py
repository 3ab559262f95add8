"""Attacks by corruption: against a loop over all candidates, and what composing adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks.pgd import fgsm
from robustjax.numerics import fold, keys_for
from robustjax.ood import metrics, score_attacks
from robustjax.ood.corruption_attacks import SEVERITIES, composed, copies, worst_corruption
from robustjax.perturbations.corruptions.table import CORRUPTIONS, corrupt
from robustjax.threats import Threat

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(0.2, 0.8, (4, 8, 8, 1)), jnp.float32)
W = jnp.asarray(RNG.normal(size=64), jnp.float32)
NAMES = ("brightness", "gaussian_noise", "contrast")


def linear(x):
    return x.reshape(len(x), -1) @ W


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["raise", "lower"])
def test_the_worst_of_all_candidates_is_found(direction):
    """A loop over names and severities with the same keys, rounded to bytes in numpy."""
    sign = 1 if direction == "raise" else -1
    found = worst_corruption(linear, direction=direction, names=NAMES, severities=(1, 2.5, 5))(KEY, IMAGES)
    images = [IMAGES]
    for i, name in enumerate(NAMES):
        for j, severity in enumerate((1.0, 2.5, 5.0)):
            keys = fold(fold(keys_for(KEY, 4), i), j)
            moved = np.asarray(corrupt(name)(keys, IMAGES, severity), np.float64)
            images.append(np.rint(255 * moved) / 255)
    scores = np.stack([np.asarray(image, np.float64).reshape(4, -1) @ np.asarray(W) for image in images])
    np.testing.assert_allclose(sign * found.value, (sign * scores).max(axis=0), atol=2e-2)
    best = np.stack([np.asarray(image) for image in images])[(sign * scores).argmax(axis=0), np.arange(4)]
    np.testing.assert_allclose(found.x, best, atol=1 / 255 + 1e-5)
    assert (sign * (found.value - linear(IMAGES)) >= 0).all()
    assert (scores.argmax(axis=0) > 0).any() or direction == "lower"


@pytest.mark.slow
def test_there_are_ninety_five_candidates():
    assert len(CORRUPTIONS) * len(SEVERITIES) == 95
    search = worst_corruption(linear, direction="raise")
    assert jax.eval_shape(search, KEY, IMAGES).x.shape == IMAGES.shape  # all nineteen take images of any size


def test_copies_are_the_candidates():
    moved = copies("gaussian_noise", severities=(1, 5))(fold(keys_for(KEY, 4), 1), IMAGES)
    assert moved.shape == (2, 4, 8, 8, 1)
    found = worst_corruption(
        linear, direction="raise", names=("brightness", "gaussian_noise"), severities=(1, 5)
    )
    scores = jnp.concatenate([jax.vmap(linear)(moved), linear(IMAGES)[None]])
    assert (found(KEY, IMAGES).value >= scores.max(axis=0) - 1e-4).all()
    np.testing.assert_allclose(255 * moved, np.rint(255 * moved), atol=1e-3)


def test_an_image_nothing_can_worsen_stays():
    """A peak at the image itself: no candidate is nearer."""
    peak = lambda x: -jnp.abs(x - IMAGES).sum(axis=(1, 2, 3))
    found = worst_corruption(peak, direction="raise", names=NAMES[:1])(KEY, IMAGES)
    np.testing.assert_array_equal(found.x, IMAGES)


@pytest.mark.slow
def test_composing_searches_around_the_corrupted_image():
    eps, positive = 0.05, jnp.abs(W)
    rising = lambda x: x.reshape(len(x), -1) @ positive
    corruption = worst_corruption(rising, direction="raise", names=NAMES[:1])
    both = composed(corruption, score_attacks.raised(fgsm(Threat("linf", eps)), rising), direction="raise")
    first, found = corruption(fold(keys_for(KEY, 4), 0), IMAGES), both(KEY, IMAGES)
    threat = Threat("linf", eps)
    assert threat.contains(found.x, first.x).all() and not threat.contains(found.x, IMAGES).any()
    gain = (positive[None] * np.minimum(eps, 1 - first.x.reshape(4, -1))).sum(axis=1)
    np.testing.assert_allclose(found.value - first.value, gain, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_neither_ever_raises_the_auroc():
    inside, outside = IMAGES + 0.1, IMAGES
    names = {"names": NAMES[:2], "severities": (3.0,)}
    worst = {
        direction: worst_corruption(linear, direction=direction, **names) for direction in ("raise", "lower")
    }
    ball = (
        score_attacks.lowered(fgsm(Threat("linf", 0.02)), linear),
        score_attacks.raised(fgsm(Threat("linf", 0.02)), linear),
    )
    beyond = [composed(worst[s], b, direction=s)(KEY, x).value for s, b, x in (
        ("lower", ball[0], inside), ("raise", ball[1], outside),
    )]  # fmt: skip
    clean = metrics.auroc(linear(inside), linear(outside))
    corrupted = metrics.auroc(worst["lower"](KEY, inside).value, worst["raise"](KEY, outside).value)
    assert metrics.auroc(*beyond) <= corrupted <= clean
    # A search that ends lower than it started leaves the corrupted image.
    backwards = score_attacks.raised(
        fgsm(Threat("linf", 0.1)), linear, surrogates=[lambda x: -linear(x)], clean=False
    )
    kept = composed(worst["raise"], backwards, direction="raise")(KEY, outside)
    np.testing.assert_allclose(
        kept.value, worst["raise"](fold(keys_for(KEY, 4), 0), outside).value, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"direction": "in"}, "direction is 'in'"),
        ({"direction": "raise", "names": ("rain",)}, "'rain'"),
        ({"direction": "raise", "severities": (6,)}, "must be at least one each, severities in"),
    ],
)
def test_settings_are_checked_when_built(settings, says):
    with pytest.raises(ValueError, match=says):
        worst_corruption(linear, **settings)
    with pytest.raises(ValueError, match="composed: direction"):
        composed(lambda k, x: None, lambda k, x: None, direction="both")
