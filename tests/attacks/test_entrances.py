"""What enters an attack is checked before any work, in one line; what cannot work with a solver is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_table import KEY, LINES, B, W, X, Y, ball, net

from robustjax import attacks, logit
from robustjax.attacks import against, as_attack, autoattack, objectives
from robustjax.attacks.signed import signed
from robustjax.losses.fast import fgsm_rs, n_fgsm
from robustjax.ood.uint8_grid import uint8_pgd
from robustjax.threats import Threat

BALL = Threat("l2", 0.3)
MINIMUM_NORM = {
    "fmn": attacks.fmn,
    "deepfool": attacks.deepfool,
    "boundary": attacks.boundary,
    "ddn": attacks.ddn,
    "carlini_wagner": attacks.carlini_wagner,
}


def refused(name, says, *, x=X, y=Y, logits_fn=net):
    line = LINES[name]
    with pytest.raises(ValueError, match=says) as caught:
        line.build(ball(line.norms[-1], 0.3))(KEY, logits_fn, x, y)
    assert "\n" not in str(caught.value)


IMAGES = [
    (255 * X, "x ranges from .* must lie in the box .*divide it by 255, or pass lower= and upper="),
    (X * 4 - 2, "undo the normalisation, or pass lower= and upper="),
    (jnp.where(X > 0.9, jnp.nan, X), "not finite"),
    ((255 * X).astype(jnp.uint8), "uint8, must be floats.*divide bytes by 255"),
    (np.asarray(X).tolist(), "x is a list, must be an array"),
]


@pytest.mark.parametrize("name", LINES)
def test_images_outside_the_box_are_refused(name):
    for x, says in IMAGES:
        refused(name, says, x=x)


LABELS = [
    (Y - 2, "the smallest label is -"),
    (np.asarray(Y) + 0.5, "must be whole numbers from 0"),
    (np.asarray(Y, np.int64) + 2**32, "the largest label is 429496729"),
    (jnp.eye(2, dtype=int)[Y], "take y.argmax"),  # of floats cross-entropy takes distributions
    (Y[:2], r"must be \(4,\), one for each image"),
    (Y + 2, "must be below the 2 logits"),
]


@pytest.mark.parametrize("name", LINES)
def test_labels_that_cannot_be_meant_are_refused(name):
    for y, says in LABELS:
        refused(name, says, y=y)


@pytest.mark.parametrize("name", LINES)
def test_one_logit_and_what_are_no_logits_are_refused(name):
    refused(name, "of one logit z make", logits_fn=lambda x: net(x)[:, :1])
    refused(name, "must give logits", logits_fn=lambda x: net(x)[:, 0])


@pytest.mark.parametrize("factory", ["cross_entropy", "margin", "dlr"])
def test_objectives_check_labels_and_logits_too(factory):
    make = getattr(objectives, factory)
    with pytest.raises(ValueError, match=f"{factory}: the smallest label is -1"):
        make(net, Y - 1 - Y.min())
    with pytest.raises(ValueError, match=f"{factory}: the largest label is"):
        attacks.pgd(BALL, steps=1, step_size=0.1)(KEY, make(net, Y + 2), X)
    with pytest.raises(ValueError, match="of one logit z make"):
        make(lambda x: net(x)[:, :1], 0 * Y)(X)


@pytest.mark.parametrize(
    "solver", [attacks.pgd(BALL, steps=1, step_size=0.1), attacks.square(BALL, queries=2)]
)
def test_objectives_that_give_no_number_per_point_are_refused(solver):
    for objective, says in (
        (net, r"shape \(4, 2\), must give one number per point, \(4,\)"),
        (lambda x: net(x).sum(), r"shape \(\)"),
        (lambda x: (net(x)[:, 0],), "gives a tuple"),
    ):
        with pytest.raises(ValueError, match=says):
            solver(KEY, objective, X)


@pytest.mark.parametrize("shape", [(B, 1, 1, 1), (B - 1,)])
@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "spsa", "fab_targeted", "fmn", "worst_case"])
def test_a_radius_of_another_shape_is_refused(name, shape):
    threat = Threat("l2", jnp.full(shape, 0.3))
    with pytest.raises(ValueError, match=r"(eps|step_size) has shape .* must be a number or \(4,\)"):
        LINES[name].build(threat)(KEY, net, X, Y)


def test_inside_jit_values_are_not_looked_at_and_shapes_are():
    attack = jax.jit(against(attacks.fgsm(BALL)), static_argnums=1)
    assert attack(KEY, net, 255 * X, Y + 7).x.shape == X.shape
    with pytest.raises(ValueError, match="must be floats"):
        attack(KEY, net, X.astype(jnp.uint8), Y)
    with pytest.raises(ValueError, match="must be integers"):
        attack(KEY, net, X, jnp.eye(2)[Y])


def unmarked(logits_fn, y):
    return lambda x: logit.cross_entropy(logits_fn(x), y) - 0.7


@pytest.mark.parametrize("name", MINIMUM_NORM)
def test_minimum_norm_solvers_refuse_objectives_that_do_not_say_misclassified(name):
    """Cross-entropy is positive everywhere: every image would be its own nearest adversarial point."""
    solver = MINIMUM_NORM[name](BALL)
    for surrogate in (
        objectives.cross_entropy,
        functools.partial(objectives.cross_entropy, smoothing=0.1),
        unmarked,
    ):
        with pytest.raises(ValueError, match=f"{name}: .* use margin"):
            against(solver, surrogate)
    with pytest.raises(ValueError, match=f"{name}: .* is not known to say so"):
        attacks.restarts(solver, 2)(KEY, objectives.cross_entropy(net, Y), X)
    with pytest.raises(ValueError, match=f"{name}: targeted_cross_entropy|{name}: looks"):
        attacks.over_targets(solver, lambda f, y, t: objectives.targeted_cross_entropy(f, t))
    with pytest.raises(ValueError, match=f"{name}: looks"):
        attacks.first_steps(solver, 3)(KEY, objectives.log_confidence(net), X)
    for surrogate in (
        objectives.margin,
        objectives.dlr,
        functools.partial(objectives.margin),
        signed(unmarked),
    ):
        against(solver, surrogate)


@pytest.mark.parametrize("name", [name for name in MINIMUM_NORM if name != "ddn"])
def test_minimum_norm_solvers_refuse_losses_that_are_not_zero_on_the_boundary(name):
    """Points are kept by their margin; DDN reads nothing else, the others measure the way by the loss."""
    solver = MINIMUM_NORM[name](BALL)
    for build in (
        lambda: as_attack(solver, logit.cross_entropy),
        lambda: autoattack.untargeted("mine", solver, logit.cross_entropy),
        lambda: autoattack.targeted("mine", solver, lambda z, y, t: -logit.cross_entropy(z, t), targets=1),
    ):
        with pytest.raises(ValueError, match=f"{name}: looks for"):
            build()
    as_attack(solver, logit.margin), as_attack(solver), as_attack(attacks.ddn(BALL), logit.cross_entropy)


@pytest.mark.parametrize("name", MINIMUM_NORM)
def test_defaults_of_minimum_norm_solvers_reach_the_boundary(name):
    """In a ball twice as far as the boundary of a linear network every one of them arrives, by either entrance."""
    gap = np.abs(np.asarray(net(X)) @ [1.0, -1.0])
    far = jnp.asarray(2 * gap / np.linalg.norm(np.asarray(W) @ [1.0, -1.0]), jnp.float32)
    settings = {"searches": 5, "steps": 30, "step_size": 0.1} if name == "carlini_wagner" else {"steps": 30}
    solver = MINIMUM_NORM[name](Threat("l2", far, -9.0, 9.0), **settings)
    for attack in (as_attack(solver), against(solver)):
        found = jax.jit(attack, static_argnums=1)(KEY, net, X, Y)
        assert (net(found.x).argmax(axis=1) != Y).all()


@pytest.mark.parametrize("surrogate", [objectives.cross_entropy, objectives.margin, objectives.dlr])
def test_networks_that_mask_classes_fall_as_those_that_do_not(surrogate):
    """Two classes at -inf, beside three, change nothing: DLR divides by the third largest logit either way."""
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(12, 3)), jnp.float32)
    plain = lambda x: x.reshape(len(x), -1) @ weight
    masked = lambda x: jnp.concatenate([plain(x), jnp.full((len(x), 2), -jnp.inf)], axis=1)
    images = jnp.asarray(np.random.default_rng(2).uniform(size=(40, *X.shape[1:])), jnp.float32)
    y = plain(images).argmax(axis=1).astype(jnp.int32)
    attack = against(attacks.pgd(Threat("linf", 0.05), steps=10, step_size=0.01), surrogate)
    accuracy = [
        float((f(jax.jit(attack, static_argnums=1)(KEY, f, images, y).x).argmax(axis=1) == y).mean())
        for f in (plain, masked)
    ]
    assert accuracy[0] == accuracy[1] < 0.8


def threat_of(value):
    """Name the factories that take a threat, with a value in its place."""
    return {
        "pgd": lambda: attacks.pgd(value, steps=1, step_size=0.1),
        "fgsm": lambda: attacks.fgsm(value),
        "apgd": lambda: attacks.apgd(value, steps=2),
        "square": lambda: attacks.square(value, queries=3),
        "spsa": lambda: attacks.spsa(value, steps=1),
        "fmn": lambda: attacks.fmn(value, steps=1),
        "deepfool": lambda: attacks.deepfool(value),
        "ddn": lambda: attacks.ddn(value, steps=1),
        "cw": lambda: attacks.carlini_wagner(value),
        "boundary": lambda: attacks.boundary(value, steps=1),
        "uint8": lambda: uint8_pgd(value, steps=1),
        "fgsm_rs": lambda: fgsm_rs(value),
        "n_fgsm": lambda: n_fgsm(value),
    }


@pytest.mark.parametrize("value", ["linf", None, ("linf", 0.1)])
def test_what_is_no_threat_is_refused_in_one_line(value):
    for name, build in threat_of(value).items():
        with pytest.raises(ValueError, match=r"must be a robustjax\.Threat") as caught:
            build()
        assert "\n" not in str(caught.value), name


POINTS = jnp.full((2, 4), 0.5)
TOWARD = jnp.asarray(np.arange(12).reshape(4, 3) / 12, jnp.float32)
ASCENT = attacks.pgd(Threat("linf", 0.1), steps=1, step_size=0.1)


def of_radius(eps):
    return attacks.pgd(Threat("linf", eps), steps=1, step_size=0.1)(KEY, lambda z: z[:, 0], POINTS)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ASCENT(0, lambda z: z.sum(axis=1), POINTS), "key is 0, must be made by jax.random.key"),
        (lambda: ASCENT(None, lambda z: z.sum(axis=1), POINTS), "key is None"),
        (lambda: ASCENT(KEY, None, POINTS), "objective is a NoneType, must be a function"),
        (lambda: ASCENT(KEY, lambda z: np.asarray(z).sum(axis=1), POINTS), "jax.numpy where it says numpy"),
        (
            lambda: ASCENT(KEY, lambda z: z.sum(axis=1) if z[0, 0] > 0 else z[:, 0], POINTS),
            "where it says if",
        ),
        (lambda: ASCENT(KEY, lambda z: (z @ TOWARD).argmax(axis=1), POINTS), "the objective gives int32"),
        (lambda: ASCENT(KEY, lambda z: z.sum(axis=1), POINTS[:0]), "must hold at least one point"),
        (lambda: against(ASCENT)(KEY, None, POINTS, jnp.zeros(2, int)), "network is a NoneType"),
        (
            lambda: against(ASCENT)(KEY, np.asarray, POINTS, jnp.zeros(2, int)),
            "jax.numpy where it says numpy",
        ),
        (
            lambda: of_radius(True),
            "eps is True",
        ),
        (
            lambda: of_radius(None),
            "eps is None",
        ),
    ],
)
def test_calls_that_cannot_be_meant_are_one_line(call, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        call()
    assert "\n" not in str(caught.value)
