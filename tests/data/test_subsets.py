"""What `--images N` takes: fixed, nested, in the shares of the whole, whatever the order of storage."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import data
from robustjax.data import subsets
from robustjax.types import Batch


def split_of(label: np.ndarray, seed: int = 0) -> data.Split:
    image = np.random.default_rng(seed).integers(0, 256, (len(label), 2, 2, 1), np.uint8)
    return data.of_arrays(image, label, name="made up", classes=tuple(map(str, range(label.max() + 1))))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_subsets_are_nested_stratified_and_independent_of_storage(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, rng.integers(1, 9))
    sizes[0] += 1
    whole = split_of(np.sort(np.repeat(np.arange(len(sizes)), sizes)), seed)
    total = len(whole.label)
    shuffled = rng.permutation(total)
    stored = data.of_arrays(
        whole.image[shuffled], whole.label[shuffled], name="made up", classes=whole.info.classes
    )
    order = subsets.stratified(whole.image, whole.label, total)
    taken = (whole.label[order][:, None] == np.arange(len(whole.info.classes))).cumsum(axis=0)
    for count in range(1, total + 1):
        # Shares: within one image of those of the whole, for every class, in whole numbers.
        assert (np.abs(taken[count - 1] * total - count * np.array(whole.info.per_class)) < total).all()
    for count in rng.integers(1, total + 1, 3):
        part, again = subsets.subset(whole, int(count)), subsets.subset(stored, int(count))
        if count < total:
            np.testing.assert_array_equal(part.index, order[:count])  # nested
            assert part.info.per_class == tuple(taken[count - 1])
        # Stored otherwise, the same images.
        assert {x.tobytes() for x in part.image} == {x.tobytes() for x in again.image}
        # The index still numbers the whole.
        np.testing.assert_array_equal(whole.image[part.index], part.image)


def test_a_prefix_of_classes_does_not_decide():
    # Two classes of 1000 pictures stored one after the other: the first 1000 are one class alone.
    whole = split_of(np.repeat([0, 1], 1000))
    assert subsets.subset(whole, 1000).info.per_class == (500, 500)
    assert subsets.subset(whole, "official:1000").info.per_class == (1000, 0)
    # 242 classes of 20, as in Omniglot: 1000 hold every class, 4 or 5 times.
    many = subsets.subset(split_of(np.repeat(np.arange(242), 20)), 1000)
    assert set(many.info.per_class) == {4, 5}


def test_the_order_by_hand():
    # Shares 4/7, 2/7, 1/7. The largest n_k / (a_k + 1) among the a_k < N n_k / 7:
    # N=1: 4, 2, 1, all below: class 0. N=2: class 0 has 1 < 8/7: 4/2 = 2/1, the smaller label. N=3: 2 > 12/7 is
    # closed: class 1. N=4: 4/3, 2/2, 1: class 0, as 2 < 16/7. N=5: 3 > 20/7, 1 < 10/7, 1: 2/2 = 1/1: class 1.
    # N=6: 3 < 24/7 and 4/4 = 1, 2 > 12/7, 1: class 0. N=7: class 2.
    label = np.array([0, 0, 0, 0, 1, 1, 2])
    whole = split_of(label, 3)
    rows = subsets.stratified(whole.image, whole.label, 7)
    np.testing.assert_array_equal(label[rows], [0, 0, 1, 0, 1, 0, 2])
    hashes = [hashlib.blake2b(whole.image[i].tobytes(), digest_size=16).hexdigest() for i in range(4)]
    np.testing.assert_array_equal(rows[label[rows] == 0], np.argsort(hashes))


def test_official_order_and_names():
    whole = split_of(np.repeat([0, 1], 50))
    first = subsets.subset(whole, "official:60")
    np.testing.assert_array_equal(first.index, np.arange(60))
    assert first.info.subset == ("official", 100)
    part = subsets.subset(whole, 60)
    assert part.info.subset == ("stratified", 100) and part.info.count == 60
    assert part.info.sha256 == hashlib.sha256(part.image.tobytes()).hexdigest() != whole.info.sha256
    said = subsets.in_words(part.info)
    assert said.startswith(
        "60 of 100 (a stratified subset) test images of made up, 30 of each class, SHA-256 "
    )
    assert part.info.sha256[:16] in said
    for wanted in (None, 100, 5000, "official:100"):
        assert subsets.subset(whole, wanted) is whole
    # Subsets of subsets are beginnings, and keep the name of the rule and the size of the whole.
    for outer, inner in ((part, 7), (first, 7), (first, "official:7")):
        again = subsets.subset(outer, inner)
        np.testing.assert_array_equal(again.index, outer.index[:7])
        assert again.info.subset == outer.info.subset
    np.testing.assert_array_equal(subsets.subset(part, 7).index, subsets.subset(whole, 7).index)
    with pytest.raises(ValueError, match="images are a subset already, stratified"):
        subsets.subset(part, "official:7")


@pytest.mark.parametrize("wanted", [0, -3, "first:9", "official:", "official:0", "many", "official:-1", ""])
def test_anything_else_is_refused_in_a_line(wanted):
    with pytest.raises(ValueError, match=r"--images is .*, must be N, at least 1, for") as error:
        subsets.rule(wanted)
    assert "\n" not in str(error.value)


def test_images_in_memory_follow_the_same_rule():
    whole = split_of(np.repeat(np.arange(3), 20))
    floats = Batch(whole.image.astype(np.float32) / 255, whole.label)  # pyright: ignore[reportArgumentType]
    part = subsets.batch_subset(floats, 12)
    assert np.bincount(np.asarray(part.label)).tolist() == [4, 4, 4]
    # One unit in the last place, as another device may round, changes nothing.
    moved = floats._replace(image=np.nextafter(floats.image, np.float32(2)))  # pyright: ignore
    np.testing.assert_array_equal(subsets.batch_subset(moved, 12).label, part.label)
    np.testing.assert_allclose(subsets.batch_subset(moved, 12).image, part.image, atol=1e-6)
    np.testing.assert_array_equal(subsets.batch_subset(floats, "official:12").label, whole.label[:12])
    assert subsets.batch_subset(floats, None) is floats and subsets.batch_subset(floats, 60) is floats


def test_pixels_with_classes_are_one_stratum():
    image = np.random.default_rng(0).integers(0, 256, (9, 4, 2, 1), np.uint8)
    label = np.random.default_rng(1).integers(0, 3, (9, 2, 2))
    rows = subsets.stratified(image, label, 5)
    hashes = [hashlib.blake2b(one.tobytes(), digest_size=16).hexdigest() for one in image]
    np.testing.assert_array_equal(rows, np.argsort(hashes)[:5])
