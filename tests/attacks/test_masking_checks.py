"""Every sign on a network built to show it, none on a sound one, and thresholds on numbers made up for them."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import attack_comparison, flags, masking_checks, masking_measurements
from robustjax.data import digits
from robustjax.numerics import constant, keys_for
from robustjax.threats import Threat

KEY = jax.random.key(0)
PART = digits.contents().parts["train"]
X, Y = jnp.asarray(PART.image, jnp.float32) / 255, jnp.asarray(PART.label)
FEW, FEW_Y = X[:64], Y[:64]


@partial(jax.jit, static_argnames="updates")
def trained(x, y, updates=400):
    """Fit 64-32-10 with tanh to the digits and to points one FGSM step away."""

    def net(w, x):
        return jnp.tanh(4 * (x.reshape(len(x), -1) - 0.3) @ w[0]) @ w[1]

    def loss(w, x):
        return logit.cross_entropy(net(w, x), y).mean()

    def update(_, w):
        near = jnp.clip(x + 0.1 * jnp.sign(jax.grad(loss, argnums=1)(w, x)), 0, 1)
        return jax.tree.map(lambda a, g: a - 0.5 * g, w, jax.grad(lambda w: loss(w, x) + loss(w, near))(w))

    draws = [0.1 * jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(64, 32), (32, 10)])]
    return jax.lax.fori_loop(0, updates, update, draws)


W = trained(X, Y)


def sound(x):
    return jnp.tanh(4 * (x.reshape(len(x), -1) - 0.3) @ W[0]) @ W[1]


EPS = 0.1
PERIOD = EPS / 101  # the steps of PGD, eps / 8 long, are no multiples of it

DEFENCES = {
    "none": sound,
    "scale": lambda x: 1e6 * sound(x),
    "softmax": lambda x: jax.nn.softmax(sound(x)),
    "rounding": lambda x: sound(jnp.round(16 * x) / 16),
    # At the images and whole periods away from them the slope is ten times the true one, elsewhere of random sign.
    "waves": lambda x: sound(x + 9 * PERIOD / (2 * jnp.pi) * jnp.sin(2 * jnp.pi * (x - FEW) / PERIOD)),
    "plateau": lambda x: sound(FEW + jnp.clip(x - FEW, -0.01, 0.01)),
    "square root": lambda x: sound(x) + 1e-3 * jnp.sqrt(x).mean((1, 2, 3))[:, None],
    "overflow": lambda x: sound(x) * jnp.where(x.mean((1, 2, 3)) > 0.3, jnp.inf, 1.0)[:, None],
}


@jax.jit
def _switch(number, x):
    return jax.lax.switch(number, list(DEFENCES.values()), x)


def defended(name):
    """One function for all, so that it is compiled once."""
    return jax.tree_util.Partial(_switch, jnp.int32(list(DEFENCES).index(name)))


def raised(found):
    return {flag.name for flag in found if flag.raised}


def named(found, name):
    return next(flag for flag in found if flag.name == name)


def checked(name, eps=EPS):
    return masking_checks.checks(KEY, defended(name), FEW, FEW_Y, Threat("linf", eps))


@pytest.mark.slow
@pytest.mark.parametrize("kind, eps", [("linf", EPS), ("l1", 2.0)])
def test_a_sound_network_shows_no_sign(kind, eps):
    found = masking_checks.checks(
        KEY, defended("none") if kind == "linf" else sound, FEW, FEW_Y, Threat(kind, eps)
    )
    assert not raised(found), [flag for flag in found if flag.raised]
    assert 0 < named(found, "noise").evidence["broken by gradient"] < len(FEW)


SIGNS = {
    "scale": ["no gradient of cross-entropy"],
    "softmax": ["probabilities"],
    "rounding": [
        "no gradient of cross-entropy",
        "no gradient of DLR",
        "more steps",
        "noise",
        "unlimited radius",
    ],
    "waves": ["more steps", "one step"],
    "plateau": ["unlimited radius"],
    "square root": ["not finite"],
    "overflow": ["not finite"],
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_defence_that_hides_shows_its_signs(name):
    found = checked(name)
    assert raised(found) >= set(SIGNS[name])
    harmless = {"random outputs", "inputs", "few classes", *({"no gradient of DLR"} - set(SIGNS[name]))}
    assert not raised(found) & harmless


def test_scaling_the_logits_hides_cross_entropy_but_not_dlr():
    plain, scaled = checked("none"), checked("scale")
    gone = named(scaled, "no gradient of cross-entropy")
    assert gone.evidence["share zero"] > 0.9 and gone.evidence["share with loss 0"] > 0.9
    slopes = [named(found, "no gradient of DLR").evidence["median"] for found in (plain, scaled)]
    np.testing.assert_allclose(*slopes, rtol=1e-3)


def numbers(rng):
    return lambda x: sound(x) + 1e-2 * rng.normal(size=(len(x), 10)).astype(np.float32)


def called_back(rng):
    """Random also where it is compiled."""

    def noisy(x):
        shape = jax.ShapeDtypeStruct((len(x), 10), jnp.float32)
        draw = lambda z: rng.normal(size=(len(z), 10)).astype(np.float32)
        return sound(x) + 1e-2 * jax.pure_callback(draw, shape, jax.lax.stop_gradient(x))

    return noisy


def test_randomness_is_seen_in_calls_and_in_compiled_programs():
    rng = np.random.default_rng(0)
    for noisy in (numbers(rng), called_back(rng)):
        passes = np.stack([noisy(FEW) for _ in range(5)])
        flag = flags.randomised(passes, passes[:1], np.asarray(FEW_Y))
        assert flag.raised and 1e-4 < flag.evidence["spread"] < 0.1
    network = masking_measurements.hoisted(called_back(rng), FEW)
    replays = np.stack([masking_measurements.look(network, FEW) for _ in range(2)])
    assert flags.randomised(replays[:1], replays, np.asarray(FEW_Y)).raised


@pytest.mark.parametrize("noise", [numbers, called_back])
def test_checks_call_the_function_itself(noise):
    """Traced once, numpy's noise would be a constant."""
    wrong = (FEW_Y[:4] + 1) % 10  # spares the searches
    found = masking_checks.checks(KEY, noise(np.random.default_rng(0)), FEW[:4], wrong, Threat("linf", EPS))
    assert raised(found) == {"random outputs"}


def test_predictions_that_flip_are_randomness_whatever_the_logits():
    calls = np.zeros((3, 2, 2), np.float32)
    calls[:, :, 0], calls[1, 0, 1] = 1.0, 1.0 + 1e-5
    calls[0, 0, 1] = calls[2, 0, 1] = 1.0 - 1e-5
    flag = flags.randomised(calls, calls[:1], np.array([0, 0]))
    assert flag.raised and flag.evidence == {
        "spread": pytest.approx(1e-5, rel=0.2),
        "predictions": 1,
        "compiled and not": 0,
    }


def test_without_radius_or_correct_images_searches_are_not_checked():
    none = masking_checks.checks(KEY, defended("none"), FEW, FEW_Y, Threat("linf", 0.0))
    wrong = masking_checks.checks(KEY, defended("none"), FEW, (FEW_Y + 1) % 10, Threat("linf", EPS))
    endless = masking_checks.checks(KEY, defended("none"), FEW, FEW_Y, Threat("linf", 0.0, -jnp.inf, jnp.inf))
    for found, count in ((none, 3), (wrong, 4), (endless, 4)):
        assert sum(flag.says.startswith("not checked") for flag in found) == count
        assert len(found) == len(wrong) and not raised(found)


@pytest.mark.slow
def test_what_gradients_break_on_a_linear_network_is_known_in_closed_form():
    """Two classes differ by <w, x> + b: broken if and only if |<w, x> + b| <= eps |w|."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=30).astype(np.float32), rng.uniform(size=(40, 30)).astype(np.float32)
    b = -np.median(x @ w)
    score = x @ w + b
    eps = float(np.median(np.abs(score))) / np.linalg.norm(w)
    net = lambda z: jnp.stack([-(z @ w + b), z @ w + b], axis=1) / 2
    found = masking_checks.checks(
        KEY, net, x, (score > 0).astype(int), Threat("l2", eps, -9.0, 9.0), steps=30
    )
    assert raised(found) == {"few classes"}
    assert named(found, "one step").evidence["broken by one step"] == 20
    assert named(found, "more steps").evidence["broken after 30"] == 20
    assert named(found, "noise").evidence["broken by gradient"] == 20
    radius = pytest.approx(18 * 30**0.5)
    assert named(found, "unlimited radius").evidence == {"robust": 0, "images": 40, "radius": radius}


@pytest.mark.parametrize(
    "shape, x, y, says",
    [
        ((2, 10), FEW[:2] * 255, [1, 2], "outside the box"),
        ((2, 10), FEW[:2], [1, 10], "1 labels name no class"),
        ((2, 10), FEW[:2] * jnp.nan, [1, 2], "NaN"),
        ((2,), FEW[:2], [1, 2], "logits are"),
        ((2, 1), FEW[:2], [1, 2], "logits are"),
        ((3, 10), FEW[:2], [1, 2], "logits are"),
        ((2, 10), FEW[:2], [[0.0, 1.0], [1.0, 0.0]], "labels (2, 2)"),
    ],
)
def test_inputs_that_do_not_fit_are_told(shape, x, y, says):
    flag = flags.inputs(shape, np.asarray(x), np.asarray(y), np.zeros(()), np.ones(()))
    assert flag.raised and says in flag.says


def test_outputs_that_are_no_logits_end_the_checks():
    one_hot, above = jax.nn.one_hot(FEW_Y, 10), FEW_Y.at[3].set(10)
    column, pair = (lambda x: sound(x)[:, 0]), (lambda x: (sound(x), None))
    for net, labels in (
        (column, FEW_Y),
        (pair, FEW_Y),
        (lambda x: x, FEW_Y),
        (sound, one_hot),
        (sound, above),
    ):
        found = masking_checks.checks(KEY, net, FEW, labels, Threat("linf", 0.1))
        assert [flag.name for flag in found] == ["inputs"] and found[0].raised


@pytest.mark.parametrize("classes, sign", [(2, True), (3, True), (4, False)])
def test_too_few_classes_for_dlr(classes, sign):
    flag = flags.few_classes(classes)
    assert flag.raised == sign and ("DLR and targeted DLR" in flag.says) == (classes == 2)


def test_probabilities_are_told_in_bfloat16_and_logits_are_not():
    logits = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    soft = jax.nn.softmax(jnp.asarray(logits, jnp.bfloat16)).astype(jnp.float32)
    assert flags.probabilities(np.asarray(soft)).raised
    others = (logits, np.full((64, 10), 0.2), np.asarray(jax.nn.log_softmax(logits)), logits * 1e-4)
    assert not [flag for flag in map(flags.probabilities, others) if flag.raised]


def test_more_steps_must_not_break_fewer_nor_leave_the_loss_low():
    few, many = np.arange(100) < 40, np.arange(100) < 60
    rise, nobody = np.ones(100), np.zeros(100, bool)
    check = lambda *last, rise=rise, robust=nobody: attack_comparison.more_steps(
        (1, 5), np.stack(last), rise, robust
    )
    assert not check(few, many).raised and check(many, few).raised
    assert (
        not check(few, np.arange(100) < 35).raised and check(few, np.arange(100) < 34).raised
    )  # 5 % is luck
    flat = np.where(np.arange(100) < 6, 0.0, 1.0)
    assert check(few, few, rise=flat, robust=~few).raised is False  # the flat ones are broken
    assert check(few, few, rise=flat[::-1], robust=~few).raised
    assert check(few, few, rise=np.full(100, np.nan), robust=~few).evidence["without rise"] == 60


OUTCOME = np.zeros((3, 1000), np.int8)  # apgd, fab, square
MARGIN = np.full((3, 1000), -1.0)


def outcomes_checked(outcome=OUTCOME, margin=MARGIN, names=("apgd-ce", "fab-t", "square"), **settings):
    return {flag.name: flag for flag in masking_checks.from_outcomes(names, outcome, margin, **settings)}


@pytest.mark.parametrize("alone, sign", [(2, False), (3, True)])
def test_square_may_break_one_image_in_five_hundred_alone(alone, sign):
    outcome = OUTCOME.copy()
    outcome[0, 500:700] = 1
    outcome[2, :alone] = 1
    outcome[2, 500:650] = 1  # with `every`, it is run on what others broke
    flag = outcomes_checked(outcome)["black box alone"]
    assert flag.raised == sign and flag.evidence == {"share": alone / 1000, "tried by both": 1000}


def test_images_that_gradients_never_tried_are_no_evidence():
    outcome = OUTCOME.copy()
    outcome[2, :300] = 1
    outcome[:2, :300] = -1  # Square ran first
    flag = outcomes_checked(outcome)["black box alone"]
    assert not flag.raised and flag.evidence["tried by both"] == 700
    outcome[1, :300] = 0
    assert outcomes_checked(outcome)["black box alone"].evidence["share"] == 0.3


def test_attacks_without_gradients_must_not_come_nearer():
    margin, outcome = MARGIN.copy(), OUTCOME.copy()
    margin[2] = -2.0
    assert not outcomes_checked(margin=margin)["black box ahead"].raised
    margin[2] = 0.95 * margin[:2].max(axis=0)  # by a little: other surrogates lead to other corners
    assert not outcomes_checked(margin=margin)["black box ahead"].raised
    margin[2] = -2.0
    margin[2, :101] = -0.5
    flag = outcomes_checked(margin=margin)["black box ahead"]
    assert flag.raised and flag.evidence == {"share": 0.101, "images": 1000}
    margin[1, :50] = -0.4  # one attack with gradients suffices
    assert outcomes_checked(margin=margin)["black box ahead"].evidence["share"] == 0.051
    outcome[2, 50:101] = 1
    assert outcomes_checked(outcome, margin)["black box ahead"].evidence == {"share": 0, "images": 949}
    margin[:2, 101:] = np.nan
    assert outcomes_checked(outcome, margin)["black box ahead"].evidence["images"] == 50


def test_margins_near_zero_are_counted_at_the_strongest_attack():
    margin = MARGIN.copy()
    margin[0, :3], margin[1, :2] = [9e-5, -9e-5, 2e-4], np.nan
    flag = outcomes_checked(margin=margin)["near ties"]
    assert flag.evidence["images"] == 2 and not flag.raised
    margin[0, 2] = 0.0
    assert outcomes_checked(margin=margin)["near ties"].raised
    margin[1, 2] = 1.0
    assert not outcomes_checked(margin=margin)["near ties"].raised
    assert not outcomes_checked(np.full((3, 4), -1, np.int8), np.full((3, 4), np.nan))["near ties"].raised


def test_suites_of_one_kind_are_not_compared():
    for names in (("a", "b", "c"), ("square", "square", "square")):
        found = outcomes_checked(names=names)
        assert found["black box alone"].says == found["black box ahead"].says != ""
        assert not found["black box alone"].raised and not found["black box alone"].evidence
    assert outcomes_checked(names=("a", "b", "c"), black_box={"c"})["black box alone"].evidence


def test_rows_are_plain_and_begin_with_what_is_raised():
    found = [flags.few_classes(10), flags.few_classes(3), flags.unchecked("noise", "why not")]
    table = masking_checks.rows(found)
    assert [row["raised"] for row in table] == [True, False, False]
    assert table[0]["numbers"] == "classes 3" and table[2]["what was seen"] == "not checked: why not"
    assert json.loads(json.dumps([flag._asdict() for flag in found], allow_nan=False))[1]["evidence"] == {
        "classes": 3
    }


@pytest.mark.parametrize("name", DEFENCES)
def test_evidence_is_finite_and_of_plain_types(name):
    for flag in checked(name):
        assert type(flag.raised) is bool and flag.says
        assert all(type(value) is float and np.isfinite(value) for value in flag.evidence.values())


@pytest.mark.slow
def test_an_image_fares_the_same_in_any_batch():
    network = masking_measurements.hoisted(defended("none"), FEW)
    threat = Threat("linf", constant(FEW, EPS), jnp.float32(0), jnp.float32(1))
    keys, order = keys_for(KEY, 64), jnp.arange(64)[::-1]
    walk = lambda keys, x, y: masking_measurements.walk(
        network, keys, x, y, threat, 0, jnp.array([1, 5, 20]), 0.1, True
    )
    one, other = walk(keys, FEW, FEW_Y), walk(keys[order], FEW[order], FEW_Y[order])
    np.testing.assert_array_equal(one.last[:, order], other.last)
    np.testing.assert_allclose(one.rise[order], other.rise, rtol=1e-3, atol=1e-4)


def test_parameters_are_no_constants_of_the_program():
    weights = jnp.ones((64, 999))
    network = masking_measurements.hoisted(lambda x: x.reshape(len(x), -1) @ weights, FEW)
    assert [leaf.shape for leaf in jax.tree.leaves(network)] == [(64, 999)]
    np.testing.assert_allclose(network(FEW)[:, 0], FEW.sum((1, 2, 3)), rtol=1e-5)
    assert (
        masking_measurements.hoisted(lambda x: x.reshape(len(x), -1).astype(jnp.bfloat16), FEW)(FEW).dtype
        == jnp.float32
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 1}, "steps is 1"),
        ({"draws": 0}, "draws is 0"),
        ({"threat": Threat("l2", np.inf)}, "eps is inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        masking_checks.checks(KEY, sound, FEW, FEW_Y, **{"threat": Threat("linf", 0.1), **settings})


def test_outcomes_need_a_row_per_name():
    with pytest.raises(ValueError, match="2 names, 3 rows of outcomes"):
        outcomes_checked(names=("a", "square"))
