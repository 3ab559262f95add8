"""Points that travel from one network to another."""

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import logit
from robustjax.attacks.compose import against, worst_of
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.attacks.transfer import transferred
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
WEIGHT = jnp.asarray(RNG.normal(size=(20, 4)), jnp.float32)
OTHER = jnp.asarray(RNG.normal(size=(20, 4)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.2, 0.8, size=(6, 20)), jnp.float32)
Y = (X @ WEIGHT).argmax(axis=1)
KEY = jax.random.key(0)
THREAT = Threat("linf", 0.2)
ATTACK = against(pgd(THREAT, steps=10, step_size=0.05, start=at_origin))


def net(x):
    return x @ WEIGHT


def masked(x):
    return jnp.round(net(x) * 64) / 64  # the same decisions, no slope


def test_a_network_whose_slope_is_masked_falls_to_points_of_one_whose_slope_is_not():
    own = ATTACK(KEY, masked, X, Y)
    np.testing.assert_array_equal(own.x, X)
    found = transferred(ATTACK, net)(KEY, masked, X, Y)
    np.testing.assert_array_equal(found.x, ATTACK(KEY, net, X, Y).x)
    np.testing.assert_allclose(found.value, logit.margin(masked(found.x), Y))
    assert (own.value <= 0).all() and (found.value > 0).all()


def test_the_victim_judges():
    found = transferred(ATTACK, lambda x: x @ OTHER)(KEY, net, X, Y)
    assert THREAT.contains(found.x, X).all()
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), Y), atol=1e-6)
    white = ATTACK(KEY, net, X, Y)
    assert (found.value < white.value).all()


def test_sources_join_as_the_worst_of_them():
    both = worst_of(transferred(ATTACK, lambda x: x @ OTHER), transferred(ATTACK, net))
    found = both(KEY, masked, X, Y)
    assert (found.value >= transferred(ATTACK, net)(KEY, masked, X, Y).value).all()
