"""pix2pix: schedules, one step by hand, the pool of earlier translations."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax.losses import pix2pix
from robustjax.losses.image_pool import empty, exchanged
from robustjax.perturbations.pairs import ImagePair
from robustjax.types import Model


def test_rates_fall_as_published():
    factor = pix2pix.linear_decay(1.0, constant=100, decay=100, per_epoch=7)
    for epoch, expected in ((0, 1), (99, 1), (100, 100 / 101), (199, 1 / 101)):
        for update in (7 * epoch, 7 * epoch + 6):
            np.testing.assert_allclose(factor(update), expected, rtol=1e-6)
    assert float(factor(7 * 300)) == 0


# A translator a x + b, and a critic whose logit for a pair is u first + v second, everywhere.
X, Y = 0.5, 0.25  # the perturbed and the clean image, of one pixel
A, B, U, V = 0.8, 0.1, 0.3, -0.4
RATE = 0.1


def toy(**settings):
    def linear(init, apply):
        return Model(lambda key: (init, {}), apply, lambda params, state, x: {})

    def translate(params, state, x, *, train=False, key=None):
        return params["a"] * x + params["b"], state

    def judge(params, state, x, *, train=False, key=None):
        seen = params["u"] * x[..., :1] + params["v"] * x[..., 1:]
        return ((seen, seen),), state

    return pix2pix.Rules(
        linear({"a": jnp.float32(A), "b": jnp.float32(B)}, translate),
        linear({"u": jnp.float32(U), "v": jnp.float32(V)}, judge),
        optax.sgd(RATE),
        optax.sgd(RATE),
        pix2pix.least_squares,
        pix2pix.l1(2.0),
        **settings,
    )


VIEWS = ImagePair(jnp.full((2, 3, 3, 1), Y), jnp.full((2, 3, 3, 1), X))


def by_hand(moved_first, matching):
    made = A * X + B
    fake, real = U * X + V * made, U * X + V * Y
    # d/du and d/dv of (fake^2 + (real - 1)^2) / 2
    u = U - RATE * (fake * X + (real - 1) * X)
    v = V - RATE * (fake * made + (real - 1) * Y)
    ju, jv = (u, v) if moved_first else (U, V)
    slope = 2 * (ju * X + jv * made - 1) * jv + 2.0 * np.sign(made - Y)
    slope += matching * 4 * np.sign(jv * (made - Y)) * jv  # one inner map: 4 / 1
    return A - RATE * slope * X, B - RATE * slope, u, v


@pytest.mark.parametrize("matching", [0.0, 0.5])
@pytest.mark.parametrize("first", [True, False])
def test_one_step_is_what_one_computes_by_hand(first, matching):
    rules = toy(matching=matching)
    duel = pix2pix.start(jax.random.key(0), rules, (3, 3, 1))
    step = pix2pix.alternating(rules) if first else pix2pix.joint(rules)
    after, metrics = jax.jit(step)(duel, VIEWS)
    found = (*after.translator.params.values(), *after.critic.params.values())
    np.testing.assert_allclose(np.array(found), by_hand(first, matching), rtol=1e-5)
    assert int(after.step) == 1
    made = A * X + B
    fake, real = U * X + V * made, U * X + V * Y
    np.testing.assert_allclose(metrics["critic"], 0.5 * (fake**2 + (real - 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(metrics["error"], abs(made - Y), rtol=1e-5)
    np.testing.assert_allclose(metrics["missed"], 2 * abs(made - Y), rtol=1e-5)


def test_realism_by_closed_forms():
    logits = jnp.array([[-1.0, 2.0]])
    softplus = np.log1p(np.exp([-1.0, 2.0]))
    np.testing.assert_allclose(pix2pix.vanilla(logits, False), softplus.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        pix2pix.vanilla(logits, True), (softplus - np.array([-1.0, 2.0])).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(pix2pix.least_squares(logits, True), (4 + 1) / 2)


def test_matching_weighs_maps_and_leaves_logits_out():
    ones = tuple(jnp.full((1, 2), float(i)) for i in range(4))  # three inner maps and logits
    zeros = tuple(jnp.zeros((1, 2)) for _ in range(4))
    np.testing.assert_allclose(pix2pix.matching((ones, zeros), (zeros, zeros)), 4 / 3 * (0 + 1 + 2) / 2)


def test_prices_add_up_and_see_through_the_network_they_are_given():
    made, clean = jnp.full((1, 2, 2, 1), 0.5), jnp.full((1, 2, 2, 1), 0.25)
    price = pix2pix.both(
        pix2pix.l1(4.0), pix2pix.by_features(lambda x: {"twice": 2 * x, "square": x * x}, 3.0)
    )
    np.testing.assert_allclose(price(made, clean), 1.0 + 3 * (0.5 + 0.1875), rtol=1e-6)
    slope = jax.grad(price, argnums=1)(made, clean)
    np.testing.assert_allclose(np.asarray(slope).sum(), -4.0, rtol=1e-6)  # the wanted features are cut off


def test_the_pool_loses_nothing_and_passes_on_while_it_fills():
    pool, new = empty(4, (1,)), jnp.arange(6.0)[:, None]
    run = jax.jit(exchanged)
    out, pool = run(jax.random.key(0), pool, new)
    assert np.asarray(out[:4, 0]).tolist() == [0, 1, 2, 3] and int(pool.filled) == 4
    swapped = 0
    for i in range(1, 40):
        new = 6.0 * i + jnp.arange(6.0)[:, None]
        before = pool.rows
        out, pool = run(jax.random.key(i), pool, new)
        arrived = Counter(np.concatenate([before, new]).ravel().tolist())
        assert arrived == Counter(np.concatenate([pool.rows, out]).ravel().tolist())
        swapped += int((np.asarray(out) != np.asarray(new)).sum())
    assert abs(swapped / 234 - 0.5) < 5 * np.sqrt(0.25 / 234)  # half of them, within five standard errors


def test_a_pool_of_none_is_none():
    new = jnp.arange(3.0)[:, None]
    out, pool = exchanged(jax.random.key(0), None, new)
    assert out is new and pool is None
    with pytest.raises(ValueError, match="size is 0"):
        empty(0, (1,))


def test_the_critic_is_shown_earlier_translations():
    rules = toy(pool=8)
    duel = pix2pix.start(jax.random.key(0), rules, (3, 3, 1))
    step = jax.jit(pix2pix.alternating(rules))
    for _ in range(4):
        duel, _ = step(duel, VIEWS)
    assert int(duel.pool.filled) == 8
    assert len({float(row[0, 0, 1]) for row in duel.pool.rows}) == 4  # of four states of the translator
