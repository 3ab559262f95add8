"""Losses over pixels against sklearn and numpy, on a network that looks at single pixels."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from robustjax.attacks.pgd import pgd
from robustjax.losses.segmentation import (
    IGNORE,
    accuracy,
    cross_entropy,
    max_clean_adversarial_segmentation,
    overlaps,
    segmentation,
)
from robustjax.smoothing.noise import white
from robustjax.threats import Threat
from robustjax.types import Batch, Model

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(4, 5, 6, 3)), jnp.float32)
LABEL = RNG.integers(0, 4, size=(4, 5, 6))
LABEL[0, :2] = LABEL[3] = IGNORE
Y = jnp.asarray(LABEL, jnp.int32)
WEIGHT = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)


def apply(params, state, x, *, train=False, key=None):
    return x @ params, state


MODEL = Model(lambda key: (WEIGHT, {}), apply, lambda *_: {})


def jaccard(label, said):
    return [metrics.jaccard_score(label == k, said == k) for k in range(4)]


def test_losses_and_scores_are_sklearns_over_labelled_pixels():
    logits = X @ WEIGHT
    p, said = np.asarray(jax.nn.softmax(logits), np.float64), np.asarray(logits.argmax(axis=-1))
    loss, right = cross_entropy(logits, Y), accuracy(logits, Y)
    for i in range(3):
        known = LABEL[i] != 255
        np.testing.assert_allclose(
            loss[i], metrics.log_loss(LABEL[i][known], p[i][known], labels=range(4)), rtol=1e-5
        )
        np.testing.assert_allclose(
            right[i], metrics.accuracy_score(LABEL[i][known], said[i][known]), rtol=1e-6
        )
    assert loss[3] == right[3] == 0.0
    both, either = overlaps(logits, Y)
    known = LABEL != 255
    np.testing.assert_allclose(both / either, jaccard(LABEL[known], said[known]), rtol=1e-6)


def test_training_losses_are_means_and_ignored_pixels_have_no_slope():
    batch = Batch(X, Y)
    risk, (_, scores) = segmentation(MODEL)(WEIGHT, {}, batch, KEY)
    np.testing.assert_allclose(risk, cross_entropy(X @ WEIGHT, Y).mean(), rtol=1e-6)
    moved, _ = segmentation(MODEL, perturb=white(0.3))(WEIGHT, {}, batch, KEY)
    assert moved != risk and 0 < scores["accuracy"] < 1
    slope = jax.grad(lambda x: cross_entropy(x @ WEIGHT, Y).sum())(X)
    np.testing.assert_array_equal(np.asarray(slope)[LABEL == 255], 0.0)


def test_attacks_on_segmenters_raise_the_loss_and_the_harder_one_counts():
    loss = max_clean_adversarial_segmentation(MODEL, pgd(Threat("linf", 0.1), steps=3, step_size=0.05))
    batch = Batch(X, Y)
    attacked = jax.jit(lambda k: loss.attack(WEIGHT, {}, batch, k))(KEY)
    before, after = (cross_entropy(x @ WEIGHT, Y) for x in (X, attacked))
    assert (after[:3] > before[:3]).all() and (jnp.abs(attacked - X) <= 0.1 + 1e-6).all()
    value, (_, scores) = loss.risk(WEIGHT, {}, batch, attacked, KEY)
    np.testing.assert_allclose(value, jnp.maximum(before, after).mean(), rtol=1e-6)
    assert scores["robust_accuracy"] <= scores["accuracy"]
