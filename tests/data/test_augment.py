"""Augmentation: every result is one of the results that enumeration finds, and as often as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax.data import augment
from robustjax.numerics import keys_for

IMAGES = np.random.default_rng(0).random((6, 5, 7, 3)).astype(np.float32)
COLOUR = (0.25, 0.5, 0.75)


def shifted(image, pad, colour):
    """Cut every window out of the padded image."""
    h, w, c = image.shape
    wide = np.broadcast_to(np.asarray(colour, np.float32), (h + 2 * pad, w + 2 * pad, c)).copy()
    wide[pad : pad + h, pad : pad + w] = image
    return {(i, j): wide[i : i + h, j : j + w] for i in range(2 * pad + 1) for j in range(2 * pad + 1)}


def covered(image, size, colour):
    """Cover the window around every pixel."""
    out = {}
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            top, left = i - size // 2, j - size // 2
            out[i, j] = image.copy()
            out[i, j][max(top, 0) : top + size, max(left, 0) : left + size] = colour
    return out


def drawn(step, options, times=4000):
    """Count which of the options of one image come out; fail on anything else."""
    image = next(iter(options.values()))
    many = jnp.broadcast_to(jnp.asarray(IMAGES[0]), (times, *image.shape))
    names = {value.tobytes(): name for name, value in options.items()}
    found = [names[np.asarray(x).tobytes()] for x in jax.jit(step)(jax.random.key(0), many)]
    return {name: found.count(name) for name in options}


def assert_even(counts, times=4000):
    expected = times / len(counts)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    free = len(counts) - 1
    assert chi2 < free + 5 * np.sqrt(2 * free), counts


def test_crop_is_every_window_of_the_padded_image_equally_often():
    assert_even(drawn(augment.crop(2, fill=COLOUR), shifted(IMAGES[0], 2, COLOUR)))


def test_crop_pads_with_black_by_default():
    assert_even(drawn(augment.crop(1), shifted(IMAGES[0], 1, (0, 0, 0))))


def test_flip_mirrors_half_of_the_images():
    assert_even(
        drawn(augment.flip(), {"as it is": IMAGES[0], "mirrored": np.ascontiguousarray(IMAGES[0, :, ::-1])})
    )


def test_resized_crop_of_a_ramp_is_a_part_of_it_as_long_and_anywhere():
    """On a linear image linear interpolation is exact: the slope is the side of the window, the middle its place."""
    size = 32
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size
    image = np.stack(
        [np.broadcast_to(ramp[:, None], (size, size)), np.broadcast_to(ramp, (size, size))], axis=-1
    )
    many = jnp.broadcast_to(jnp.asarray(image), (2000, *image.shape))
    out = np.asarray(jax.jit(augment.resized_crop(area=(0.25, 1.0)))(jax.random.key(0), many))
    inner = slice(8, 24)  # away from the border, where pixels outside would count
    high = (out[:, 23, 16, 0] - out[:, 8, 16, 0]) * size / 15
    wide = (out[:, 16, 23, 1] - out[:, 16, 8, 1]) * size / 15
    np.testing.assert_allclose(
        np.diff(out[:, inner, 16, 0], axis=1), high[:, None] / size * np.ones(15), atol=1e-5
    )
    assert (high < 1 + 1e-4).all() and (wide < 1 + 1e-4).all()
    ratio = wide / high
    assert ratio.min() > 0.75 - 1e-3 and ratio.max() < 4 / 3 + 1e-3 and abs(np.log(ratio).mean()) < 0.02
    # Of windows whose shape fits whatever it is, the area is uniform, and so is the place in what is left.
    area = high * wide
    assert 0.25 - 1e-3 < area.min() < 0.27 and area.max() < 1 + 1e-3
    small = area < 0.74
    assert stats.kstest(area[small], stats.uniform(0.25, area[small].max() - 0.25).cdf).pvalue > 1e-3
    for side, axis in ((high, 0), (wide, 1)):
        corner = (out[:, 15:17, 15:17, axis].mean(axis=(1, 2)) - side / 2) / (1 - side)
        assert stats.kstest(corner[side < 0.9], "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_resized_crop_of_all_of_the_image_is_the_image():
    whole = augment.resized_crop(area=(1.0, 1.0), ratio=(1.0, 1.0))
    square = jnp.asarray(IMAGES[:, :5, :5])
    np.testing.assert_allclose(whole(jax.random.key(0), square), square, atol=1e-6)


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_covers_a_window_around_any_pixel(size):
    assert_even(drawn(augment.cutout(size, fill=COLOUR), covered(IMAGES[0], size, COLOUR)))


def test_cutout_centre_is_not_tied_to_its_column():
    counts = drawn(augment.cutout(1, fill=COLOUR), covered(IMAGES[0], 1, COLOUR))
    diagonal = sum(counts[i, i] for i in range(5))
    assert abs(diagonal - 4000 / 7) < 5 * np.sqrt(4000 / 7)


def test_nothing_to_do_changes_nothing():
    key = jax.random.key(0)
    for step in (augment.crop(0), augment.cutout(0), augment.chain()):
        np.testing.assert_array_equal(step(key, jnp.asarray(IMAGES)), IMAGES)


def test_chain_draws_the_steps_independently():
    # The same key in both would shift both times alike: the shift of the sum would always be even.
    twice = augment.chain(augment.crop(1), augment.crop(1))
    bright = jnp.zeros((500, 9, 9, 1)).at[:, 4, 4].set(1.0)
    out = np.asarray(twice(jax.random.key(1), bright))
    row, column = (out[..., 0].sum(axis=axis).argmax(axis=1) - 4 for axis in (2, 1))
    assert set(row) == set(column) == {-2, -1, 0, 1, 2}


EVERYTHING = augment.chain(augment.crop(2, fill=COLOUR), augment.flip(), augment.cutout(2, fill=0.5))


def test_every_transformation_gives_the_same(variant):
    keys = keys_for(jax.random.key(3), len(IMAGES))
    want = EVERYTHING(keys, jnp.asarray(IMAGES))
    np.testing.assert_allclose(variant(EVERYTHING)(keys, jnp.asarray(IMAGES)), want, atol=1e-7)


def test_one_key_means_one_key_per_example():
    keys = keys_for(jax.random.key(3), len(IMAGES))
    want = EVERYTHING(keys, jnp.asarray(IMAGES))
    np.testing.assert_array_equal(EVERYTHING(jax.random.key(3), jnp.asarray(IMAGES)), want)


def test_result_does_not_depend_on_the_rest_of_the_batch():
    keys = keys_for(jax.random.key(3), len(IMAGES))
    want = EVERYTHING(keys, jnp.asarray(IMAGES))
    some = jnp.asarray([4, 1])
    np.testing.assert_array_equal(EVERYTHING(keys[some], jnp.asarray(IMAGES)[some]), want[some])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: augment.crop(-1), "pad is -1"),
        (lambda: augment.crop(1, fill=128), "fill is 128"),
        (lambda: augment.cutout(-2), "size is -2"),
        (lambda: augment.resized_crop(area=(0.0, 1.0)), "area is"),
        (lambda: augment.resized_crop(ratio=(2.0, 1.0)), "must rise"),
        (lambda: augment.cutout(2, fill=(0.1, -0.1, 0.3)), "fill is -0.1, must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
