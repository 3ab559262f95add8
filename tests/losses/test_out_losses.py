"""Every loss on ID and OOD images: the contract, the published formula in numpy, and what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import NamedSharding, PartitionSpec

from robustjax import numerics
from robustjax.attacks import compose, objectives
from robustjax.attacks.half_batch import half_batch
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.acet import acet
from robustjax.losses.adversarial import adversarial
from robustjax.losses.aloe import aloe, aoe
from robustjax.losses.atom import atom, informative, ntom, rejection
from robustjax.losses.id_and_ood import two_sided
from robustjax.losses.oe import oe
from robustjax.losses.ratio import half_ratio, ratio
from robustjax.losses.rowl import rowl, wrong_labels
from robustjax.losses.sofl import pseudo_labels, sofl
from robustjax.losses.trades import trades
from robustjax.losses.trades_out import trades_acet, trades_ceda
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair, frozen

SHAPE, K, N, M = (3, 3, 1), 4, 8, 16
RNG = np.random.default_rng(0)


def images(count):
    return jnp.asarray(RNG.uniform(size=(count, *SHAPE)), jnp.float32)


BATCH = Pair(Batch(images(N), jnp.asarray(RNG.integers(0, K - 1, N), jnp.int32)), images(M))
Y = np.asarray(BATCH.id.label)
MODEL = small.mlp(classes=K, shape=SHAPE, widths=(12,))
PARAMS, STATE = MODEL.init(jax.random.key(0))
KEY = jax.random.key(1)
THREAT = Threat("linf", 0.1)
WIDE = dataclasses.replace(THREAT, eps=0.2)
ASCENT = pgd(THREAT, steps=2, step_size=0.02)
OUTER = pgd(WIDE, steps=2, step_size=0.02, start=at_origin)  # compiles faster than a random start
ATTACK = compose.against(ASCENT, objectives.cross_entropy)
FIXED = compose.against(pgd(THREAT, steps=2, step_size=0.02, start=at_origin), objectives.cross_entropy)

LOSSES = {
    "oe": oe(MODEL),
    "ceda of 2019": oe(MODEL, weight=1.0, penalty=confidences.log_confidence),
    "acet": acet(MODEL, OUTER),
    "acet beside atom": acet(MODEL, half_batch(OUTER), penalty=confidences.ce_to_uniform),
    "ratio": ratio(MODEL, FIXED, OUTER),
    "ratio climbing confidence": ratio(MODEL, FIXED, OUTER, ood_surrogate=confidences.log_confidence),
    "half_ratio": half_ratio(MODEL, FIXED, OUTER),
    "aloe": aloe(MODEL, ATTACK, OUTER),
    "aoe": aoe(MODEL, ATTACK),
    "trades_acet": trades_acet(MODEL, ASCENT, OUTER),
    "trades_ceda": trades_ceda(MODEL, ASCENT, pgd(WIDE, steps=2, step_size=0.02)),
    "ntom": ntom(MODEL),
    "atom": atom(MODEL, half_batch(OUTER)),
    "rowl": rowl(MODEL, ASCENT),
    "sofl": sofl(MODEL, classes=K - 1),
}
METRICS = {
    "half_ratio": {"risk", "excess", "accuracy", "robust_accuracy"},
    "trades_acet": {"risk", "divergence", "excess", "accuracy", "robust_accuracy"},
    "trades_ceda": {"risk", "divergence", "excess", "ood_divergence", "accuracy", "robust_accuracy"},
    "rowl": {"risk", "robust_risk", "accuracy", "robust_accuracy"},
    "sofl": {"risk", "excess", "accuracy", "rejected"},
}
RANDOM = {
    "aloe",
    "aoe",
    "trades_acet",
    "trades_ceda",
    "rowl",
}  # what starts its attacks at random; RATIO does not
COMPILED: dict = {}


def slope(name):
    if name not in COMPILED:
        COMPILED[name] = jax.jit(jax.value_and_grad(LOSSES[name], has_aux=True))
    return COMPILED[name]


def probabilities(x):
    return scipy.special.softmax(np.float64(MODEL.apply(PARAMS, STATE, jnp.asarray(x))[0]), 1)


def own(p, y):
    return p[np.arange(len(p)), np.asarray(y)]


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name):
    """A finite scalar, named metrics, the state's structure kept, one answer per key, a gradient that descends."""
    (value, (state, metrics)), grads = slope(name)(PARAMS, STATE, BATCH, KEY)
    assert value.shape == () and np.isfinite(value)
    assert jax.tree.structure(state) == jax.tree.structure(STATE)
    attacked = name.split()[0] in ("ratio", "aloe", "aoe")
    default = {"risk", "excess", "robust_accuracy" if attacked else "accuracy"}
    assert set(metrics) == METRICS.get(name, default)
    assert all(m.shape == () and np.isfinite(m) for m in metrics.values())
    assert slope(name)(PARAMS, STATE, BATCH, KEY)[0][0] == value
    moved = jax.tree.map(lambda w, g: w - 0.01 * g, PARAMS, grads)
    assert slope(name)(moved, STATE, BATCH, KEY)[0][0] < value
    other = slope(name)(PARAMS, STATE, BATCH, jax.random.key(2))[0][0]
    assert (other != value) == (name in RANDOM)


def formulas(name, point):
    """The loss in numpy, at the images that the attack found."""
    if name == "rowl":
        u = np.concatenate([BATCH.id.image, BATCH.ood])
        v = np.concatenate([Y, np.full(M, K - 1)])
        first, second = numerics.unpack(point, (N, M))
        attacked = np.concatenate([first, second])
        return (-np.log(own(probabilities(u), v)) - np.log(own(probabilities(attacked), v))).mean()
    moved, ood = point
    p, q = probabilities(moved), probabilities(ood)
    ce, to_uniform = -np.log(own(p, Y)).mean(), -np.log(q).mean()
    kl = to_uniform - np.log(K)
    if name.startswith("trades"):
        clean, strange = probabilities(BATCH.id.image), probabilities(BATCH.ood)
        data = -np.log(own(clean, Y)).mean() + 6 * (clean * np.log(clean / p)).sum(1).mean()
        stable = -np.log(strange).mean() - np.log(K) + 6 * (strange * np.log(strange / q)).sum(1).mean()
        return 0.5 * data + 0.5 * (kl if name == "trades_acet" else stable)
    return {
        "oe": ce + 0.5 * kl,
        "ceda of 2019": ce + np.log(q.max(1)).mean(),
        "acet": ce + np.log(q.max(1)).mean(),
        "acet beside atom": ce + to_uniform,
        "ratio": 0.5 * ce + 0.5 * kl,
        "ratio climbing confidence": 0.5 * ce + 0.5 * kl,
        "half_ratio": 0.5 * (-np.log(own(p, Y)))[::2].mean()
        + 0.5 * (-np.log(own(p, Y)))[1::2].mean()
        + 0.5 * kl,
        "aloe": ce + 0.5 * to_uniform,
        "aoe": ce + 0.5 * to_uniform,
        "ntom": ce - np.log(q[:, -1]).mean(),
        "atom": ce - np.log(q[:, -1]).mean(),
    }[name]


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "sofl"])
def test_value_is_the_published_formula(name):
    """And every image lies where it must: clean where the paper has it clean, moved where it is attacked."""
    inner, _ = jax.random.split(KEY)
    point = jax.jit(LOSSES[name].attack)(PARAMS, STATE, BATCH, inner)
    np.testing.assert_allclose(slope(name)(PARAMS, STATE, BATCH, KEY)[0][0], formulas(name, point), rtol=2e-5)
    if name == "rowl":
        return
    for x, found, radius in ((BATCH.id.image, point[0], 0.1), (BATCH.ood, point[1], 0.2)):
        moved = np.abs(np.float64(found) - np.float64(x)).max(axis=(1, 2, 3))
        kind = name.split()[0]
        inside = x is BATCH.id.image
        clean = kind in (("oe", "ceda", "acet", "ntom", "atom") if inside else ("oe", "ceda", "ntom", "aoe"))
        half = kind == "half_ratio" if inside else name in ("atom", "acet beside atom")
        free = (np.arange(len(x)) % (2 if half else 1) == int(half)) & (not clean)
        assert (moved <= radius + 1e-6).all()
        assert ((moved > 0) == free).all()


def test_no_gradient_flows_through_the_attacks():
    """The gradient equals that of the formula at the attacked images taken as constants, in jax for the formula."""
    inner, _ = jax.random.split(KEY)
    moved, ood = jax.jit(LOSSES["ratio"].attack)(PARAMS, STATE, BATCH, inner)

    def formula(p):
        log_p, log_q = (jax.nn.log_softmax(MODEL.apply(p, STATE, x)[0]) for x in (moved, ood))
        return -0.5 * (log_p[jnp.arange(N), BATCH.id.label].mean() + log_q.mean())

    _, grads = slope("ratio")(PARAMS, STATE, BATCH, KEY)
    expected = jax.jit(jax.grad(formula))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, expected)


def test_trades_gradients_flow_through_both_arguments_of_both_divergences():
    loss = LOSSES["trades_ceda"]
    point = jax.jit(loss.attack)(PARAMS, STATE, BATCH, KEY)

    def formula(p):
        rows = [BATCH.id.image, point[0], BATCH.ood, point[1]]
        log_p = [jax.nn.log_softmax(MODEL.apply(p, STATE, x)[0]) for x in rows]
        kl = [(jnp.exp(a) * (a - b)).sum(1).mean() for a, b in (log_p[:2], log_p[2:])]
        ce = -log_p[0][jnp.arange(N), BATCH.id.label].mean()
        return 0.5 * (ce + 6 * kl[0]) + 0.5 * (-log_p[2].mean() - np.log(K) + 6 * kl[1])

    found = jax.jit(jax.grad(lambda p: loss.risk(p, STATE, BATCH, point, KEY)[0]))(PARAMS)
    expected = jax.jit(jax.grad(formula))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.slow
def test_the_losses_contain_each_other():
    """With radius 0, or weight 0, one paper becomes another."""
    still = pgd(dataclasses.replace(THREAT, eps=0.0), steps=1, step_size=0.1, start=at_origin)
    calm = compose.against(still, objectives.cross_entropy)
    losses = {
        "oe": oe(MODEL, weight=1.0),
        "ratio, eps 0": ratio(MODEL, calm, still),
        "acet": acet(MODEL, OUTER, penalty=confidences.kl_from_uniform),
        "ratio, eps_in 0": ratio(MODEL, calm, OUTER),
        "ratio, lambda 0": ratio(MODEL, FIXED, OUTER, weight=0.0),
    }

    @jax.jit
    def values():
        alone = adversarial(MODEL, FIXED)(PARAMS, STATE, BATCH.id, KEY)[0]
        data = {
            "adversarial": alone,
            "trades, eps 0": trades(MODEL, still)(PARAMS, STATE, BATCH.id, KEY)[0],
        }
        return {k: f(PARAMS, STATE, BATCH, KEY)[0] for k, f in losses.items()} | data

    found = values()
    for part, whole in (
        ("ratio, eps 0", "oe"),
        ("ratio, eps_in 0", "acet"),
        ("ratio, lambda 0", "adversarial"),
    ):
        np.testing.assert_allclose(found[part], 0.5 * found[whole], rtol=1e-6)
    plain = -np.log(own(probabilities(BATCH.id.image), Y)).mean()
    np.testing.assert_allclose(found["trades, eps 0"], plain, rtol=1e-5)


def linear(w, b):
    """Two classes whose logits are w.x + b and 0."""

    def apply(params, state, x, *, train=False, key=None):
        m = x.reshape(x.shape[0], -1) @ params["w"] + params["b"]
        return jnp.stack([m, jnp.zeros_like(m)], 1), state

    params = {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
    return Model(lambda key: (params, None), apply, lambda *a: {}), params


def test_ratio_reaches_the_closed_form_on_a_linear_network():
    """The margin moves by eps |w|_2, towards the wrong class on ID images and away from zero on OOD images."""
    w = np.full(4, 1.0)  # |w|_2 = 2
    model, params = linear(w, -2.0)
    x = jnp.full((4, 2, 2, 1), 0.5).at[:, 0, 0, 0].add(jnp.array([0.35, 0.1, -0.2, -0.35]))
    m = np.array([0.35, 0.1, -0.2, -0.35])
    batch = Pair(Batch(x, jnp.array([0, 0, 1, 0], jnp.int32)), x)
    inside, outside = (
        pgd(Threat("l2", eps), steps=5, step_size=0.1, momentum=0.9, start=at_origin) for eps in (0.1, 0.2)
    )
    loss = ratio(model, compose.against(inside, objectives.cross_entropy), outside)
    value, (_, metrics) = jax.jit(loss.__call__)(params, None, batch, KEY)
    signed = np.array([1, 1, -1, 1]) * m
    np.testing.assert_allclose(metrics["risk"], np.log1p(np.exp(-(signed - 0.2))).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        metrics["excess"], (np.log(2 * np.cosh((np.abs(m) + 0.4) / 2)) - np.log(2)).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(value, 0.5 * (metrics["risk"] + metrics["excess"]), rtol=1e-6)


def test_attack_on_a_constant_network_stays_finite():
    """The gradient of the divergence is exactly zero where the prediction is uniform."""
    params = jax.tree.map(jnp.zeros_like, PARAMS)
    (value, _), grads = slope("ratio")(params, STATE, BATCH, KEY)
    np.testing.assert_allclose(value, 0.5 * np.log(K), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_eight_devices_agree_with_one_and_never_reshuffle():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put((PARAMS, STATE, KEY), NamedSharding(mesh, PartitionSpec()))
    run = slope("ratio").lower(everywhere[0], everywhere[1], cut, everywhere[2]).compile()
    (value, _), grads = run(everywhere[0], everywhere[1], cut, everywhere[2])
    (expected, _), slopes = slope("ratio")(PARAMS, STATE, BATCH, KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, slopes)
    assert "all-to-all" not in run.as_text() and "all-gather" not in run.as_text()


def test_ratio_costs_what_the_paper_counts(monkeypatch):
    """3 + 6 attack steps and one training pass: in forward passes (2 T_in + 1 + 3) n + (2 T_out + 1 + 3) m.

    An attack step is a forward and a backward pass without gradients of parameters, keeping the best iterate costs
    one more forward pass, and a training pass costs three. XLA counts the body of a loop once, so unroll it.
    """

    def unrolled(start, stop, body, carry):
        for i in range(start, stop):
            carry = body(i, carry)
        return carry

    width, t_in, t_out = 256, 3, 6
    model = small.mlp(classes=K, shape=(8, 8, 1), widths=(width, width))
    params, state = jax.eval_shape(model.init, KEY)
    threat = Threat("linf", 0.1)
    inside, outside = (
        pgd(threat, steps=t, step_size=0.1, momentum=0.9, start=at_origin) for t in (t_in, t_out)
    )
    loss = ratio(model, compose.against(inside, objectives.cross_entropy), outside)
    batch = Pair(
        Batch(jax.ShapeDtypeStruct((N, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((N,), jnp.int32)),
        jax.ShapeDtypeStruct((M, 8, 8, 1), jnp.float32),
    )
    monkeypatch.setattr(jax.lax, "fori_loop", unrolled)
    lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params, state, batch, KEY)
    forward = 2 * (64 * width + width * width + width * K)  # per image
    expected = forward * ((2 * t_in + 1 + 3) * N + (2 * t_out + 1 + 3) * M)
    cost = lowered.compile().cost_analysis()
    np.testing.assert_allclose(cost["flops"], expected, rtol=0.1)


def tracking(calls):
    """A network with a running mean of its inputs' mean, subtracted from them in evaluation mode, as BatchNorm does."""

    def apply(params, state, x, *, train=False, key=None):
        calls.append(train)
        mean = x.mean() if train else state
        logits, _ = MODEL.apply(params, STATE, x - mean)
        return logits, (0.9 * state + 0.1 * mean if train else state)

    return Model(MODEL.init, apply, MODEL.features)


def test_attacks_see_evaluation_mode_and_one_joint_pass_trains():
    for build in (
        lambda m: ratio(m, ATTACK, OUTER),
        lambda m: half_ratio(m, ATTACK, OUTER),
        lambda m: trades_ceda(m, ASCENT, OUTER),
        lambda m: atom(m, OUTER),
        lambda m: rowl(m, ASCENT),
    ):
        calls: list[bool] = []
        jax.eval_shape(build(tracking(calls)).__call__, PARAMS, jnp.float32(0.0), BATCH, KEY)
        assert calls[-1] and not any(calls[:-1])


@pytest.mark.parametrize(
    "batchnorm", [batchnorm_modes.running, batchnorm_modes.own_batch, batchnorm_modes.joint_batch]
)
def test_views_differ_by_the_statistics_alone_and_never_update_them(batchnorm):
    """The attack's network in closed form, and the state that only the training pass moved."""
    x, other, state = BATCH.id.image, BATCH.ood, jnp.float32(0.25)
    step = pgd(THREAT, steps=1, step_size=0.1, start=at_origin)
    model = tracking([])
    loss = aloe(model, compose.against(step), step, batchnorm=batchnorm)

    @jax.jit
    def run():
        seen = batchnorm(model, PARAMS, state, other, KEY)(x)
        return seen, loss.attack(PARAMS, state, BATCH, KEY), loss(PARAMS, state, BATCH, KEY)[1][0]

    seen, point, after = run()
    joint = (x.sum() + other.sum()) / (9 * (N + M))
    mean = {
        batchnorm_modes.running: state,
        batchnorm_modes.own_batch: x.mean(),
        batchnorm_modes.joint_batch: joint,
    }[batchnorm]
    np.testing.assert_allclose(seen, MODEL.apply(PARAMS, STATE, x - mean)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, 0.9 * 0.25 + 0.1 * np.concatenate(point).mean(), rtol=1e-5)


def test_every_other_row_stays_and_the_rest_move_as_in_the_whole_batch():
    objective = confidences.over(confidences.top, frozen(MODEL, PARAMS, STATE))
    whole, half = jax.jit(lambda x: [f(KEY, objective, x) for f in (ASCENT, half_batch(ASCENT))])(BATCH.ood)
    np.testing.assert_array_equal(half.x[::2], BATCH.ood[::2])
    np.testing.assert_allclose(half.x[1::2], whole.x[1::2], atol=1e-6)
    np.testing.assert_allclose(half.value, objective(half.x), rtol=1e-5)


def test_climbing_another_measure_than_the_one_trained_on():
    """An attack on confidence finds more of it than one on the divergence does, and the reverse."""
    outer = pgd(Threat("linf", 0.3), steps=20, step_size=0.05, start=at_origin)
    found = {}
    for ood_surrogate in (confidences.log_confidence, confidences.kl_from_uniform):
        loss = acet(MODEL, outer, ood_surrogate=ood_surrogate)
        z = MODEL.apply(PARAMS, STATE, jax.jit(loss.attack)(PARAMS, STATE, BATCH, KEY)[1])[0]
        found[ood_surrogate] = confidences.log_confidence(z).mean(), confidences.kl_from_uniform(z).mean()
    by_confidence, by_divergence = found.values()
    assert by_confidence[0] >= by_divergence[0] and by_divergence[1] >= by_confidence[1]
    assert by_confidence != by_divergence


def test_mining_selects_a_window_of_the_ascending_order():
    scores = np.random.default_rng(3).permutation(40).astype(np.float32)
    chosen = informative(jnp.asarray(scores), count=10, quantile=0.125)
    np.testing.assert_array_equal(scores[np.asarray(chosen)], np.arange(5, 15))


def test_rejection_never_saturates():
    z = jnp.array([[0.0, 0.0, 60.0], [0.0, 0.0, 90.0], [1.0, 2.0, 3.0]])
    odds = rejection(z)
    assert odds[1] > odds[0] + 29
    p = scipy.special.softmax(np.array([1.0, 2.0, 3.0]))[-1]
    np.testing.assert_allclose(odds[2], np.log(p / (1 - p)), rtol=1e-5)


def test_pseudo_labels_are_classes_of_ood_images_and_follow_the_prediction_there():
    z = jnp.asarray(np.random.default_rng(4).normal(size=(400, 6)), jnp.float32)
    labels = np.asarray(pseudo_labels(KEY, z, classes=4))
    predicted = np.asarray(z).argmax(1)
    assert set(labels) == {4, 5}
    assert (labels == predicted)[predicted >= 4].all()
    share = (labels[predicted < 4] == 5).mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt((predicted < 4).sum())


def test_sofl_is_its_formula():
    (value, (_, metrics)), _ = slope("sofl")(PARAMS, STATE, BATCH, KEY)
    p, q = probabilities(BATCH.id.image), probabilities(BATCH.ood)
    expected = (
        -np.log(own(p, Y)).mean() - 5 * np.log(q[:, -1]).mean()
    )  # one class of OOD images: nothing random
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(metrics["rejected"], (q.argmax(1) == K - 1).mean())


def test_wrong_labels_are_even_over_the_others():
    label = jnp.asarray(np.arange(3000) % 3, jnp.int32)
    target = np.asarray(wrong_labels(KEY, label, classes=3))
    assert (target != np.asarray(label)).all() and set(target) == {0, 1, 2}
    np.testing.assert_allclose(((target - np.asarray(label)) % 3 == 1).mean(), 0.5, atol=0.04)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: oe(MODEL, weight=-1.0), "oe: weight is -1.0"),
        (lambda: acet(MODEL, OUTER, weight=-1.0), "acet: weight is -1.0"),
        (lambda: ratio(MODEL, ATTACK, OUTER, weight=-1.0), "ratio: weight is -1.0"),
        (lambda: half_ratio(MODEL, ATTACK, OUTER, scale=-1.0), "half_ratio: scale is -1.0"),
        (lambda: aloe(MODEL, ATTACK, OUTER, weight=-1.0), "aloe: weight is -1.0"),
        (lambda: aoe(MODEL, ATTACK, weight=-1.0), "aoe: weight is -1.0"),
        (lambda: trades_acet(MODEL, ASCENT, OUTER, beta=-1.0), "trades_acet: beta is -1.0"),
        (lambda: trades_ceda(MODEL, ASCENT, OUTER, ood_beta=-1.0), "trades_ceda: ood_beta is -1.0"),
        (lambda: two_sided(MODEL, id_weight=-1.0), "two_sided: id_weight is -1.0"),
        (lambda: ntom(MODEL, weight=-1.0), "ntom: weight is -1.0"),
        (lambda: atom(MODEL, OUTER, weight=-1.0), "atom: weight is -1.0"),
        (lambda: rowl(MODEL, ASCENT, weight=-1.0), "rowl: weight is -1.0"),
        (lambda: sofl(MODEL, classes=0), "sofl: classes is 0"),
        (
            lambda: sofl(MODEL, classes=K)(PARAMS, STATE, BATCH, KEY),
            "pseudo_labels: the network has 4 outputs",
        ),
        (lambda: informative(jnp.zeros(8), count=8), "informative: count is 8"),
        (lambda: informative(jnp.zeros(8), count=1, quantile=1.0), "informative: quantile is 1.0"),
    ],
)
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
