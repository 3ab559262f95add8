"""SimBA, ZOO and NES: what linear functions, the cosine transform and Adam's first step say they must find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from robustjax import attacks
from robustjax.attacks.spsa import estimated_gradient
from robustjax.threats import Threat

B, SHAPE = 3, (4, 3, 2)
RNG = np.random.default_rng(1)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(B, *SHAPE)), jnp.float32)
SLOPE = jnp.asarray(RNG.choice([-1.0, 1.0], size=X.shape) * RNG.uniform(0.5, 1.5, size=X.shape), jnp.float32)
KEY = jax.random.key(0)
FREE = Threat("l2", 100.0, -100.0, 100.0)
SIZE = X[0].size


def linear(x):
    return (SLOPE * x).reshape(len(x), -1).sum(axis=1)


@pytest.mark.parametrize("basis", ["pixels", "dct"])
def test_simba_moves_every_coordinate_once_and_uphill(basis):
    """Every coordinate costs one or two queries; after all of them each is a step along the sign of its slope."""
    solver = attacks.simba(FREE, queries=2 * SIZE + 1, step_size=0.1, basis=basis)
    state = jax.jit(
        lambda: solver.advance(lambda x: (linear(x), linear(x)), solver.init(KEY, X), 2 * SIZE + 1)
    )()
    first = np.asarray(state.place)  # those that needed one query leave time for a second move
    moved, slope = np.asarray(state.x - X), np.asarray(SLOPE)
    if basis == "dct":
        moved, slope = (scipy.fft.dctn(v, norm="ortho", axes=(1, 2)) for v in (moved, slope))
    steps = np.asarray(np.rint(moved / 0.1)) * np.sign(slope)
    np.testing.assert_allclose(moved, 0.1 * steps * np.sign(slope), atol=1e-5)
    assert (steps >= 1).all() and (steps <= 2).all()
    np.testing.assert_array_equal((steps == 2).reshape(B, -1).sum(axis=1), first % SIZE)


def test_simba_in_low_frequencies_only():
    solver = attacks.simba(FREE, queries=60, step_size=0.1, basis="dct", frequencies=2)
    found = jax.jit(lambda: solver(KEY, linear, X))()
    moved = scipy.fft.dctn(np.asarray(found.x - X), norm="ortho", axes=(1, 2))
    assert np.abs(moved[:, 2:]).max() < 1e-5 and np.abs(moved[:, :, 2:]).max() < 1e-5
    assert (np.abs(moved[:, :2, :2]) > 0.09).all()


def test_simba_stays_in_the_ball_and_asks_as_often_as_it_may():
    asked = []

    def counted(x):
        values = linear(x)
        return jax.pure_callback(
            lambda v: (asked.append(len(v)), v)[1], jax.ShapeDtypeStruct(values.shape, values.dtype), values
        )

    threat = Threat("l2", 0.25)
    solver = attacks.simba(threat, queries=37)
    found = jax.jit(lambda: solver(KEY, counted, X))()
    assert threat.contains(found.x, X).all() and (found.value > linear(X)).all()
    assert len(asked) == 37


def test_the_first_step_of_zoo_is_that_of_adam():
    """A step of the full size along the sign of the slope, in the features drawn and in no other."""
    solver = attacks.zoo(FREE, steps=1, coordinates=7, step_size=0.05)
    found = jax.jit(lambda: solver(KEY, linear, X))()
    moved = np.asarray(found.x - X).reshape(B, -1)
    hit = np.abs(moved) > 1e-6
    assert ((hit.sum(axis=1) >= 3) & (hit.sum(axis=1) <= 7)).all()
    np.testing.assert_allclose(moved[hit], 0.05 * np.sign(np.asarray(SLOPE).reshape(B, -1))[hit], atol=2e-4)


def test_zoo_finds_the_corner_of_a_linear_function():
    """Feature by feature its slope has one sign: the optimum in linf is x + eps sign(slope)."""
    threat = Threat("linf", 0.1)
    found = jax.jit(lambda: attacks.zoo(threat, steps=60, coordinates=12, step_size=0.05)(KEY, linear, X))()
    np.testing.assert_allclose(found.x, threat.project(X + jnp.sign(SLOPE), X), atol=1e-5)


def test_normal_pairs_give_the_slope_with_the_variance_that_theory_gives():
    """With v normal, g_i v_i^2 has variance 2 g_i^2, and each other feature adds g_j^2."""
    times, samples = 300, 5
    flat = SLOPE.reshape(B, -1)
    keys = jax.random.split(KEY, (times, B))
    one = lambda keys: estimated_gradient(
        keys, linear, X, samples=samples, delta=0.1, chunk_size=None, noise="normal"
    )
    drawn = np.asarray(jax.jit(jax.vmap(one))(keys)).reshape(times, B, -1)
    variance = (np.square(flat).sum(axis=1, keepdims=True) + np.square(flat)) / samples
    assert np.abs((drawn.mean(axis=0) - flat) / np.sqrt(variance / times)).max() < 4.5
    np.testing.assert_allclose(drawn.var(axis=0).mean(), variance.mean(), rtol=0.15)


@pytest.mark.slow
def test_nes_finds_the_corner_of_a_linear_function():
    threat = Threat("linf", 0.1)
    found = jax.jit(lambda: attacks.nes(threat, steps=60, samples=30, step_size=0.02)(KEY, linear, X))()
    best = linear(threat.project(X + jnp.sign(SLOPE), X)) - linear(X)
    assert (found.value - linear(X) > 0.97 * best).all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: attacks.simba(FREE, basis="wavelets"), "basis is 'wavelets'"),
        (lambda: attacks.simba(FREE, frequencies=3), "must be None in the basis of pixels"),
        (lambda: attacks.simba(FREE, queries=0), "queries is 0"),
        (lambda: attacks.zoo(FREE, coordinates=0), "coordinates is 0"),
        (lambda: attacks.nes(FREE, momentum=1.0), "momentum is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
