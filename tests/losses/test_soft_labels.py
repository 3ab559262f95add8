"""Losses of soft labels: mixed images, MixOE, logit normalisation; formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from robustjax import logit
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.catalog import losses
from robustjax.losses.adversarial import adversarial, half_adversarial
from robustjax.losses.awp import awp
from robustjax.losses.logitnorm import logitnorm
from robustjax.losses.mart import mart
from robustjax.losses.mixed_images import on_mixed_images
from robustjax.losses.mixoe import mixoe
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair

RNG = np.random.default_rng(0)
K, B = 3, 4
X, OOD = (RNG.uniform(0.2, 0.8, (B, 2, 2, 1)).astype(np.float32) for _ in range(2))
Y = np.asarray([0, 1, 2, 0], np.int32)
W = RNG.normal(size=(4, K)).astype(np.float32)
BATCH = Batch(jnp.asarray(X), jnp.asarray(Y))
KEY = jax.random.key(0)
ONE_HOT = np.eye(K)[Y]
ASCENT = pgd(Threat("linf", 0.1), steps=2, step_size=0.1)
ATTACK = compose.against(ASCENT, objectives.cross_entropy)


def apply(params, state, x, *, train=False, key=None):
    return x.reshape(x.shape[0], -1) @ params, state


MODEL = Model(lambda key: (jnp.asarray(W), {}), apply, lambda params, state, x: {})
LOSSES = {
    "standard": standard(MODEL, smoothing=0.1),
    "adversarial": adversarial(MODEL, ATTACK),
    "half_adversarial": half_adversarial(MODEL, ATTACK),
    "trades": trades(MODEL, ASCENT),
    "logitnorm": logitnorm(MODEL),
    "awp": awp(adversarial(MODEL, ATTACK), gamma=0.01),
}


def quarter(key, x, other):
    """Mix three quarters with one quarter."""
    return 0.75 * x + 0.25 * other, jnp.full(len(x), 0.75)


def logits(x, w=W):
    return x.reshape(len(x), -1).astype(np.float64) @ w


@pytest.mark.parametrize("name", LOSSES)
def test_a_soft_label_of_one_class_is_that_class(name):
    hard = LOSSES[name](jnp.asarray(W), {}, BATCH, KEY)
    soft = LOSSES[name](jnp.asarray(W), {}, Batch(BATCH.image, jnp.asarray(ONE_HOT, jnp.float32)), KEY)
    for a, b in zip(jax.tree.leaves(hard), jax.tree.leaves(soft), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_cross_entropy_of_a_distribution():
    z = RNG.normal(size=(B, K)).astype(np.float32)
    q = RNG.dirichlet(np.ones(K), B).astype(np.float32)
    want = -(q * log_softmax(z.astype(np.float64), axis=1)).sum(axis=1)
    np.testing.assert_allclose(logit.cross_entropy(jnp.asarray(z), jnp.asarray(q)), want, rtol=1e-5)
    # A masked class without probability adds nothing.
    masked = jnp.asarray([[1.0, 2.0, -jnp.inf]])
    value = logit.cross_entropy(masked, jnp.asarray([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(value, 0.5 * (np.log1p(np.exp(1)) + np.log1p(np.exp(-1))), rtol=1e-6)
    np.testing.assert_array_equal(logit.correct(jnp.asarray(z), jnp.asarray(q)), z.argmax(1) == q.argmax(1))


def test_mixed_images_are_trained_on_with_their_shares():
    value, (_, metrics) = on_mixed_images(standard(MODEL), quarter, classes=K)(jnp.asarray(W), {}, BATCH, KEY)
    x = 0.75 * X + 0.25 * X[[1, 0, 3, 2]]
    q = 0.75 * ONE_HOT + 0.25 * ONE_HOT[[1, 0, 3, 2]]
    want = -(q * log_softmax(logits(x), axis=1)).sum(axis=1).mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits(x).argmax(1) == q.argmax(1)).mean())


def test_an_attack_inside_climbs_the_soft_label():
    """One full signed step of a linear model: x + eps sign of W (p - q)."""
    step = compose.against(
        pgd(Threat("linf", 0.1), steps=1, step_size=0.1, start=at_origin),
        objectives.cross_entropy,
    )
    q = RNG.dirichlet(np.ones(K), B).astype(np.float32)
    found = step(KEY, lambda x: apply(jnp.asarray(W), {}, x)[0], BATCH.image, jnp.asarray(q)).x
    p = np.exp(log_softmax(logits(X), axis=1))
    np.testing.assert_allclose(found, X + 0.1 * np.sign((p - q) @ W.T).reshape(X.shape), atol=1e-6)


def test_mixoe_by_hand():
    value, (_, metrics) = mixoe(MODEL, mixer=quarter, weight=2.0)(
        jnp.asarray(W), {}, Pair(BATCH, jnp.asarray(np.concatenate([OOD, OOD]))), KEY
    )
    clean = -log_softmax(logits(X), axis=1)[np.arange(B), Y].mean()
    q = 0.75 * ONE_HOT + 0.25 / K
    between = -(q * log_softmax(logits(0.75 * X + 0.25 * OOD), axis=1)).sum(axis=1).mean()
    np.testing.assert_allclose(value, clean + 2 * between, rtol=1e-5)
    np.testing.assert_allclose([metrics["risk"], metrics["mixture_risk"]], [clean, between], rtol=1e-5)
    with pytest.raises(ValueError, match="2 OOD images beside 4 ID images"):
        mixoe(MODEL)(jnp.asarray(W), {}, Pair(BATCH, jnp.asarray(OOD[:2])), KEY)


def test_logitnorm_by_hand_and_blind_to_the_norm():
    value, _ = logitnorm(MODEL, temperature=0.5)(jnp.asarray(W), {}, BATCH, KEY)
    z = logits(X)
    unit = z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-7)
    want = -log_softmax(unit / 0.5, axis=1)[np.arange(B), Y].mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(
        logitnorm(MODEL, temperature=0.5)(7 * jnp.asarray(W), {}, BATCH, KEY)[0], want, rtol=1e-4
    )
    slope = jax.grad(lambda w: logitnorm(MODEL)(w, {}, BATCH, KEY)[0])(jnp.zeros_like(W))
    assert np.isfinite(slope).all()  # also where all logits are 0


def test_labels_that_a_loss_cannot_take_are_refused():
    soft = Batch(BATCH.image, jnp.asarray(ONE_HOT, jnp.float32))
    with pytest.raises(ValueError, match="mart: labels"):
        mart(MODEL, ATTACK)(jnp.asarray(W), {}, soft, KEY)
    with pytest.raises(ValueError, match="mart: labels are soft"):
        jax.eval_shape(lambda b: mart(MODEL, ATTACK)(jnp.asarray(W), {}, b, KEY), soft)
    with pytest.raises(ValueError, match="rows sum to 2"):
        standard(MODEL)(jnp.asarray(W), {}, Batch(BATCH.image, jnp.asarray(2 * ONE_HOT, jnp.float32)), KEY)
    with pytest.raises(ValueError, match=r"soft labels have shape \(4, 3\), must be \(4, 2\)"):
        logit.cross_entropy(jnp.zeros((4, 2)), soft.label)
    with pytest.raises(ValueError, match="margin: labels"):
        compose.against(ASCENT)(KEY, lambda x: apply(jnp.asarray(W), {}, x)[0], *soft)


@pytest.mark.parametrize("name", losses.TAKE_SOFT_LABELS)
def test_every_loss_of_the_list_takes_them(name):
    loss = losses.training_loss(
        name, MODEL, threat=Threat("linf", 0.1), ascent=ASCENT, mix="cutmix", classes=K
    )
    value, _ = loss(jnp.asarray(W), {}, BATCH, KEY)
    assert np.isfinite(value)


def test_the_others_of_the_table_are_refused_by_name():
    for name in sorted(set(losses.LOSSES) - set(losses.TAKE_SOFT_LABELS)):
        with pytest.raises(ValueError, match=f"must be none with --loss {name}"):
            losses.training_loss(
                name, MODEL, threat=Threat("linf", 0.1), ascent=ASCENT, mix="mixup", classes=K
            )
