"""Corruption strength as a set: the worst severity found is the worst there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks.apgd import apgd
from robustjax.attacks.grid import grid, refined
from robustjax.attacks.solver import as_attack
from robustjax.numerics import fold, keys_for
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.sets import attack_through
from robustjax.perturbations.strength import strength, worst_corruption

B = 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(B, 8, 8, 3)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(192, 5)), jnp.float32)
Y = jnp.asarray([0, 1, 2, 3])
KEY = jax.random.key(0)
NAMES = ("contrast", "gaussian_noise", "saturate")


def net(x):
    return jnp.sin(x.reshape(x.shape[0], -1) @ WEIGHT)


CLEAN = logit.margin(net(X), Y)


def whole_severities(threat):
    return as_attack(grid(threat, counts=(6,)))


@pytest.mark.slow
def test_tries_all_corruptions_at_all_whole_severities():
    found = jax.jit(lambda k: worst_corruption(whole_severities, names=NAMES)(k, net, X, Y))(KEY)
    keys, best = keys_for(KEY, B), np.asarray(CLEAN)
    for i, name in enumerate(NAMES):
        own = fold(fold(keys, i), 0)  # worst_of folds the attack in, the set its decoder
        margins = jax.jit(lambda s: logit.margin(net(corrupt(name)(own, X, s)), Y))
        best = np.max([best, *(margins(float(severity)) for severity in range(6))], axis=0)
    np.testing.assert_allclose(found.value, best, atol=1e-4)
    np.testing.assert_allclose(logit.margin(net(found.x), Y), found.value, atol=1e-5)
    assert (found.value >= CLEAN).all() and (found.value > CLEAN).any()
    assert (found.x >= 0).all() and (found.x <= 1).all()


@pytest.mark.slow
def test_more_strength_and_more_corruptions_are_no_weaker():
    def value(names, strongest, count):
        attack = worst_corruption(
            lambda threat: as_attack(grid(threat, counts=(count,))), names=names, strongest=strongest
        )
        return jax.jit(lambda k: attack(k, net, X, Y).value)(KEY)

    weak, strong, more = value(NAMES[:1], 2.0, 3), value(NAMES[:1], 4.0, 5), value(NAMES, 4.0, 5)
    assert (strong >= weak - 1e-6).all() and (more >= strong - 1e-6).all() and more.sum() > weak.sum()


@pytest.mark.slow
def test_gradients_find_severities_between_the_grid():
    space = strength("contrast")
    coarse = whole_severities(space.threat)
    fine = refined(coarse, lambda start: as_attack(apgd(space.threat, steps=15, start=start)))
    first, after = (
        jax.jit(lambda k, attack=attack: attack_through(space, attack)(k, net, X, Y))(KEY)
        for attack in (coarse, fine)
    )
    margins = jax.jit(lambda s: logit.margin(net(corrupt("contrast")(KEY, X, s)), Y))
    dense = np.max([margins(s) for s in np.linspace(0, 5, 201, dtype=np.float32)], axis=0)
    assert (after.value >= first.value).all() and (after.value > first.value + 1e-3).any()
    assert (after.value <= dense + 1e-2).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: strength("rain"),
        lambda: strength("fog", strongest=0.0),
        lambda: strength("fog", strongest=6.0),
        lambda: worst_corruption(whole_severities, names=()),
    ],
)
def test_refuses_what_there_is_not(build):
    with pytest.raises(ValueError, match=r"corrupt: name|strongest|names is empty"):
        build()
