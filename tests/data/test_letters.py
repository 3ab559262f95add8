"""Letters: deterministic, none like a digit, training and test fonts apart, in the look of the digits."""

import numpy as np
import pytest

from robustjax.data import digits, letters


@pytest.fixture(scope="module")
def small():
    return letters.contents(8)


@pytest.mark.slow
def test_counts_and_classes(small):
    for split, fonts in (("train", letters.TRAIN_FONTS), ("test", letters.TEST_FONTS)):
        part = small.parts[split]
        assert part.image.shape == (len(fonts) * 36 * 8, 8, 8, 1) and part.image.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(part.label), len(fonts) * 8)
    assert small.classes == tuple(letters.LETTERS)


def test_letters_that_look_like_digits_are_left_out():
    assert not set("oOlIizZsSbBgqQDG") & set(letters.LETTERS)
    assert len(set(letters.LETTERS)) == len(letters.LETTERS) == 36


def test_no_font_is_trained_and_tested():
    assert all(name.startswith(("DejaVuSans", "STIX")) for name in letters.TRAIN_FONTS)
    assert not any(name.startswith(("DejaVuSans", "STIX")) for name in letters.TEST_FONTS)


@pytest.mark.slow
def test_rendering_is_deterministic(small):
    font = letters.TEST_FONTS[:1]
    again = letters._part(letters._folder(), font, 8)
    np.testing.assert_array_equal(again.image, small.parts["test"].image[: len(again.image)])


def test_images_look_like_digits(small):
    real = digits.contents().parts["train"].image
    levels = {(k * 255 + 8) // 16 for k in range(17)}
    for part in small.parts.values():
        assert set(np.unique(part.image)) <= levels == set(np.unique(real)) | levels
        assert (part.image.max(axis=(2, 3)) > 0).mean() > 0.99  # they fill the height, as digits do
        assert 0.6 < part.image.mean() / real.mean() < 1.2
        assert (part.image[:, :, [0, -1]] == 0).mean() > 0.8  # and leave the sides free


def test_variations_differ(small):
    image = small.parts["train"].image.reshape(-1, 8, 64)
    same = [(a[i] == a[j]).all() for a in image for i in range(8) for j in range(i)]
    assert np.mean(same) < 0.01


@pytest.mark.slow
def test_mnist_look():
    part = letters.contents(28).parts["test"]
    assert part.image.shape[1:] == (28, 28, 1)
    mass = part.image[..., 0].astype(np.float64)
    for axis in (1, 2):
        line = mass.sum(axis=3 - axis)
        centre = (line * np.arange(28)).sum(axis=1) / line.sum(axis=1)
        assert np.abs(centre - 14).max() < 3 and np.abs(centre - 14).mean() < 0.6
    inked = mass > 0
    height, width = inked.any(axis=2).sum(axis=1), inked.any(axis=1).sum(axis=1)
    assert np.maximum(height, width).max() <= 20 and np.maximum(height, width).mean() > 19


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="size is 32, must be 8 or 28"):
        letters.contents(32)
