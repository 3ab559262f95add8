"""Group DRO: the published update in numpy, absent groups, the adversarial form, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from robustjax import logit, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.losses.adversarial import adversarial
from robustjax.losses.group_dro import GroupBatch, Weighted, adversarial_group_dro, group_dro, weighted
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch, Model, frozen

SHAPE, K, B, G = (4, 4, 1), 2, 12, 4
RNG = np.random.default_rng(0)
BATCH = GroupBatch(
    jnp.asarray(RNG.uniform(size=(B, *SHAPE)), jnp.float32),
    jnp.asarray(RNG.integers(0, K, B), jnp.int32),
    jnp.asarray([0, 0, 0, 1, 1, 3, 3, 3, 3, -1, 0, 1], jnp.int32),  # group 2 is absent, one image has none
)
MODEL = weighted(small.mlp(classes=K, shape=SHAPE, widths=(7,)), groups=G)
PARAMS, STATE = MODEL.init(jax.random.key(0))
STATE = STATE._replace(log_weights=jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4])))
KEY = jax.random.key(1)
ATTACK = compose.against(pgd(Threat("linf", 0.1), steps=3, step_size=0.05), objectives.cross_entropy)


def by_hand(image, step_size, margin):
    """Algorithm 1 in float64."""
    logits = np.asarray(frozen(MODEL, PARAMS, STATE)(image), np.float64)
    own = -scipy.special.log_softmax(logits, axis=1)[np.arange(B), BATCH.label]
    group, weights = np.asarray(BATCH.group), np.asarray(STATE.weights, np.float64).copy()
    loss = np.array([own[group == g].mean() if (group == g).any() else 0.0 for g in range(G)])
    for g in (0, 1, 3):
        weights[g] *= np.exp(step_size * (loss[g] + margin[g]))
    weights /= weights.sum()
    return (weights * loss).sum(), weights, max(loss)


@pytest.mark.parametrize("adjustment", [0.0, 2.0])
def test_published_update(adjustment):
    sizes = (100, 25, 4, 9)
    loss = group_dro(MODEL, step_size=0.5, adjustment=adjustment, sizes=sizes)
    value, (state, metrics) = jax.jit(loss)(PARAMS, STATE, BATCH, KEY)
    expected, weights, worst = by_hand(BATCH.image, 0.5, adjustment / np.sqrt(sizes))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-5)
    np.testing.assert_allclose(metrics["worst"], worst, rtol=1e-5)


@pytest.mark.slow
def test_gradient_takes_the_weights_as_given():
    grads = jax.grad(lambda p: group_dro(MODEL, step_size=0.5)(p, STATE, BATCH, KEY)[0])(PARAMS)
    _, weights, _ = by_hand(BATCH.image, 0.5, np.zeros(G))

    def fixed(p):
        own = logit.cross_entropy(MODEL.apply(p, STATE, BATCH.image)[0], BATCH.label)
        return sum(float(weights[g]) * own[np.asarray(BATCH.group) == g].mean() for g in (0, 1, 3))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, jax.grad(fixed)(PARAMS))


@pytest.mark.slow
def test_under_attack_it_is_the_same_risk_at_the_points_of_adversarial_training():
    both = adversarial_group_dro(MODEL, ATTACK, step_size=0.5)
    value, (state, metrics) = both(PARAMS, STATE, BATCH, KEY)
    plain = adversarial(MODEL, ATTACK)
    inner, _ = jax.random.split(KEY)
    attacked = plain.attack(PARAMS, STATE, Batch(BATCH.image, BATCH.label), inner)
    expected, weights, _ = by_hand(attacked, 0.5, np.zeros(G))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-5)
    assert set(metrics) == {"risk", "worst", "robust_accuracy"}


@pytest.mark.slow
def test_it_learns_the_group_that_the_average_forgets():
    """Two groups want opposite answers, the smaller one of them is an eighth of the data."""
    n = 64
    group = (np.arange(n) % 8 == 0).astype(np.int32)
    x = np.full((n, 1, 1, 2), 0.5, np.float32)
    x[:, 0, 0, 0] = RNG.uniform(size=n)
    x[:, 0, 0, 1] = group
    label = ((x[:, 0, 0, 0] > 0.5) ^ (group == 1)).astype(np.int32)
    x[:, 0, 0, 1] *= 0.1  # the group is hard to see
    batch = GroupBatch(jnp.asarray(x), jnp.asarray(label), jnp.asarray(group))
    model = weighted(small.linear(classes=2, shape=(1, 1, 2)), groups=2)
    losses = {}
    for step_size in (0.0, 0.1):
        tx = optax.sgd(0.5)
        state = training.start(jax.random.key(0), model, tx)
        if step_size == 0:
            state = state._replace(state=Weighted(state.state.network, jnp.log(jnp.asarray([7 / 8, 1 / 8]))))
        step = training.step(group_dro(model, step_size=step_size), tx)
        for _ in range(200):
            state, metrics = step(state, batch)
        losses[step_size] = float(metrics["worst"])
    assert losses[0.1] < 0.75 < 1.5 < losses[0.0]  # log 2 is the best that a linear classifier can do
    np.testing.assert_allclose(state.state.weights.sum(), 1, rtol=1e-5)


def test_a_weight_recovers_from_below_the_smallest_float():
    """After 9,000 updates a weight is e^-90, 0 in float32; kept as such it could not grow when its loss does."""
    model = weighted(
        Model(lambda key: ({}, {}), lambda p, s, x, **_: (x[:, 0, 0], s), lambda p, s, x: {}), groups=2
    )
    loss = group_dro(model, step_size=0.01)

    def steps(state, losses, count):
        # Logits [a, 0] of class 0 have cross-entropy log(1 + e^-a).
        first = [[-np.log(np.expm1(value)), 0.0] for value in losses]
        image = jnp.asarray(first, jnp.float32).reshape(2, 1, 1, 2)
        batch = GroupBatch(image, jnp.zeros(2, jnp.int32), jnp.arange(2))
        return jax.jit(lambda s: jax.lax.fori_loop(0, count, lambda _, s: loss({}, s, batch, KEY)[1][0], s))(
            state
        )

    log_weights = np.log([0.5, 0.5])  # algorithm 1 in float64
    _, state = model.init(KEY)
    for losses, count, expected in (
        ((1.2, 0.2), 9_000, [1, 0]),
        ((0.2, 5.0), 1_875, None),
        ((0.2, 5.0), 500, [0, 1]),
    ):
        state = steps(state, losses, count)
        log_weights = log_weights + 0.01 * count * np.asarray(losses)
        exact = scipy.special.softmax(log_weights)
        np.testing.assert_allclose(state.weights, exact, atol=0.02)
        if expected is not None:
            np.testing.assert_allclose(state.weights, expected, atol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: weighted(MODEL, groups=0), "groups is 0, must be a whole number, at least 1"),
        (lambda: group_dro(MODEL, step_size=-1.0), "step_size is -1.0, must be at least 0"),
        (lambda: adversarial_group_dro(MODEL, ATTACK, adjustment=1.0), "sizes is \\[\\], must count"),
    ],
)
def test_what_cannot_be_meant_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
