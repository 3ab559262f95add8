"""Bounds: exact on affine functions, sound against attacks on others, monotone, and as tight as can be in the small."""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import logit
from robustjax.attacks import compose, objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.bounds import confidence
from robustjax.bounds.enclosure import differences, enclose
from robustjax.losses import confidences
from robustjax.models import small
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import avg_pool
from robustjax.numerics import Norm
from robustjax.ood.metrics import auroc
from robustjax.threats import Threat
from robustjax.types import frozen

RNG = np.random.default_rng(0)
DUAL: dict[Norm, Callable] = {
    "linf": lambda w: np.abs(w).sum(-1),
    "l2": lambda w: np.sqrt((w * w).sum(-1)),
    "l1": lambda w: np.abs(w).max(-1),
}


def images(*shape, low=0.0, high=1.0):
    return jnp.asarray(RNG.uniform(low, high, size=shape), jnp.float32)


@pytest.mark.parametrize("norm", DUAL)
def test_a_linear_network_is_bounded_exactly(norm):
    mean, std = [0.3, 0.4], [0.2, 0.5]
    model = small.linear(classes=3, shape=(3, 4, 2), mean=mean, std=std)
    params, state = model.init(jax.random.key(0))
    x = images(5, 3, 4, 2, low=0.3, high=0.7)
    eps = 0.07  # the box stays out of reach
    got = differences(frozen(model, params, state), Threat(norm, eps), x)
    kernel, bias = (np.asarray(params["head"][k], np.float64) for k in ("kernel", "bias"))
    flat = ((np.asarray(x, np.float64) - mean) / std).reshape(5, -1)
    logits = flat @ kernel + bias
    weight = kernel.T / np.tile(std, 12)
    reach = eps * DUAL[norm](weight[:, None] - weight)
    np.testing.assert_allclose(got, logits[:, :, None] - logits[:, None] + reach, rtol=1e-5, atol=1e-5)
    outputs = enclose(frozen(model, params, state), Threat(norm, eps), x)
    np.testing.assert_allclose(outputs.high, logits + eps * DUAL[norm](weight), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs.low, logits - eps * DUAL[norm](weight), rtol=1e-5, atol=1e-5)


def test_the_box_cuts_a_linear_bound_exactly():
    w = RNG.normal(size=(6, 2))
    x = np.array([[0.0, 0.05, 0.5, 0.95, 1.0, 0.2]])
    low, high = np.maximum(x - 0.1, 0), np.minimum(x + 0.1, 1)
    corners = np.array([np.where(pick, high, low)[0] for pick in itertools.product([0, 1], repeat=6)])
    got = enclose(lambda z: z @ jnp.asarray(w, jnp.float32), Threat("linf", 0.1), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got.high[0], (corners @ w).max(0), rtol=1e-5)
    np.testing.assert_allclose(got.low[0], (corners @ w).min(0), rtol=1e-5)


class Everything(nn.Module):
    """A residual network with BatchNorm, both poolings, padding and concatenation."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.Conv(4, (3, 3), padding="SAME")(x)
        h = nn.relu(nn.BatchNorm(use_running_average=not train)(h))
        h = jnp.concatenate([h, nn.tanh(nn.Conv(4, (3, 3), padding="SAME")(h)) + h], axis=-1)
        h = nn.max_pool(h, (2, 2), (2, 2))
        h = avg_pool(h, 2) - 0.1 * jax.lax.reduce_window(
            h, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
        )
        h = h.mean(axis=(1, 2))
        return nn.Dense(4)(nn.relu(-nn.Dense(6)(h)) / 2.0)


NETWORKS = {
    "linear": small.linear(classes=4, shape=(8, 8, 1)),
    "mlp": small.mlp(classes=4, shape=(8, 8, 1), widths=(12, 8), mean=[0.4], std=[0.3]),
    "convnet_small": small.convnet_small(classes=4, shape=(8, 8, 1), mean=[0.4], std=[0.3]),
    "convnet": small.convnet(classes=4, shape=(8, 8, 1)),
    "everything": from_flax(Everything(), shape=(8, 8, 1)),
}
CERTIFIED: dict = {}


def drawn(name, seed):
    params, state = NETWORKS[name].init(jax.random.key(seed))
    grow = 1.0 if name == "convnet" else 2.0  # steeper than at first
    return jax.tree.map(lambda w: grow * w if w.ndim > 1 else w, params), state


def attacked(name, norm):
    """Compile: a random network, attacks on it and its certificates; seed and radius are traced."""

    def run(seed, eps):
        x = jax.random.uniform(jax.random.key(seed + 1), (4, 8, 8, 1))
        x = jnp.where(x > 0.8, 1.0, jnp.where(x < 0.2, 0.0, x))  # the box matters
        key = jax.random.key(seed + 2)
        logits_fn = frozen(NETWORKS[name], *drawn(name, seed))
        threat = Threat(norm, eps)
        sure = confidences.over(logit.log_confidence, logits_fn)
        climb = pgd(threat, steps=10, step_size=eps / 3, start=at_origin)
        up = [climb(key, sure, x).value]
        down = logit.log_confidence(logits_fn(x))
        if name == "mlp":  # these compile for long on larger ones
            up.append(apgd(threat, steps=12)(key, sure, x).value)
            down = -climb(key, lambda z: -sure(z), x).value
        between = differences(logits_fn, threat, x)
        return (
            jnp.stack(up),
            down,
            confidence.log_confidence(between),
            between,
            enclose(logits_fn, threat, x),
            logits_fn(x),
            logits_fn(threat.sample(key, x)),
        )

    if (name, norm) not in CERTIFIED:
        CERTIFIED[name, norm] = jax.jit(run)
    return lambda seed, eps: jax.tree.map(np.asarray, CERTIFIED[name, norm](seed, eps))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, norm",
    [
        *(("mlp", "linf"), ("mlp", "l1"), ("convnet_small", "l2")),
        *(("convnet", "linf"), ("everything", "linf")),
    ],
)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.0, 0.003, 0.03, 0.3]))
def test_no_attack_leaves_the_bounds(name, norm, seed, eps):
    up, down, bound, between, outputs, logits, inside = attacked(name, norm)(seed, eps)
    slack = 1e-4 * (1 + np.abs(between).max())
    assert (up <= bound.high + slack).all()
    assert (down >= bound.low - slack).all()
    for z in (logits, inside):
        assert (outputs.low <= z + slack).all() and (z <= outputs.high + slack).all()
        assert (z[:, :, None] - z[:, None] <= between + slack).all()
    # Taking the shared part off first is never worse than the difference of bounds.
    assert (between <= outputs.high[:, :, None] - outputs.low[:, None] + slack).all()
    if eps == 0:
        clean = z_confidence(logits)
        np.testing.assert_allclose(bound.high, clean, atol=1e-4)
        np.testing.assert_allclose(bound.low, clean, atol=1e-4)
        np.testing.assert_allclose(outputs.high, logits, atol=1e-4)
        np.testing.assert_allclose(outputs.low, logits, atol=1e-4)


def z_confidence(z):
    return z.max(-1) - scipy.special.logsumexp(z, axis=-1)


@pytest.mark.slow
def test_bounds_widen_with_the_radius_and_between_norms():
    params, state = drawn("convnet_small", 0)
    x = images(3, 8, 8, 1)
    logits_fn = frozen(NETWORKS["convnet_small"], params, state)
    radii = jnp.asarray([0.0, 0.001, 0.01, 0.1, 0.5, 1.0])

    @jax.jit
    def over(radii):
        sweep = lambda norm: jax.vmap(lambda e: differences(logits_fn, Threat(norm, e), x))(radii)
        return sweep("linf"), sweep("l2"), sweep("l1")

    linf, l2, l1 = over(radii)
    for wide in (linf, l2, l1):
        assert (jnp.diff(wide, axis=0) >= -1e-4).all()
    assert (l1 <= l2 + 1e-4).all() and (l2 <= linf + 1e-4).all()
    assert (l2[3] < linf[3] - 0.1).any()  # dual norms are worth their price
    np.testing.assert_allclose(
        linf[-1], jnp.broadcast_to(linf[-1, :1], linf[-1].shape), atol=1e-3
    )  # the whole box


@pytest.mark.slow
def test_each_example_may_have_its_own_radius():
    params, state = drawn("mlp", 1)
    logits_fn = frozen(NETWORKS["mlp"], params, state)
    x = images(3, 8, 8, 1)
    radii = [0.0, 0.05, 0.2]
    f = jax.jit(lambda eps, x: differences(logits_fn, Threat("l2", eps), x))
    apart = [f(jnp.float32(e), x[i : i + 1])[0] for i, e in enumerate(radii)]
    np.testing.assert_allclose(f(jnp.asarray(radii), x), jnp.stack(apart), atol=1e-5)


def test_one_hidden_unit_per_feature_is_bounded_tightly():
    """Where hidden units read different features their intervals are independent, and the bound is the maximum."""
    w, v, b = RNG.normal(size=6), RNG.normal(size=(6, 3)), RNG.normal(size=6) * 0.1
    x = RNG.uniform(0.2, 0.8, size=(4, 6))
    f = lambda z, np=np: np.maximum(z * w + b, 0) @ v
    kernels = [jnp.asarray(a, jnp.float32) for a in (w, b, v)]
    got = differences(
        lambda z: jax.nn.relu(z * kernels[0][None] + kernels[1][None]) @ kernels[2],
        Threat("linf", 0.15),
        jnp.asarray(x, jnp.float32),
    )
    corners = np.array(list(itertools.product([-0.15, 0.15], repeat=6)))
    values = f(
        x[:, None] + corners
    )  # a difference of logits is monotone in each feature: its extremes are corners
    spread = (values[..., :, None] - values[..., None, :]).max(axis=1)
    np.testing.assert_allclose(got, spread, rtol=1e-4, atol=1e-5)


def test_a_tiny_network_against_brute_force():
    """The certified confidence is above that of every point of a fine grid, and by less than a few per cent."""
    w, v = np.array([[1.0, -0.6, 0.4], [0.5, 0.9, -1.2]]), RNG.normal(size=(3, 3))
    f = lambda z: jax.nn.relu(z @ jnp.asarray(w, jnp.float32)) @ jnp.asarray(v, jnp.float32)
    x = jnp.asarray([[0.3, 0.6]])
    side = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    balls: dict[Norm, np.ndarray] = {"linf": np.ones(len(grid), bool), "l2": (grid**2).sum(-1) <= 1}
    for norm, allowed in balls.items():
        threat = Threat(norm, 0.05)
        true = logit.log_confidence(f(jnp.asarray(x + 0.05 * grid[allowed], jnp.float32))).max()
        bound = jax.jit(confidence.highest_msp(f, threat))(x)[0]
        assert true <= bound + 1e-6
        assert bound - true < 0.05


def test_confidence_from_differences_of_known_logits():
    """At radius zero the bounds are the functions of logits; with room they are the extremes over free logits."""
    z = RNG.normal(size=(5, 4))
    exact = jnp.asarray(z[:, :, None] - z[:, None], jnp.float32)
    bound = confidence.log_confidence(exact)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(bound.low, np.log(p.max(-1)), rtol=1e-5)
    np.testing.assert_allclose(bound.high, np.log(p.max(-1)), rtol=1e-5)
    top = np.sort(z, axis=-1)
    np.testing.assert_allclose(confidence.lead(exact).low, top[:, -1] - top[:, -2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(confidence.lead(exact).high, top[:, -1] - top[:, -2], rtol=1e-5, atol=1e-6)
    label = jnp.asarray([0, 1, 2, 3, 0])
    np.testing.assert_allclose(
        confidence.margin(exact, label),
        logit.margin(jnp.asarray(z, jnp.float32), label),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(confidence.widest(exact), top[:, -1] - top[:, 0], rtol=1e-5)
    # Logits free within +-r of their own: the extremes are corners.
    r = 0.3
    corners = z[:, None] + r * np.array(list(itertools.product([-1, 1], repeat=4)))
    free = exact + 2 * r * (1 - jnp.eye(4))[None]
    highest = (corners - np.log(np.exp(corners).sum(-1, keepdims=True))).max(-1)
    np.testing.assert_allclose(confidence.log_confidence(free).high, highest.max(-1), rtol=1e-5)
    assert (confidence.log_confidence(free).low <= highest.min(-1) + 1e-6).all()


@pytest.mark.slow
def test_attacked_true_and_guaranteed_auroc_are_in_order():
    params, state = drawn("mlp", 3)
    logits_fn = frozen(NETWORKS["mlp"], params, state)
    data, outliers = images(30, 8, 8, 1), 0.5 + 0.1 * images(30, 8, 8, 1)
    threat = Threat("linf", 0.01)
    score = confidences.over(logit.log_confidence, logits_fn)
    search = compose.restarts(pgd(threat, steps=10, step_size=0.003), 2)
    found = jax.jit(lambda x: search(jax.random.key(0), score, x).value)(outliers)
    upper = jax.jit(confidence.highest_msp(logits_fn, threat))(outliers)
    lower = jax.jit(confidence.lowest_msp(logits_fn, threat))(data)
    inside = score(data)
    assert (lower <= inside + 1e-5).all()
    gauc = confidence.guaranteed_auroc(inside, upper)
    assert (
        confidence.guaranteed_auroc(lower, upper)
        <= gauc
        <= auroc(inside, found)
        <= auroc(inside, score(outliers))
    )
    pairs = np.asarray(inside)[:, None] > np.asarray(upper)
    assert gauc == pytest.approx(pairs.mean())


def test_bounds_under_every_transformation(variant):
    params, state = drawn("mlp", 2)
    x = jnp.asarray(np.random.default_rng(5).uniform(size=(4, 8, 8, 1)), jnp.float32)
    f = confidence.highest_msp(frozen(NETWORKS["mlp"], params, state), Threat("l2", 0.1))
    np.testing.assert_allclose(variant(f)(x), jax.jit(f)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_bounds_are_those_of_differences():
    """Weights move by little in a random direction; l2, whose first layer is a sum over columns."""
    model = NETWORKS["convnet_small"]
    params, state = model.init(jax.random.key(4))
    x = images(2, 8, 8, 1)

    @jax.jit
    def value(params):
        return differences(lambda z: model.apply(params, state, z)[0], Threat("l2", 0.2), x).sum()

    direction = jax.tree.map(lambda w: jnp.asarray(RNG.normal(size=w.shape), jnp.float32), params)
    slope = jax.jit(jax.grad(value))(params)
    along = sum(
        float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(direction), strict=True)
    )
    ahead, behind = (
        float(value(jax.tree.map(lambda w, d, s=s: w + s * d, params, direction))) for s in (3e-4, -3e-4)
    )
    assert along == pytest.approx((ahead - behind) / 6e-4, rel=0.02)


@pytest.mark.parametrize(
    "fn, name",
    [
        (lambda x: jnp.sort(x, axis=-1), "sort"),
        (lambda x: jnp.where(x > 0.5, x, 0.1 * x), "gt"),
        (lambda x: jnp.cumprod(x, axis=-1), "cumprod"),
        (lambda x: x.astype(jnp.int32), "convert_element_type to int32"),
    ],
)
def test_unsupported_operations_are_named(fn, name):
    with pytest.raises(ValueError, match=f"bounds: {name} "):
        enclose(fn, Threat("linf", 0.1), images(2, 3, 3))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.abs(x - 0.4),
        lambda x: jnp.square(x - 0.4),
        lambda x: (x - 0.4) ** 3,
        lambda x: jnp.exp(-x) - jnp.log(x + 1.0),
        lambda x: (x - 0.5) * (1.0 - x),
        lambda x: 1.0 / (x + 0.3),
        lambda x: (x[:, None] @ x[..., None])[:, 0],
        lambda x: jnp.clip(3.0 * x, 0.2, 0.7)[:, ::-1],
        lambda x: jnp.pad(x, ((0, 0), (1, 1))) * jnp.asarray([[1.0, -2.0, 3.0, 0.0, -1.0]]),
        lambda x: jnp.tile(jnp.stack([x, -2.0 * x], axis=1), (1, 2, 1)),
        lambda x: jnp.ones_like(x),
        lambda x: jax.checkpoint(jax.jit(jax.nn.relu))(x - 0.5),
    ],
)
def test_single_operations_against_a_grid(fn):
    """Sound on all of a grid, and exact where only one operation reads each feature."""
    x = jnp.asarray([[0.1, 0.35, 0.6], [0.4, 0.9, 1.0]])
    got = enclose(fn, Threat("linf", 0.2), x)
    steps = np.linspace(-0.2, 0.2, 81)
    values = np.stack([fn(jnp.clip(x + s, 0.0, 1.0)) for s in steps.astype(np.float32)])
    assert (got.low <= values.min(0) + 1e-6).all() and (got.high >= values.max(0) - 1e-6).all()


def test_nothing_is_known_of_a_division_by_what_may_be_zero():
    got = enclose(lambda x: 1.0 / (x - 0.5), Threat("linf", 0.2), jnp.asarray([[0.1, 0.4]]))
    np.testing.assert_allclose(got.low, [[-5.0, -np.inf]], rtol=1e-6)
    np.testing.assert_allclose(got.high, [[-2.0, np.inf]], rtol=1e-6)


def test_a_square_is_exact_across_zero():
    got = enclose(lambda x: jnp.square(x - 0.4), Threat("linf", 0.2), jnp.asarray([[0.3, 0.9]]))
    np.testing.assert_allclose(got.low, [[0.0, 0.09]], atol=1e-6)
    np.testing.assert_allclose(got.high, [[0.09, 0.36]], atol=1e-6)


@pytest.mark.slow
def test_certified_margins_say_who_stands():
    params, state = drawn("mlp", 5)
    logits_fn = frozen(NETWORKS["mlp"], params, state)
    x = images(16, 8, 8, 1)
    label = logits_fn(x).argmax(-1)
    threat = Threat("linf", 0.01)
    bound = confidence.margin(jax.jit(lambda x: differences(logits_fn, threat, x))(x), label)
    attack = compose.against(pgd(threat, steps=20, step_size=0.003), objectives.margin)
    found = jax.jit(lambda x, label: attack(jax.random.key(0), logits_fn, x, label))(x, label)
    assert (found.value <= bound + 1e-4).all()
    assert 0 < (bound < 0).sum() < 16


@pytest.mark.slow
def test_what_has_no_bounds_is_refused_in_one_line():
    """Points outside the box would be bounded over an empty set: differences below their true values."""
    x, ball = images(2, 4), Threat("linf", 0.1)
    linear = lambda z: z @ jnp.arange(12.0).reshape(4, 3)
    between = differences(linear, ball, x)
    for call, says in (
        (lambda: differences(linear, ball, 255 * x), "must lie in the box"),
        (lambda: differences(linear, ball, x.at[0, 0].set(jnp.nan)), "not finite"),
        (lambda: differences(linear, ball, (255 * x).astype(jnp.uint8)), "must be floats"),
        (lambda: enclose(linear, ball, x[:0]), "at least one point"),
        (lambda: enclose(linear, "linf", x), "must be a robustjax.Threat"),
        (lambda: differences(None, ball, x), "network is a NoneType"),
        (lambda: differences(lambda z: linear(z)[:, :1], ball, x), "at least two classes"),
        (lambda: confidence.margin(between, jnp.asarray([0, 3])), "must be below the 3 logits"),
        (lambda: confidence.margin(between, jnp.asarray([-1, 0])), "smallest label is -1"),
        (lambda: confidence.margin(between, jnp.asarray([0.0, 1.0])), "labels are float32"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)
