"""Random rotations, shifts and tilts: on a linear image linear interpolation is exact, so that each can be read off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax.data.projective import homography, projective

SIZE = 16
Y, X = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
RAMP = np.stack([X, Y], axis=-1).astype(np.float32)
MANY = jnp.broadcast_to(jnp.asarray(RAMP), (600, *RAMP.shape))


def run(**settings):
    return np.asarray(jax.jit(projective(**settings))(jax.random.key(0), MANY))


def uniform(values, most):
    assert stats.kstest((values / most + 1) / 2, "uniform").pvalue > 1e-3
    assert np.abs(values).max() <= most + 1e-3


def test_a_homography_takes_four_points_to_four_points():
    rng = np.random.default_rng(0)
    source = np.array([[0, 0], [0, 9], [9, 9], [9, 0]]) + rng.uniform(-2, 2, (4, 2))
    target = np.array([[0, 0], [0, 9], [9, 9], [9, 0]]) + rng.uniform(-2, 2, (4, 2))
    h = np.asarray(homography(jnp.asarray(source, jnp.float32), jnp.asarray(target, jnp.float32)), float)
    u = np.concatenate([source, np.ones((4, 1))], axis=1) @ h.T
    np.testing.assert_allclose(u[:, :2] / u[:, 2:], target, atol=1e-3)


def test_shifts_are_uniform_and_leave_what_is_inside():
    moved = RAMP - run(rotation=0, shift=2.0, tilt=0)
    inner = moved[:, 4:12, 4:12]
    np.testing.assert_allclose(inner, inner[:, :1, :1] * np.ones((8, 8, 1)), atol=1e-4)
    uniform(inner[:, 0, 0, 0], 2.0)
    uniform(inner[:, 0, 0, 1], 2.0)


def test_rotations_are_uniform_around_the_centre():
    out = run(rotation=15.0, shift=0, tilt=0)
    across = (out[:, 8, 9] - out[:, 8, 8]).astype(float)  # the axis of columns, turned
    np.testing.assert_allclose(np.linalg.norm(across, axis=1), 1, atol=1e-4)
    uniform(np.degrees(np.arctan2(across[:, 1], across[:, 0])), 15.0)
    np.testing.assert_allclose(out[:, 7:9, 7:9].mean(axis=(1, 2)), 7.5, atol=1e-4)


@pytest.mark.slow
def test_corners_reach_as_far_as_they_may():
    """A point near a corner moves by about as much as the corner, which is at most the tilt times the side."""
    moved = np.abs(RAMP - run(rotation=0, shift=0, tilt=0.1))[:, 4:12, 4:12].max(axis=(1, 2, 3))
    assert 0.3 < moved.max() <= 0.1 * SIZE * 1.5


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="tilt is -1"):
        projective(tilt=-1)
