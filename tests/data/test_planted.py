"""Planted digits: exact arrays, pairing of variants, groups, and what each variant shows."""

import dataclasses
import hashlib

import numpy as np
import pytest

from robustjax.data import painting, scenes
from robustjax.data import planted as p

BINARY = dataclasses.replace(p.TINY, task="binary", correlation=0.95)
# (recipe, split, count, variant) -> SHA-256[:16] of labels, places (int32) and masks (uint8); mean and standard
# deviation of the pixels, mean of the mask: computed by another implementation.
KNOWN = {
    "train": (
        (p.TINY, "train", 3000, "original"),
        ("157af6e926905e66", "33d67f32cdc0d81e", "942fe710b9320b16"),
        (0.604428, 0.203838, 0.251208),
    ),
    "original": (
        (p.TINY, "test", 1200, "original"),
        ("983c6f3f617ce412", "1e60ec55cfacfae1", "798c0818d041b69a"),
        (0.604602, 0.203718, 0.251631),
    ),
    "mixed_rand": (
        (p.TINY, "test", 1200, "mixed_rand"),
        ("983c6f3f617ce412", "fb3d66dc37a556cc", "798c0818d041b69a"),
        (0.604719, 0.203769, 0.251631),
    ),
    "mixed_other": (
        (p.TINY, "test", 1200, "mixed_other"),
        ("983c6f3f617ce412", "a0e2b4a64ed122b9", "798c0818d041b69a"),
        (0.604561, 0.203763, 0.251631),
    ),
    "binary": (
        (BINARY, "train", 4000, "original"),
        ("5f3fdf9cf8f0531b", "da1024974ea15c05", "b094ea2fa8e26f92"),
        (0.604457, 0.203765, 0.251377),
    ),
    "small": (
        (p.SMALL, "train", 3000, "original"),
        ("157af6e926905e66", "33d67f32cdc0d81e", "0bdc72cf64cbe0bc"),
        (0.602878, 0.204554, 0.248359),
    ),
}


@pytest.fixture(scope="module")
def source():
    return p.embedded()


@pytest.fixture(scope="module")
def paired(source):
    """Sixty test scenes in every variant."""
    return {v: arrays(p.planted(p.TINY, source, split="test", count=60, variant=v)) for v in p.VARIANTS}


def arrays(found):
    rows = np.arange(len(found))
    return found.image(rows), found.mask(rows), found.label, found.place


def digest(array, kind):
    return hashlib.sha256(np.ascontiguousarray(array.astype(kind)).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", KNOWN)
def test_arrays_are_known(name, source):
    (recipe, split, count, variant), hashes, numbers = KNOWN[name]
    found = p.planted(recipe, source, split=split, count=count, variant=variant)
    image, mask, label, place = arrays(found)
    assert (digest(label, "<i4"), digest(place, "<i4"), digest(mask, "u1")) == hashes
    wide = image.astype(np.float64)
    np.testing.assert_allclose((wide.mean(), wide.std(), mask.mean()), numbers, atol=1e-6)
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    assert found.label.dtype == found.place.dtype == np.int32


def test_groups_are_exact(source):
    found = p.planted(BINARY, source, split="train", count=4000)
    assert np.bincount(found.group).tolist() == [1875, 99, 101, 1925] and found.groups == 4
    np.testing.assert_array_equal(found.group, 2 * found.label + found.place)


def test_no_digit_is_in_two_splits(source):
    found = [
        set(p.planted(p.TINY, source, split=s, count=2500, seed=7).index)
        for s in ("train", "validation", "test")
    ]
    assert [len(f) for f in found] == [1197, 200, 400] and len(set.union(*found)) == 1797


def test_variants_differ_in_the_texture_alone(paired):
    assert {image.shape[1:] for image, *_ in paired.values()} == {(16, 16, 3)}  # grey ones too
    same, other, mask = paired["mixed_same"][0], paired["mixed_other"][0], paired["mixed_same"][1]
    solid = (paired["only_fg"][0] == np.float32(0.9)).all(-1)  # where nothing shines through
    assert 0.1 < solid.mean() < mask.mean() and not (solid & ~mask).any()
    np.testing.assert_array_equal(same[solid], other[solid])
    assert (same != other)[~mask].any(-1).mean() > 0.99
    random, place = paired["mixed_rand"][0], paired["mixed_rand"][3]
    hit = place == paired["mixed_same"][3]
    np.testing.assert_array_equal(random[hit], same[hit])
    assert hit.any() and (random[~hit] != same[~hit]).any(axis=(1, 2, 3)).all()


def test_places_of_variants(paired):
    label = paired["original"][2]
    np.testing.assert_array_equal(paired["mixed_same"][3], label)
    np.testing.assert_array_equal(paired["only_bg_t"][3], label)
    np.testing.assert_array_equal(paired["mixed_next"][3], (label + 1) % 10)
    assert (paired["mixed_other"][3] != label).all()
    for name in ("only_fg", "no_fg", "only_bg_b"):
        np.testing.assert_array_equal(paired[name][3], paired["original"][3])


def test_what_is_cut_out(paired):
    image, mask, *_ = paired["no_fg"]
    assert (image[mask] == 0).all() and (image[~mask] > 0).mean() > 0.99
    np.testing.assert_array_equal(np.ptp(paired["only_fg"][0][~mask], axis=-1).max(), 0)  # grey
    box, *_ = paired["only_bg_b"]
    for i in range(10):
        rows, columns = (np.flatnonzero(mask[i].any(axis=a)) for a in (1, 0))
        inside = np.zeros_like(mask[i])
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal((box[i] == 0).all(-1), inside)
        np.testing.assert_array_equal(box[i][~inside], image[i][~inside])


def test_enlarging_is_linear_interpolation():
    from scipy.ndimage import map_coordinates

    image = np.random.default_rng(0).uniform(size=(2, 8, 8))
    at = (np.arange(12) + 0.5) * 8 / 12 - 0.5
    for small, big in zip(image, painting.enlarged(image, 12)):
        expected = map_coordinates(small, np.meshgrid(at, at, indexing="ij"), order=1, mode="nearest")
        np.testing.assert_allclose(big, expected, atol=1e-12)


def test_settings_scale_what_they_name(source):
    def pixels(**changes):
        recipe = dataclasses.replace(p.TINY, noise=0.0, **changes)
        return arrays(p.planted(recipe, source, split="test", count=40, variant="only_bg_t"))[0] - 0.5

    np.testing.assert_allclose(pixels(spurious_scale=0.2), 2 * pixels(spurious_scale=0.1), atol=1e-6)
    both = dataclasses.replace(p.TINY, polarity="random", core_scale=0.3)
    image, mask, *_ = arrays(p.planted(both, source, split="test", count=40, variant="only_fg"))
    brightest = np.where(mask[..., None], np.abs(image - 0.5), 0).max(axis=(1, 2, 3))
    np.testing.assert_allclose(brightest, 0.3, atol=1e-6)
    dark = np.array([(i[m] < 0.5).all() for i, m in zip(image, mask)])
    assert 5 < dark.sum() < 35


def test_any_grey_digits_can_be_planted():
    rng = np.random.default_rng(1)
    image, digit = rng.integers(0, 256, (60, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 60)
    other = p.of_grey(image, digit, validation=10, test=20)
    assert {k: len(v) for k, v in other.rows.items()} == {"train": 30, "validation": 10, "test": 20}
    found = p.planted(p.SMALL, other, split="train", count=45)
    assert found.image(np.arange(45)).shape == (45, 32, 32, 3)
    np.testing.assert_array_equal(found.label, digit[found.index])


def test_batches_hold_every_example_once(source):
    found = p.planted(p.TINY, source, split="test", count=10)
    got = [
        (np.asarray(b.label)[m], np.asarray(b.image)[m], b) for b, m in scenes.batches(found, batch_size=4)
    ]
    assert len(got) == 3 and got[0][2].mask.shape == (4, 16, 16)
    np.testing.assert_array_equal(np.concatenate([g[0] for g in got]), found.label)
    np.testing.assert_array_equal(np.concatenate([g[1] for g in got]), found.image(np.arange(10)))
    chosen = scenes.subset(scenes.subset(found, np.array([5, 1, 1, 9])), np.array([3, 0]))
    np.testing.assert_array_equal(chosen.image(np.arange(2)), found.image(np.array([9, 5])))
    np.testing.assert_array_equal(chosen.group, found.group[[9, 5]])


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda s: dataclasses.replace(p.TINY, correlation=1.5), "correlation is 1.5, must be in"),
        (lambda s: dataclasses.replace(p.TINY, digit=17), "digit is 17, must be in 1..16"),
        (lambda s: dataclasses.replace(p.TINY, task="ternary"), "task is 'ternary', must be one of"),
        (lambda s: dataclasses.replace(p.TINY, noise=-1), "must be at least 0"),
        (lambda s: p.planted(p.TINY, s, split="valid", count=3), "split is 'valid'"),
        (lambda s: p.planted(p.TINY, s, split="test", count=0), "count is 0, must be at least 1"),
        (lambda s: p.of_grey(s.image * 16, s.digit, validation=1, test=1), r"lie in \[0, 16\]"),
        (lambda s: p.of_grey(s.image, s.digit, validation=1000, test=797), "must leave some of 1797"),
        (lambda s: p.of_grey(s.image, s.digit[:3], validation=1, test=1), r"with \[m\]"),
    ],
)
def test_what_cannot_be_meant_is_refused(build, message, source):
    with pytest.raises(ValueError, match=message):
        build(source)
