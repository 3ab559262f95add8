"""80 Million Tiny Images, random images and pseudo-labelled ones: their files, their lists, their share of a batch."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest

from robustjax.data import batches, load, of_arrays, pairs, raw, store
from robustjax.data.extra import enriched
from robustjax.data.known import KNOWN
from robustjax.data.tiny_images import Records, left_out, whole

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)


def written(folder, image=IMAGE):
    """Write records as MATLAB does: rows change fastest, then columns, then channels."""
    path = folder / "tiny_images.bin"
    path.write_bytes(b"".join(one.tobytes(order="F") for one in image))
    return path


def test_records_are_column_major(tmp_path):
    found = Records(written(tmp_path, IMAGE[:3]), np.zeros(0, np.int64))
    assert found.shape == (3, 32, 32, 3) and len(found) == 3 and found.nbytes == 3 * 3072
    np.testing.assert_array_equal(found[np.array([2, 0])], IMAGE[[2, 0]])
    np.testing.assert_array_equal(found[1], IMAGE[1])
    np.testing.assert_array_equal(found[1:], IMAGE[1:3])
    assert (tmp_path / "tiny_images.bin").read_bytes()[1] == IMAGE[
        0, 1, 0, 0
    ]  # the second byte is one row down


def test_one_list_counts_from_one_and_the_others_from_zero(tmp_path):
    first, second = tmp_path / "80mn_cifar_idxs.txt", tmp_path / "80mn_cifar10_test_idxs.txt"
    first.write_text("1\n5\n5\n")
    second.write_text("4\n11\n")
    np.testing.assert_array_equal(left_out([first, second]), [0, 4, 11])
    np.testing.assert_array_equal(left_out([]), [])
    kept = [1, 2, 3, 5, 6, 7, 8, 9, 10]
    split = whole(written(tmp_path), lists=[first, second])
    np.testing.assert_array_equal(split.index, kept)
    np.testing.assert_array_equal(split.image[np.arange(9)], IMAGE[kept])
    np.testing.assert_array_equal(split.image[np.array([8, 0])], IMAGE[[10, 1]])
    assert split.info.count == 9 and "3 images left out" in split.info.note


def test_the_whole_file_streams_as_ood_images(tmp_path):
    data = of_arrays(IMAGE, np.arange(12) % 3, name="mine", split="train")
    ood = whole(written(tmp_path))
    stream = pairs(data, ood, batch_size=4, ood_batch_size=6, seed=0, resident=False)
    seen = np.concatenate([np.asarray(pair.ood) for pair in itertools.islice(stream, 2)])  # one epoch
    order = np.lexsort(seen.reshape(12, -1).T)
    want = IMAGE.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(seen[order], want[np.lexsort(want.reshape(12, -1).T)])


def test_a_sample_is_prepared_and_loaded_by_name(tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    written(source)
    (source / "80mn_cifar_idxs.txt").write_text("\n".join(map(str, (1, 2, 3))))
    (source / "80mn_cifar100_train_idxs.txt").write_text("11\n")
    chosen = {}
    for count in (4, 7):
        contents = raw.contents(f"tiny_images/{count}", source)
        part = contents.parts["train"]
        assert not {0, 1, 2, 11} & set(part.index.tolist()) and len(set(part.index.tolist())) == count
        np.testing.assert_array_equal(part.image, IMAGE[part.index])
        chosen[count] = set(part.index.tolist())
    assert chosen[4] < chosen[7]
    store.write(raw.contents("tiny_images/8", source), tmp_path / "out")
    parts = [load("tiny_images/8", split, data_dir=tmp_path / "out") for split in ("train", "validation")]
    index = np.concatenate([p.index for p in parts])
    assert sorted(index) == [3, 4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(np.concatenate([p.image for p in parts]), IMAGE[index])


def test_the_sample_is_the_same_however_it_is_read(tmp_path, monkeypatch):
    written(tmp_path)
    before = raw.contents("tiny_images/5", tmp_path).parts["train"].index
    monkeypatch.setattr("robustjax.data.tiny_images._CHUNK", 2)
    np.testing.assert_array_equal(raw.contents("tiny_images/5", tmp_path).parts["train"].index, before)


def test_random_images_have_no_labels(tmp_path, monkeypatch):
    np.save(tmp_path / "300K_random_images.npy", IMAGE)
    with pytest.raises(ValueError, match="12 train images found, must be 300,000"):
        raw.contents("random_images", tmp_path)
    monkeypatch.setitem(
        KNOWN, "random_images", dataclasses.replace(KNOWN["random_images"], counts={"train": 12})
    )
    contents = raw.contents("random_images", tmp_path)
    np.testing.assert_array_equal(contents.parts["train"].image, IMAGE)
    assert set(contents.parts) == {"train"} and not contents.parts["train"].label.any()


@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_pseudo_labelled_images_are_training_data(tmp_path, kind):
    label = np.arange(12) % 10
    if kind == "pickle":
        with open(tmp_path / "ti_500K_pseudo_labeled.pickle", "wb") as file:
            pickle.dump({"data": IMAGE, "extrapolated_targets": label}, file)
    else:
        np.savez(tmp_path / "cifar10_ddpm.npz", image=IMAGE, label=label)
    contents = raw.contents("cifar10_extra", tmp_path)
    assert contents.classes[:2] == ("airplane", "automobile") and len(contents.classes) == 10
    np.testing.assert_array_equal(contents.parts["train"].image, IMAGE)
    np.testing.assert_array_equal(contents.parts["train"].label, label)
    # More of another set has its classes, whatever follows the name; of a set that nobody knows, those of the labels.
    assert len(raw.contents("cifar100_extra/edm", tmp_path).classes) == 100
    assert raw.contents("mine_extra", tmp_path).classes == tuple("0123456789")


def splits(labelled=30, more=50):
    """Make sets whose images say by their value which they are: labelled below 100, others from 100."""
    own = np.broadcast_to(np.arange(labelled, dtype=np.uint8)[:, None, None, None], (labelled, 2, 2, 1))
    other = np.broadcast_to(np.arange(100, 100 + more, dtype=np.uint8)[:, None, None, None], (more, 2, 2, 1))
    return (
        of_arrays(own, np.arange(labelled) % 3, name="own", split="train"),
        of_arrays(other, np.arange(more) % 3, name="other", split="train"),
    )


def values(batch):
    return np.round(np.asarray(batch.image)[:, 0, 0, 0] * 255).astype(int)


def test_each_batch_has_its_share_of_pseudo_labelled_images():
    own, other = splits()
    stream = enriched(own, other, batch_size=16, seed=3)
    found = [next(stream) for _ in range(6)]
    for batch in found:
        value = values(batch)
        assert (value >= 100).sum() == 11  # int(0.7 * 16)
        np.testing.assert_array_equal(batch.label, np.where(value >= 100, value - 100, value) % 3)
    first = np.concatenate([values(b) for b in found])
    inside = first[first < 100]
    assert sorted(inside) == sorted(range(30))  # 6 batches of 5: an epoch of the labelled ones
    outside = first[first >= 100]
    assert (
        len(set(outside[:44].tolist())) == 44
    )  # none of the others twice in four batches, less than an epoch
    where = np.mean([values(b) >= 100 for b in found], axis=0)
    assert (where[:11] < 1).any()  # shuffled together
    resumed = enriched(own, other, batch_size=16, seed=3, start=4)
    np.testing.assert_array_equal(values(next(resumed)), values(found[4]))


def test_a_share_of_zero_is_the_labelled_stream_in_another_order_within_the_batch():
    own, other = splits()
    alone = batches.stream(own, batch_size=10, seed=1)
    for with_none in itertools.islice(enriched(own, other, batch_size=10, share=0.0, seed=1), 3):
        assert sorted(values(with_none)) == sorted(values(next(alone)))


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda p: whole(p / "short.bin"), "10 bytes, must be a whole number of records of 3072"),
        (lambda p: whole(written(p), lists=[p / "80mn_far_idxs.txt"]), "must be in 0 to 11"),
        (lambda p: whole(written(p), lists=[p / "80mn_word_idxs.txt"]), "one number a line"),
        (lambda p: raw.contents("tiny_images/many", p), "tiny_images/1000000"),
        (lambda p: (written(p), raw.contents("tiny_images/13", p)), "must be 1 to"),
        (lambda p: enriched(*splits(), batch_size=4, share=1.5, seed=0), "share is 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, act, message):
    (tmp_path / "short.bin").write_bytes(b"0123456789")
    (tmp_path / "80mn_far_idxs.txt").write_text("12\n" if "0 to 11" in message else "3\n")
    (tmp_path / "80mn_word_idxs.txt").write_text("four\n" if "number a line" in message else "3\n")
    with pytest.raises(ValueError, match=message):
        act(tmp_path)
