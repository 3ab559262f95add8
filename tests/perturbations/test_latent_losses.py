"""Losses of pixels sent through a set: the pixels' own where that is the set, else closed forms on linear decoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from toys import K, Linear

from robustjax import numerics
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.losses.consistency import consistency
from robustjax.losses.macer import macer
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.smoothmix import smoothmix
from robustjax.losses.stability import stability
from robustjax.perturbations import sets
from robustjax.perturbations.learned import learned
from robustjax.smoothing.noise import white
from robustjax.threats import Threat
from robustjax.types import Batch, Model

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(6, 4, 5, 1)), jnp.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
BATCH = Batch(X, jnp.asarray(Y))
WEIGHT = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32)


def apply(params, state, x, *, train=False, key=None):
    return x.reshape(x.shape[0], -1) @ params, {"seen": state["seen"] + int(train)}


MODEL = Model(lambda key: (WEIGHT, {"seen": jnp.int32(0)}), apply, lambda *_: {})
STATE = {"seen": jnp.int32(0)}
WHOLE = sets.PerturbationSet(
    lambda key, x, u: x + u.reshape(x.shape), Threat("l2", 0.2, -jnp.inf, jnp.inf), 20
)


def outcome(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(WEIGHT, STATE, BATCH, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoothadv", "macer", "stability", "consistency", "smoothmix"])
def test_where_the_set_is_all_of_pixel_space_it_is_the_loss_of_pixels(name):
    ascent = pgd(WHOLE.threat, steps=3, step_size=0.1, start=at_origin)
    build = {
        "smoothadv": lambda net: smoothadv(net, ascent, sigma=0.3, samples=3),
        "macer": lambda net: macer(net, sigma=0.3, samples=4),
        "stability": lambda net: stability(net, white(0.3)),
        "consistency": lambda net: consistency(net, sigma=0.3, samples=3),
        "smoothmix": lambda net: smoothmix(
            net, sigma=0.3, samples=2, steps=3, step_size=0.1, lower=-np.inf, upper=np.inf
        ),
    }[name]
    own, lifted = outcome(build(MODEL)), outcome(sets.loss_through(WHOLE, MODEL, build))
    assert own[0][1][0]["seen"] == lifted[0][1][0]["seen"] == (2 if name == "smoothmix" else 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own, lifted)


@pytest.fixture(scope="module")
def linear():
    """Return the toy, its ball of radius 1.5, and in float64 the logits at u = 0 and their slope in u."""
    toy = Linear(count=400)
    weight = np.asarray(WEIGHT, np.float64)
    logits = np.asarray(X, np.float64).reshape(6, -1) @ weight
    return learned(toy.model(), toy.params, {}, radius=1.5), logits, toy.weight.T @ weight


def test_smoothadv_in_latents_ends_at_the_edge_of_the_ball(linear):
    space, logits, slope = linear
    two = BATCH._replace(label=jnp.asarray(Y % 2))
    # Of two classes, with next to no noise, the worst u is known: against the difference of the classes.
    ascent = pgd(space.threat, steps=20, step_size=0.3, start=at_origin)
    net = MODEL._replace(apply=lambda *a, **k: (apply(*a, **k)[0][:, :2], STATE))
    loss = sets.loss_through(space, net, lambda net: smoothadv(net, ascent, sigma=1e-4, samples=2))
    value, _ = jax.jit(loss)(WEIGHT, STATE, two, KEY)
    side = np.where(Y % 2 == 0, 1, -1)
    margin = side * (logits[:, 0] - logits[:, 1]) - 1.5 * np.linalg.norm(slope[:, 0] - slope[:, 1])
    np.testing.assert_allclose(value, np.logaddexp(0, -margin).mean(), rtol=1e-3)


def test_macer_in_latents_is_its_formula_with_the_noise_that_logits_have(linear):
    space, logits, slope = linear
    sigma, samples, weight, gamma, beta = 1.0, 20_000, 3.0, 8.0, 1.0
    loss = sets.loss_through(
        space, MODEL, lambda net: macer(
            net, sigma=sigma, samples=samples, weight=weight, gamma=gamma, inverse_temperature=beta)
    )  # fmt: skip
    value, (_, metrics) = jax.jit(loss)(WEIGHT, STATE, BATCH, KEY)
    # Noise of our own: what is compared are averages over it.
    noise = RNG.normal(size=(samples, K)) * sigma
    each = logits[:, None] + (noise @ slope)[None]
    p = special.softmax(each, axis=2).mean(axis=1)
    risk, total = -np.log(p[np.arange(6), Y]).mean(), 0.0
    for i in range(6):
        second, first = np.sort(p[i])[-2:]
        xi = stats.norm.ppf(first) - stats.norm.ppf(second)
        total += weight * sigma / 2 * max(gamma - xi, 0) * (p[i].argmax() == Y[i]) / 6
    np.testing.assert_allclose(metrics["risk"], risk, rtol=1e-2)
    assert total > 0.05
    np.testing.assert_allclose(value, risk + total, rtol=1e-2)


def test_consistency_in_latents_is_its_formula_with_the_noise_that_logits_have(linear):
    space, logits, slope = linear
    sigma, samples, weight, unsure = 1.0, 20_000, 2.0, 0.5
    loss = sets.loss_through(
        space, MODEL, lambda net: consistency(
            net, sigma=sigma, samples=samples, weight=weight, entropy_weight=unsure)
    )  # fmt: skip
    value, _ = jax.jit(loss)(WEIGHT, STATE, BATCH, KEY)
    each = logits[:, None] + (RNG.normal(size=(samples, K)) * sigma @ slope)[None]
    log_p = special.log_softmax(each, axis=2)
    mean = np.exp(log_p).mean(axis=1)
    risk = -log_p[np.arange(6), :, Y].mean()
    divergence = (mean[:, None] * (np.log(mean)[:, None] - log_p)).sum(axis=2).mean()
    entropy = special.entr(mean).sum(axis=1).mean()
    np.testing.assert_allclose(value, risk + weight * divergence + unsure * entropy, rtol=1e-2)


def test_an_image_meets_its_own_latents_and_key_however_many_rows_it_has():
    def decode(key, ready, u):
        return ready * 100 + u + jax.vmap(lambda k: jax.random.uniform(k, (1,)))(key)

    space = sets.PerturbationSet(decode, Threat("l2", 1.0), 1, lambda x: x.mean(axis=(1, 2)))
    bare = MODEL._replace(apply=lambda params, state, x, **_: (x, state))

    def build(net):
        def loss(params, state, batch, key):
            u = jnp.arange(18.0)[:, None]
            first = net.apply(params, state, u)[0].reshape(6, 3)
            packed = net.apply(params, state, numerics.pack(batch.image, batch.image))[0]
            return jnp.float32(0), (
                state,
                {"three": first, "one": net.apply(params, state, batch.image)[0], "two": packed},
            )

        return loss

    seen = sets.loss_through(space, bare, build)(WEIGHT, STATE, BATCH, KEY)[1][1]
    middle = np.asarray(seen["one"])
    np.testing.assert_allclose(seen["three"], middle + np.arange(18.0).reshape(6, 3), rtol=1e-6)
    np.testing.assert_array_equal(numerics.unpack(seen["two"])[1], middle)
    drawn = middle[:, 0] - 100 * np.asarray(X).mean(axis=(1, 2))[:, 0]
    assert ((drawn > -1e-3) & (drawn < 1.001)).all() and len(np.unique(drawn.round(3))) > 3
