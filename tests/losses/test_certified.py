"""Certified training: exact on linear networks, above the truth on others, and what it trains is certified."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from robustjax import training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.bounds.enclosure import differences, margins
from robustjax.losses.adversarial import adversarial
from robustjax.losses.certified import crown_ibp, ibp, sabr, worst_cross_entropy
from robustjax.models import small
from robustjax.optimizers import adam
from robustjax.threats import Threat
from robustjax.types import Batch, Model, frozen

B, D, K, EPS = 6, 5, 3, 0.1
RNG = np.random.default_rng(0)
BATCH = Batch(
    jnp.asarray(RNG.uniform(0.3, 0.7, size=(B, 1, D, 1)), jnp.float32),
    jnp.asarray(RNG.integers(0, K, B), jnp.int32),
)
W = RNG.normal(size=(D, K)).astype(np.float32)
KEY = jax.random.key(0)
THREAT = Threat("linf", EPS)
LINEAR = Model(
    lambda key: ({"w": jnp.asarray(W)}, {}),
    lambda p, s, x, train=False, key=None: (x.reshape(len(x), -1) @ p["w"], s),
    lambda p, s, x: {},
)
MLP = small.mlp(classes=K, shape=(1, D, 1), widths=(8, 8))
PARAMS, STATE = MLP.init(KEY)


def cross_entropy(z, y):
    return scipy.special.logsumexp(z, axis=1) - z[np.arange(len(y)), y]


def worst_by_hand(eps):
    """Every difference z_k - z_y of a linear network is largest at a corner of its own: by eps |w_k - w_y|_1 more."""
    x, y = np.asarray(BATCH.image, np.float64).reshape(B, D), np.asarray(BATCH.label)
    z = x @ W.astype(np.float64)
    apart = np.abs(W[:, None, :] - W[:, :, None]).sum(axis=0)[y]
    above = z - z[np.arange(B), y][:, None] + eps * apart
    return scipy.special.logsumexp(above, axis=1).mean(), cross_entropy(z, y).mean()


@pytest.mark.parametrize("clean", [0.0, 0.25, 1.0])
def test_ibp_is_the_formula_on_a_linear_network(clean):
    params, state = LINEAR.init(KEY)
    value, (_, metrics) = ibp(LINEAR, THREAT, clean=clean)(params, state, BATCH, KEY)
    worst, at = worst_by_hand(EPS)
    np.testing.assert_allclose(value, clean * at + (1 - clean) * worst, rtol=1e-5)
    np.testing.assert_allclose(metrics["risk"], worst, rtol=1e-5)


def test_small_boxes_of_the_whole_radius_are_ibp_and_smaller_ones_lie_in_the_ball():
    params, state = LINEAR.init(KEY)
    ascent = pgd(THREAT, steps=5, step_size=0.05)
    whole = sabr(LINEAR, THREAT, ascent, share=1.0)(params, state, BATCH, KEY)[0]
    np.testing.assert_allclose(whole, worst_by_hand(EPS)[0], rtol=1e-5)
    loss = sabr(LINEAR, THREAT, ascent, share=0.25)
    centre = loss.attack(params, state, BATCH, KEY)
    assert np.abs(centre - BATCH.image).max() <= 0.75 * EPS + 1e-6
    assert worst_by_hand(0.25 * EPS)[0] < loss(params, state, BATCH, KEY)[0] <= whole + 1e-6


@pytest.mark.slow
def test_the_bound_lies_above_every_corner_and_lines_below_intervals():
    network = jax.jit(frozen(MLP, PARAMS, STATE))
    corners = np.array(list(itertools.product([-EPS, EPS], repeat=D)), np.float32)
    points = np.asarray(BATCH.image).reshape(B, 1, D) + corners
    logits = np.asarray(network(points.reshape(-1, 1, D, 1))).reshape(B, -1, K)
    y = np.asarray(BATCH.label)
    value = lambda loss: float(jax.jit(lambda: loss(PARAMS, STATE, BATCH, KEY)[0])())
    truth = np.mean(
        [cross_entropy(z, np.full(len(z), label)).max() for z, label in zip(logits, y, strict=True)]
    )
    loose, tight = value(ibp(MLP, THREAT, clean=0.0)), value(crown_ibp(MLP, THREAT, clean=0.0))
    assert truth < tight < loose
    ascent = pgd(THREAT, steps=20, step_size=0.03)
    attacked = value(adversarial(MLP, compose.against(ascent, objectives.cross_entropy)))
    assert attacked <= tight


@pytest.mark.slow
def test_the_gradient_is_that_of_the_bound():
    """Along a random direction, by differences; the clean loss has no part in it."""
    loss = jax.jit(lambda p: ibp(MLP, THREAT, clean=0.0)(p, STATE, BATCH, KEY)[0])
    way = jax.tree.map(lambda w: jnp.asarray(0.1 * RNG.normal(size=w.shape), jnp.float32), PARAMS)
    moved = lambda h: jax.tree.map(lambda w, d: w + h * d, PARAMS, way)
    parts = jax.tree.map(lambda g, d: float((g * d).sum()), jax.grad(loss)(PARAMS), way)
    difference = (loss(moved(1e-3)) - loss(moved(-1e-3))) / 2e-3
    np.testing.assert_allclose(sum(jax.tree.leaves(parts)), difference, rtol=0.02)


def test_no_crown_is_ibp():
    value = lambda loss: loss(PARAMS, STATE, BATCH, KEY)[0]
    np.testing.assert_allclose(value(crown_ibp(MLP, THREAT, crown=0.0)), value(ibp(MLP, THREAT)), rtol=1e-6)


def test_at_radius_0_the_bound_is_the_cross_entropy():
    network = frozen(MLP, PARAMS, STATE)
    found = worst_cross_entropy(differences(network, Threat("linf", 0.0), BATCH.image), BATCH.label)
    np.testing.assert_allclose(
        found, cross_entropy(np.asarray(network(BATCH.image)), np.asarray(BATCH.label)), rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "sabr"])
def test_what_is_trained_is_certified(name):
    """Two classes 0.5 apart in one feature: after training, every image is certified at 0.1, untrained next to none."""
    y = RNG.integers(0, 2, 256)
    x = RNG.uniform(size=(256, D)).astype(np.float32)
    x[:, 0] = 0.25 + 0.5 * y
    batch = Batch(jnp.asarray(x.reshape(256, 1, D, 1)), jnp.asarray(y, jnp.int32))
    model = small.mlp(classes=2, shape=(1, D, 1), widths=(16, 16))
    losses = {
        "ibp": ibp(model, THREAT),
        "crown_ibp": crown_ibp(model, THREAT),
        "sabr": sabr(model, THREAT, pgd(THREAT, steps=3, step_size=0.05), share=0.6),
    }
    tx = adam(0.01)
    step = jax.jit(training.step(losses[name], tx))
    state = training.start(KEY, model, tx)

    @jax.jit
    def certified(state):
        network = frozen(model, state.params, state.state)
        return (margins(network, THREAT, batch.image, batch.label) < 0).mean()

    before = certified(state)
    with jax.numpy_dtype_promotion("standard"):  # Adam counts in integers
        for _ in range(200):
            state, _ = step(state, batch)
    assert before < 0.7 and certified(state) == 1.0


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ibp(MLP, THREAT, clean=1.5), "clean is 1.5"),
        (lambda: crown_ibp(MLP, THREAT, crown=-0.5), "crown is -0.5"),
        (lambda: sabr(MLP, THREAT, pgd(THREAT, steps=1, step_size=0.1), share=0.0), "share is 0.0"),
        (
            lambda: sabr(MLP, Threat("l2", 1.0), pgd(THREAT, steps=1, step_size=0.1)),
            "must be 'linf', whose balls are boxes",
        ),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
