"""Warps against scipy's affine transform, and the facts about shifts and turns that need no oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.perturbations.sampling import bilinear, folded, nearest
from robustjax.perturbations.spatial import warp

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(4, 9, 12, 2)), jnp.float32)
WARP = jax.jit(warp, static_argnames=("border", "sampler"))
MODES = {"zero": "grid-constant", "edge": "nearest", "symmetric": "reflect", "mirror": "mirror"}


def affine(theta, shape):
    """Matrix and offset for scipy, from result to source in (row, column), composed forwards and then inverted."""
    rotation, down, right, growth, shear = (*theta, 0.0, 0.0)[:5]
    angle, lean = np.deg2rad(rotation), np.tan(np.deg2rad(shear))
    # In x to the right and y up a turn is the usual matrix; rows are -y.
    to_xy = np.array([[0.0, 1.0], [-1.0, 0.0]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    leaning = np.array([[1.0, -lean], [0.0, 1.0]])
    forward = np.linalg.inv(to_xy) @ turn @ ((1 + growth) * np.eye(2)) @ leaning @ to_xy
    middle = (np.array(shape) - 1) / 2
    matrix = np.linalg.inv(forward)
    return matrix, middle - matrix @ (middle + np.array([down, right]))


@given(
    theta=st.tuples(
        st.floats(-180, 180), st.floats(-4, 4), st.floats(-4, 4), st.floats(-0.5, 0.5), st.floats(-40, 40)
    )
)
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("border", MODES)
def test_agrees_with_scipy(border, theta):
    warped = WARP(X, jnp.tile(jnp.asarray(theta, jnp.float32), (4, 1)), border=border)
    matrix, offset = affine(theta, X.shape[1:3])
    for i in (0, 3):
        for c in range(2):
            expected = scipy.ndimage.affine_transform(
                np.asarray(X[i, :, :, c], np.float64), matrix, offset, order=1, mode=MODES[border]
            )
            np.testing.assert_allclose(warped[i, :, :, c], expected, atol=2e-4)


def test_zero_is_the_identity_whatever_the_number_of_columns():
    for columns in (3, 4, 5):
        np.testing.assert_array_equal(WARP(X, jnp.zeros((4, columns))), X)


def test_shifts_and_quarter_turns_move_pixels():
    shifted = WARP(X, jnp.asarray([[0.0, 2.0, -3.0]] * 4))
    np.testing.assert_array_equal(shifted[:, 2:, :-3], X[:, :-2, 3:])
    assert not shifted[:, :2].any() and not shifted[:, :, -3:].any()
    square = X[:, :, :9]
    np.testing.assert_allclose(
        WARP(square, jnp.asarray([[90.0, 0, 0]] * 4)), jnp.rot90(square, axes=(1, 2)), atol=2e-5
    )


def test_each_example_has_its_own_warp():
    theta = jnp.asarray(RNG.uniform(-3, 3, size=(4, 3)), jnp.float32)
    whole = WARP(X, theta)
    for i in range(4):
        np.testing.assert_allclose(WARP(X[i : i + 1], theta[i : i + 1])[0], whole[i], atol=1e-6)


def test_gradient_in_theta_is_that_of_finite_differences_of_scipy():
    weight = RNG.normal(size=X.shape[1:3])
    theta = np.array([10.3, 0.4, -1.3, 0.1, 5.1])
    image = np.asarray(X[0, :, :, 0], np.float64)

    def oracle(theta):
        matrix, offset = affine(theta, image.shape)
        return (scipy.ndimage.affine_transform(image, matrix, offset, order=1, mode="nearest") * weight).sum()

    def value(theta):
        warped = warp(X[:1, :, :, :1], theta[None], border="edge")
        return (warped[0, :, :, 0] * jnp.asarray(weight, jnp.float32)).sum()

    numeric = [(oracle(theta + step) - oracle(theta - step)) / 2e-6 for step in 1e-6 * np.eye(5)]
    np.testing.assert_allclose(
        jax.jit(jax.grad(value))(jnp.asarray(theta, jnp.float32)), numeric, rtol=2e-3, atol=1e-3
    )


def test_nearest_keeps_grey_levels_and_agrees_with_scipy():
    theta = (31.7, 1.3, 0.2, -0.2)
    grid = (X * 255).round() / 255
    warped = WARP(grid, jnp.asarray([theta] * 4), sampler=nearest)
    matrix, offset = affine(theta, X.shape[1:3])
    expected = scipy.ndimage.affine_transform(
        np.asarray(grid[0, :, :, 0]), matrix, offset, order=0, mode="grid-constant"
    )
    np.testing.assert_array_equal(warped[0, :, :, 0], expected)


@pytest.mark.parametrize("mode", ["symmetric", "mirror", "edge"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_borders_repeat_as_numpy_pads(mode, size):
    padded = (
        np.pad(np.arange(size), 7, mode={"mirror": "reflect"}.get(mode, mode))
        if size > 1
        else np.zeros(15, int)
    )
    np.testing.assert_array_equal(folded(jnp.arange(-7, size + 7), size, mode), padded)


def test_bilinear_is_exact_at_pixels_and_halfway_between():
    rows, columns = jnp.meshgrid(jnp.arange(9.0), jnp.arange(11.0) + 0.5, indexing="ij")
    between = bilinear(X[0], rows, columns, "zero")
    np.testing.assert_allclose(between, (X[0, :, :-1] + X[0, :, 1:]) / 2, atol=1e-6)


def test_refuses_other_shapes_and_borders():
    for theta in (jnp.zeros((4, 2)), jnp.zeros((3, 3)), jnp.zeros((4, 6)), jnp.zeros(3)):
        with pytest.raises(ValueError, match="warp: theta"):
            warp(X, theta)
    with pytest.raises(ValueError, match="border"):
        warp(X, jnp.zeros((4, 3)), border="wrap")
