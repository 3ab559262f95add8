"""Every training loss: the contract, and the published formula written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from robustjax import logit, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.losses.adversarial import adversarial, half_adversarial
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.awp import awp
from robustjax.losses.certified import crown_ibp, ibp, sabr
from robustjax.losses.fast import fgsm_rs, n_fgsm
from robustjax.losses.free import free, optimizer, parameters
from robustjax.losses.mart import boosted_cross_entropy, mart
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch, Model, frozen

SHAPE, K, B = (4, 4, 1), 3, 8
RNG = np.random.default_rng(0)
BATCH = Batch(
    jnp.asarray(RNG.uniform(size=(B, *SHAPE)), jnp.float32), jnp.asarray(RNG.integers(0, K, B), jnp.int32)
)
MODEL = small.mlp(classes=K, shape=SHAPE, widths=(7,))
PARAMS, STATE = MODEL.init(jax.random.key(0))
KEY = jax.random.key(1)
THREAT = Threat("linf", 0.1)
ASCENT = pgd(THREAT, steps=3, step_size=0.05)
ATTACK = compose.against(ASCENT, objectives.cross_entropy)

LOSSES = {
    "standard": standard(MODEL),
    "smoothed": standard(MODEL, smoothing=0.1),
    "adversarial": adversarial(MODEL, ATTACK),
    "half_adversarial": half_adversarial(MODEL, ATTACK),
    "trades": trades(MODEL, ASCENT),
    "mart": mart(MODEL, ATTACK),
    "fgsm_rs": adversarial(MODEL, compose.against(fgsm_rs(THREAT), objectives.cross_entropy)),
    "n_fgsm": adversarial(MODEL, compose.against(n_fgsm(THREAT), objectives.cross_entropy)),
    "ibp": ibp(MODEL, THREAT),
    "crown_ibp": crown_ibp(MODEL, THREAT, crown=0.5),
    "sabr": sabr(MODEL, THREAT, ASCENT),
    "awp of adversarial": awp(adversarial(MODEL, ATTACK), gamma=0.01),
    "awp of trades": awp(trades(MODEL, ASCENT), gamma=0.01),
}


def spying(model, calls):
    """Record how the network is called."""

    def apply(params, state, x, *, train=False, key=None):
        calls.append(train)
        return model.apply(params, state, x, train=train, key=key)

    return Model(model.init, apply, model.features)


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name):
    """A finite scalar, its metrics scalars, the state's structure kept, and a gradient that descends."""
    slope = jax.jit(jax.value_and_grad(LOSSES[name], has_aux=True))
    (value, (state, metrics)), grads = slope(PARAMS, STATE, BATCH, KEY)
    assert value.shape == () and np.isfinite(value)
    assert jax.tree.structure(state) == jax.tree.structure(STATE)
    assert all(m.shape == () and np.isfinite(m) for m in metrics.values()) and "risk" in metrics
    moved = jax.tree.map(lambda w, g: w - 0.01 * g, PARAMS, grads)
    assert slope(moved, STATE, BATCH, KEY)[0][0] < value


@pytest.mark.parametrize("name", ["half_adversarial", "mart", "awp of trades"])
def test_same_under_every_transformation(variant, name):
    """Over two independent batches, each with its own copy of the parameters.

    A copy that all devices share would do for the value, but under shard_map jax sums a gradient towards it over
    devices, so that AWP would move the weights against both batches.
    """
    keys = jax.random.split(KEY, 2)
    batches = Batch(jnp.stack([BATCH.image, BATCH.image[::-1]]), jnp.stack([BATCH.label, BATCH.label[::-1]]))
    copies = jax.tree.map(lambda w: jnp.stack([w, w]), PARAMS)

    def each(batches, keys, params):
        return jax.vmap(lambda batch, key, p: LOSSES[name](p, STATE, batch, key)[0])(batches, keys, params)

    alone = jax.jit(lambda batch, key: LOSSES[name](PARAMS, STATE, batch, key)[0])
    apart = [alone(jax.tree.map(lambda a, i=i: a[i], batches), keys[i]) for i in range(2)]
    np.testing.assert_allclose(variant(each)(batches, keys, copies), apart, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if isinstance(loss, AdversarialLoss)])
def test_no_gradient_flows_through_the_attack(name):
    """The gradient equals that of the risk at the attacked images taken as constants."""
    loss = LOSSES[name]
    inner, outer = jax.random.split(KEY)
    attacked = jax.jit(loss.attack)(PARAMS, STATE, BATCH, inner)
    constant = jax.jit(jax.grad(lambda p: loss.risk(p, STATE, BATCH, attacked, outer)[0]))(PARAMS)
    through = jax.jit(jax.grad(lambda p: loss(p, STATE, BATCH, KEY)[0]))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), through, constant)


@pytest.mark.slow
def test_adversarial_is_the_cross_entropy_at_the_attacked_images():
    loss = LOSSES["adversarial"]
    point = ATTACK(jax.random.split(KEY)[0], frozen(MODEL, PARAMS, STATE), BATCH.image, BATCH.label).x
    z = np.float64(MODEL.apply(PARAMS, STATE, point)[0])
    expected = -scipy.special.log_softmax(z, 1)[np.arange(B), BATCH.label].mean()
    np.testing.assert_allclose(loss(PARAMS, STATE, BATCH, KEY)[0], expected, rtol=1e-5)
    assert expected > standard(MODEL)(PARAMS, STATE, BATCH, KEY)[0]


@pytest.mark.slow
def test_half_adversarial_attacks_every_other_image():
    loss = LOSSES["half_adversarial"]
    point = np.asarray(BATCH.image).copy()
    inner, _ = jax.random.split(KEY)
    attack = compose.against(ASCENT, objectives.cross_entropy)
    point[1::2] = attack(inner, frozen(MODEL, PARAMS, STATE), BATCH.image[1::2], BATCH.label[1::2]).x
    z = np.float64(MODEL.apply(PARAMS, STATE, jnp.asarray(point))[0])
    each = -scipy.special.log_softmax(z, 1)[np.arange(B), BATCH.label]
    value, (_, metrics) = loss(PARAMS, STATE, BATCH, KEY)
    np.testing.assert_allclose(value, each.mean(), rtol=1e-5)
    right = z.argmax(1) == np.asarray(BATCH.label)
    np.testing.assert_allclose(
        [metrics["accuracy"], metrics["robust_accuracy"]], [right[::2].mean(), right[1::2].mean()]
    )


def test_trades_and_mart_are_their_formulas():
    for name, loss in (("trades", trades(MODEL, ASCENT, beta=2.0)), ("mart", mart(MODEL, ATTACK, beta=2.0))):
        point = loss.attack(PARAMS, STATE, BATCH, jax.random.split(KEY)[0])
        p, q = (
            scipy.special.softmax(np.float64(MODEL.apply(PARAMS, STATE, x)[0]), 1)
            for x in (BATCH.image, point)
        )
        rows, y = np.arange(B), np.asarray(BATCH.label)
        divergence = (p * np.log(p / q)).sum(1)
        rival = np.where(np.eye(K, dtype=bool)[y], 0, q).max(1)
        expected = {
            "trades": -np.log(p[rows, y]) + 2 * divergence,
            "mart": -np.log(q[rows, y]) - np.log(1 - rival) + 2 * divergence * (1 - p[rows, y]),
        }[name]
        np.testing.assert_allclose(loss(PARAMS, STATE, BATCH, KEY)[0], expected.mean(), rtol=1e-4)


def test_trades_runs_the_clean_images_once_more_as_the_authors_do():
    """A state that counts passes and remembers their order: clean and attacked, then clean again."""

    def apply(params, state, x, *, train=False, key=None):
        logits = MODEL.apply(params, STATE, x)[0]
        return logits, 10 * state + jnp.where((x == BATCH.image).all(), 1, 2) if train else state

    counting = Model(MODEL.init, apply, MODEL.features)
    (ours, (after, _)), (theirs, (thrice, _)) = (
        trades(counting, ASCENT, compat=compat)(PARAMS, jnp.int32(0), BATCH, KEY)
        for compat in (None, "official")
    )
    assert (int(after), int(thrice)) == (12, 121)
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)


def test_trades_attack_climbs_the_divergence_from_the_clean_prediction():
    loss = trades(MODEL, pgd(THREAT, steps=10, step_size=0.02))
    clean = MODEL.apply(PARAMS, STATE, BATCH.image)[0]
    point = loss.attack(PARAMS, STATE, BATCH, KEY)
    random = THREAT.sample(KEY, BATCH.image)
    found, drawn = (logit.kl(clean, MODEL.apply(PARAMS, STATE, x)[0]).mean() for x in (point, random))
    assert found > 2 * drawn


@pytest.mark.slow
def test_trades_gradient_flows_through_both_arguments():
    """With one side of the divergence cut, the gradient is another one."""
    loss = trades(MODEL, ASCENT, beta=1.0)
    point = loss.attack(PARAMS, STATE, BATCH, KEY)

    def both(p):
        clean, moved = (MODEL.apply(p, STATE, x)[0] for x in (BATCH.image, point))
        return logit.cross_entropy(clean, BATCH.label).mean() + logit.kl(clean, moved).mean()

    expected = jax.grad(both)(PARAMS)
    found = jax.grad(lambda p: loss.risk(p, STATE, BATCH, point, KEY)[0])(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)


def test_boosted_cross_entropy_survives_a_certain_rival():
    z = jnp.array([[-60.0, 60.0, 0.0]])
    value, grad = jax.value_and_grad(lambda a: boosted_cross_entropy(a, jnp.array([0])).sum())(z)
    np.testing.assert_allclose(value, 120 + 60, rtol=1e-6)
    assert np.isfinite(grad).all()


def test_attacks_see_evaluation_mode_and_the_risk_train_mode():
    for build, passes in ((lambda m: adversarial(m, ATTACK), 1), (lambda m: trades(m, ASCENT), 2)):
        calls: list[bool] = []
        build(spying(MODEL, calls))(PARAMS, STATE, BATCH, KEY)
        assert calls[-passes:] == [True] * passes and not any(calls[:-passes])


def test_awp_moves_kernels_against_training_by_their_relative_length():
    gamma = 0.05
    inner = adversarial(MODEL, ATTACK)
    seen = []

    def spied(params, state, batch, attacked, key):
        seen.append(params)
        return inner.risk(params, state, batch, attacked, key)

    value, _ = awp(AdversarialLoss(inner.attack, spied), gamma=gamma)(PARAMS, STATE, BATCH, KEY)
    assert value > inner(PARAMS, STATE, BATCH, KEY)[0]
    here, moved = jax.tree.leaves(PARAMS), jax.tree.leaves(seen[-1])
    for w, v in zip(here, moved, strict=True):
        length = np.linalg.norm(v - w) / np.linalg.norm(w)
        np.testing.assert_allclose(length, gamma if w.ndim > 1 else 0.0, rtol=1e-4)


def test_awp_with_gamma_zero_is_the_wrapped_loss():
    inner = adversarial(MODEL, ATTACK)
    np.testing.assert_allclose(
        awp(inner, gamma=0.0)(PARAMS, STATE, BATCH, KEY)[0], inner(PARAMS, STATE, BATCH, KEY)[0], rtol=1e-6
    )


@pytest.mark.slow
def test_free_replays_are_sign_ascent_in_delta_and_descent_in_the_network():
    """Two replays written out by hand."""
    eps, rate = 0.1, 0.5
    threat = Threat("linf", eps)
    model = parameters(MODEL, shape=BATCH.image.shape)
    tx = optimizer(optax.sgd(rate), threat, step_size=0.07)
    state = training.start(KEY, model, tx)
    update = training.step(free(MODEL), tx)
    params, delta = jax.tree.map(jnp.copy, state.params)

    def risk(p, d):
        z, _ = MODEL.apply(p, STATE, jnp.clip(BATCH.image + d, 0, 1))
        return logit.cross_entropy(z, BATCH.label).mean()

    for _ in range(2):
        state, _ = update(state, BATCH)
        g_p, g_d = jax.grad(risk, (0, 1))(params, delta)
        params = jax.tree.map(lambda w, g: w - rate * g, params, g_p)
        delta = jnp.clip(delta + 0.07 * jnp.sign(g_d), -eps, eps)
    np.testing.assert_allclose(state.params.delta, delta, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params.network, params)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: standard(MODEL, smoothing=1.5), "standard: smoothing is 1.5"),
        (lambda: adversarial(MODEL, ATTACK, smoothing=-0.1), "adversarial: smoothing is -0.1"),
        (lambda: trades(MODEL, ASCENT, beta=-1.0), "trades: beta is -1.0"),
        (lambda: trades(MODEL, ASCENT, compat="authors"), "trades: compat is 'authors'"),  # pyright: ignore
        (lambda: mart(MODEL, ATTACK, beta=-1.0), "mart: beta is -1.0"),
        (lambda: awp(adversarial(MODEL, ATTACK), gamma=-1.0), "awp: gamma is -1.0"),
    ],
)
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
