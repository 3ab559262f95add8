"""Flows, colours, patches and perturbations for all images: exact on images and networks where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import against, objectives, pgd
from robustjax.attacks.universal import shared, universal
from robustjax.numerics import keys_for
from robustjax.perturbations import sets
from robustjax.perturbations.flow import flow
from robustjax.perturbations.patch import patch
from robustjax.perturbations.recolour import recolour
from robustjax.threats import Threat

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(3, 6, 8, 2)), jnp.float32)
SPACES = {
    "flow": flow(1.5, nodes=(3, 4)),
    "recolour": recolour(0.1, channels=2, nodes=3),
    "patch": patch(3, channels=2, turns=True),
}


def decoded(space, x, u):
    return np.asarray(space.decode(keys_for(KEY, len(x)), space.prepare(x), u))


@pytest.mark.parametrize("name", ["flow", "recolour"])
def test_the_origin_is_the_image(name):
    space = SPACES[name]
    np.testing.assert_allclose(decoded(space, X, space.origin(X)), X, atol=1e-6)


def test_a_constant_flow_is_a_shift_and_a_plane_shears():
    space = flow(2.0, nodes=(2, 2), border="zero")
    u = jnp.stack([jnp.concatenate([jnp.full(4, 0.5), jnp.full(4, -1.0)])] * 3)  # one down, two to the left
    want = np.zeros(X.shape)
    want[:, :-1, 2:] = np.asarray(X)[:, 1:, :-2]
    np.testing.assert_allclose(decoded(space, X, u), want, atol=1e-5)
    # Displacements between the nodes are linear: on a ramp, each pixel shows where it was read.
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None] / 8, (1, 6, 8, 1))
    corners = jnp.asarray([[0, 0, 0, 0, 0, 0.5, 0, 0.5]], jnp.float32)  # right by one pixel at the right end
    read = decoded(flow(2.0, nodes=(2, 2)), ramp, corners)[0, :, :, 0] * 8
    np.testing.assert_allclose(read, np.broadcast_to(np.minimum(np.arange(8) * 8 / 7, 7), (6, 8)), atol=1e-5)


def test_equal_colours_stay_equal_and_move_as_the_grid_says():
    space = recolour(0.2, channels=1, nodes=3)
    grey = jnp.asarray([0.0, 0.25, 0.5, 0.5, 0.9, 1.0], jnp.float32).reshape(1, 2, 3, 1)
    u = jnp.asarray([[1.0, -1.0, 0.5]])  # at black, at the middle, at white
    change = np.interp(np.asarray(grey).ravel(), [0, 0.5, 1], [0.2, -0.2, 0.1])
    want = np.clip(np.asarray(grey).ravel() + change, 0, 1)
    np.testing.assert_allclose(decoded(space, grey, u).ravel(), want, atol=1e-6)


def test_colours_of_several_channels_are_interpolated_in_each():
    """A grid that is linear in the colour gives changes that are, everywhere."""
    a, b = RNG.uniform(-0.3, 0.3, (3, 3)), RNG.uniform(-0.1, 0.1, 3)
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 1, 4)] * 3, indexing="ij"), axis=-1)
    u = jnp.asarray((nodes @ a + b).reshape(1, -1), jnp.float32)
    x = jnp.asarray(RNG.uniform(0.3, 0.7, (1, 5, 5, 3)), jnp.float32)
    want = np.asarray(x) + 0.3 * (np.asarray(x) @ a + b)
    np.testing.assert_allclose(decoded(recolour(0.3, nodes=4), x, u), want, atol=1e-5)


def test_a_patch_covers_its_square_and_nothing_else():
    u = jnp.asarray(RNG.uniform(-1, 1, (3, 18)), jnp.float32)
    out = decoded(patch(3, channels=2, place=(1, 4)), X, u)
    np.testing.assert_allclose(out[:, 1:4, 4:7], 0.5 + 0.5 * np.asarray(u).reshape(3, 3, 3, 2), atol=1e-6)
    mask = np.ones((6, 8), bool)
    mask[1:4, 4:7] = False
    np.testing.assert_array_equal(out[:, mask], np.asarray(X)[:, mask])
    many = jnp.broadcast_to(X[:1], (400, 6, 8, 2))
    white = decoded(patch(3, channels=2), many, jnp.ones((400, 18)))
    corner = np.argwhere((white == 1).all(axis=3).reshape(400, -1))
    first = np.asarray(
        [row[0] for row in np.split(corner[:, 1], np.unique(corner[:, 0], return_index=True)[1][1:])]
    )
    counts = np.bincount((first // 8) * 6 + first % 8, minlength=24)
    assert (counts > 4).all() and counts.sum() == 400  # 4 x 6 places, each of about 17 of 400
    with pytest.raises(ValueError, match="must hold 9 x 9 pixels"):
        decoded(patch(9, channels=2), X, jnp.zeros((3, 162)))


@pytest.mark.parametrize("name", SPACES)
def test_searched_by_pgd_none_ends_worse_and_all_stay_in_the_box(name):
    space = SPACES[name]
    w = jnp.asarray(RNG.normal(size=(96, 4)), jnp.float32)
    net = lambda x: x.reshape(len(x), -1) @ w
    y = jnp.argmax(net(X), axis=1)
    attack = sets.attack_through(space, against(pgd(space.threat, steps=8, step_size=0.3)))
    found = jax.jit(lambda key, x, y: attack(key, net, x, y))(KEY, X, y)
    assert found.x.min() >= 0 and found.x.max() <= 1
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), y), atol=1e-4)
    if name != "patch":
        assert (found.value >= logit.margin(net(X), y) - 1e-5).all() and (found.value > -1e9).all()


def test_of_a_linear_network_the_perturbation_of_all_images_is_known():
    """Without a box the mean margin of two classes rises by eps |w|_1 wherever all images have one label."""
    w = jnp.asarray(RNG.normal(size=(12, 2)), jnp.float32)
    x = jnp.asarray(RNG.uniform(0.4, 0.6, (5, 2, 3, 2)), jnp.float32)
    net = lambda x: x.reshape(len(x), -1) @ w
    threat = Threat("linf", 0.05, -5.0, 5.0)
    find = universal(lambda t: pgd(t, steps=10, step_size=0.5 * t.eps), threat, objectives.margin)
    delta = np.asarray(find(KEY, net, x, jnp.zeros(5, jnp.int32)))
    np.testing.assert_allclose(delta.ravel(), 0.05 * np.sign(np.asarray(w[:, 1] - w[:, 0])), atol=1e-6)
    # Images of both labels pull in opposite directions; with a cap those that are broken already pull no more.
    f = objectives.margin(net, jnp.zeros(5, jnp.int32))
    capped = shared(f, x, lower=-5, upper=5, most=-9.0)
    np.testing.assert_allclose(capped(jnp.zeros((1, 2, 3, 2))), np.minimum(f(x), -9).mean(), rtol=1e-5)
    clipped = shared(f, x, lower=0.0, upper=0.5)(jnp.ones((1, 2, 3, 2)))
    np.testing.assert_allclose(clipped, f(jnp.full_like(x, 0.5)).mean(), rtol=1e-5)


def test_settings_that_cannot_be_meant_are_refused():
    for build, says in {
        lambda: flow(-1.0): "limit is -1",
        lambda: flow(1.0, nodes=(1, 4)): "rows of nodes is 1",
        lambda: recolour(0.1, nodes=1): "nodes is 1",
        lambda: recolour(0.1, lower=1.0): "must rise",
        lambda: patch(0): "size is 0",
    }.items():
        with pytest.raises(ValueError, match=says):
            build()
    with pytest.raises(ValueError, match="images have 2 channels, must have 3"):
        decoded(recolour(0.1), X, jnp.zeros((3, 192)))
