"""Patches of photographs, and in-distribution images that were changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.data import ood_images, photos

X = jnp.asarray(np.random.default_rng(0).random((6, 4, 4, 1)), jnp.float32)


def test_patches_are_stretched_squares_of_the_photograph():
    found = photos.patches("china", count=12, size=8)
    assert found.shape == (12, 8, 8, 1) and found.dtype == np.uint8
    spread = found.reshape(12, -1)
    assert (spread.min(1) == 0).all() and (spread.max(1) == 255).all()
    np.testing.assert_array_equal(found, photos.patches("china", count=12, size=8))
    assert (found != photos.patches("china", count=12, size=8, seed=1)).any()
    assert (found != photos.patches("flower", count=12, size=8)).any()
    with pytest.raises(ValueError, match="patches: count"):
        photos.patches("china", count=0)
    assert photos.patches("china", count=2, size=224).shape == (2, 224, 224, 1)  # only the first scale fits
    with pytest.raises(ValueError, match="product must be at most 427"):
        photos.patches("china", count=2, size=300, scales=(1, 2))


def test_turned_and_inverted():
    np.testing.assert_array_equal(ood_images.upside_down(X), np.rot90(np.asarray(X), 2, axes=(1, 2)))
    np.testing.assert_allclose(ood_images.inverted(ood_images.inverted(X)), X, atol=1e-6)


def test_joined_halves_come_from_two_images():
    found = np.asarray(ood_images.joined(jax.random.key(0), X))
    images = np.asarray(X)
    np.testing.assert_array_equal(found[:, :, :2], images[:, :, :2])
    for i, right in enumerate(found[:, :, 2:]):
        source = [j for j in range(6) if (right[:, ::-1] == images[j, :, 2:]).all()]
        assert len(source) == 1 and source != [i]
