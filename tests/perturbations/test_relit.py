"""Scenes under many lights: pairs are of one scene, and the classes of pixels move with them."""

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.data.augment import crop, flip
from robustjax.numerics import keys_for
from robustjax.perturbations.relit import IGNORE, Labelled, relit, under, with_labels

KEY = jax.random.key(0)
# The value of each pixel says which scene and which light it is of.
NUMBERS = np.repeat(100.0 * np.arange(40)[:, None] + np.arange(5)[None], 3, axis=1)[:, :, None, None]
SCENES = jnp.asarray(np.broadcast_to(NUMBERS, (40, 15, 4, 1)), jnp.float32)


def test_pairs_are_two_lights_of_one_scene_and_all_are_drawn():
    views = jax.jit(relit(5))(KEY, SCENES)
    first, second = (np.asarray(v) for v in views)
    assert first.shape == second.shape == (40, 3, 4, 1)
    for view in (first, second):
        assert (view == view[:, :1, :1]).all() and (view[:, 0, 0, 0] // 100 == np.arange(40)).all()
    lights = [view[:, 0, 0, 0] % 100 for view in (first, second)]
    assert (lights[0] != lights[1]).all() and set(lights[0]) == set(lights[1]) == set(range(5))
    np.testing.assert_array_equal(under(SCENES, 2, 5)[:, 0, 0, 0] % 100, 2.0)


def test_classes_move_with_their_pixels_and_the_border_is_unknown():
    label = jnp.asarray(np.random.default_rng(0).integers(0, 36, (20, 6, 7)), jnp.int32).at[:, 0].set(IGNORE)
    image = jnp.repeat(label[..., None].astype(jnp.float32) / 255, 3, axis=-1)
    moved = jax.jit(with_labels(crop(2), flip()))
    out = moved(keys_for(KEY, 20), Labelled(image, label))
    known = out.label != IGNORE
    shown = np.rint(np.asarray(out.image[..., 0]) * 255).astype(int)
    np.testing.assert_array_equal(shown[known], np.asarray(out.label)[known])
    assert set(shown[~known]) <= {0, 255} and (shown[~known] == 0).any()
    assert (np.asarray(out.label) != np.asarray(label)).any()
