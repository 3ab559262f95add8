"""Loading: the embedded digits against scikit-learn, what is kept on disk, and data that are not there."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from robustjax.data import load, of_arrays, order, restricted_imagenet, sources, store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A data folder with the digits prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    load("digits", "test", data_dir=folder)
    return folder


def made(name="made", count=40, shape=(6, 6, 3), splits=("train", "test"), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    parts = {
        split: store.Part(
            rng.integers(0, 256, (count, *shape), np.uint8),
            rng.integers(0, classes, count).astype(np.int32),
            rng.permutation(1000)[:count],
        )
        for split in splits
    }
    return store.Contents(name, "1.0.0", tuple("abcd"[:classes]), parts, "random numbers", "of no use")


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn(shelf):
    from sklearn.datasets import load_digits

    image, label = load_digits(return_X_y=True)
    splits = {split: load("digits", split, data_dir=shelf) for split in sources.SPLITS}
    for split in splits.values():
        assert (
            split.image.dtype == np.uint8 and split.label.dtype == np.int32 and split.index.dtype == np.int64
        )
        want = image[split.index].reshape(-1, 8, 8, 1) * 255 / 16
        np.testing.assert_allclose(split.image, want, atol=0.5)
        np.testing.assert_array_equal(split.label, label[split.index])
        assert (np.diff(split.index) > 0).all()
        assert split.info.count == len(split.label) == sum(split.info.per_class)
        assert split.info.classes == tuple("0123456789")
    together = np.concatenate([split.index for split in splits.values()])
    np.testing.assert_array_equal(np.sort(together), np.arange(1797))
    assert 350 < splits["test"].info.count < 370 and 120 < splits["validation"].info.count < 170
    # A fifth of every class, so that accuracies are comparable between classes.
    np.testing.assert_allclose(np.bincount(splits["test"].label), np.bincount(label) / 5, atol=1)


def test_validation_is_held_out_by_index(shelf):
    assert order.held_out(load("digits", "validation", data_dir=shelf).index).all()
    assert not order.held_out(load("digits", "train", data_dir=shelf).index).any()


def test_second_load_is_the_same_and_does_not_decode(shelf, monkeypatch):
    first = load("digits", "test", data_dir=shelf)
    monkeypatch.setattr("robustjax.data.decode._decoded", None)
    second = load("digits", "test", data_dir=shelf)
    for field in ("image", "label", "index"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    assert first.info == second.info


def test_tfds_reads_what_we_prepared(shelf):
    split = load("digits", "test", data_dir=shelf)
    records = tfds.builder_from_directory(sources.find("digits", shelf)).as_data_source("test")
    assert len(records) == split.info.count
    for record in (records[i] for i in range(0, len(records), 37)):
        row = np.flatnonzero(split.index == record["index"])[0]
        np.testing.assert_array_equal(record["image"], split.image[row])
        assert record["label"] == split.label[row]
    assert len(tfds.data_source("digits", split="test", data_dir=shelf, download=False)) == split.info.count


@pytest.mark.slow
def test_tensorflow_is_never_imported(tmp_path):
    code = (
        f"import sys; from robustjax.data import load; load('digits', 'test', data_dir={str(tmp_path)!r}); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))


@pytest.mark.parametrize("shape", [(6, 6, 3), (5, 7, 1)])
def test_what_is_written_comes_back_in_official_order(tmp_path, shape):
    contents = made(shape=shape)
    store.write(contents, tmp_path)
    part, split = contents.parts["test"], load("made", "test", data_dir=tmp_path)
    by_index = np.argsort(part.index)
    np.testing.assert_array_equal(split.image, part.image[by_index])
    np.testing.assert_array_equal(split.label, part.label[by_index])
    np.testing.assert_array_equal(split.index, part.index[by_index])
    assert (split.info.source, split.info.note) == ("random numbers", "of no use")
    assert split.info.classes == ("a", "b", "c", "d")


def test_configurations_and_versions_are_found_by_name(tmp_path):
    store.write(made("made/fine_3", seed=1), tmp_path)
    store.write(made(seed=2), tmp_path)
    newer = dataclasses.replace(made(seed=3), version="1.10.0")
    store.write(newer, tmp_path)
    store.write(dataclasses.replace(made(seed=4), version="1.9.0"), tmp_path)
    assert sources.available(tmp_path) == ["digits", "letters", "letters/28", "made", "made/fine_3"]
    assert sources.find("made", tmp_path) == tmp_path / "made" / "1.10.0"
    part = newer.parts["test"]
    np.testing.assert_array_equal(
        load("made", "test", data_dir=tmp_path).image, part.image[np.argsort(part.index)]
    )
    assert load("made/fine_3", "test", data_dir=tmp_path).info.name == "made/fine_3"


@pytest.mark.parametrize(
    ("stored", "asked", "comes"),
    [
        (("train", "validation", "test"), "validation", "validation"),
        (("train", "validation", "test"), "train", "train"),
        (("train", "validation"), "test", "validation"),
        (("test",), "test", "test"),
    ],
)
def test_own_splits_are_kept(tmp_path, stored, asked, comes):
    contents = made(splits=stored, count=12)
    store.write(contents, tmp_path)
    found = load("made", asked, data_dir=tmp_path)
    assert sorted(found.index) == sorted(contents.parts[comes].index)


def test_validation_beside_a_stored_one_is_held_out_of_train(tmp_path):
    contents = made(splits=("train", "validation"), count=100)
    store.write(contents, tmp_path)
    index = contents.parts["train"].index
    assert set(load("made", "validation", data_dir=tmp_path).index) == set(index[order.held_out(index)])


def test_size_scales_by_areas_and_crops_the_centre(tmp_path):
    contents = made(shape=(8, 12, 3))
    store.write(contents, tmp_path)
    part, split = contents.parts["test"], load("made", "test", data_dir=tmp_path, size=4)
    centre = part.image[np.argsort(part.index), :, 2:10].astype(np.float64)
    np.testing.assert_allclose(split.image, centre.reshape(-1, 4, 2, 4, 2, 3).mean(axis=(2, 4)), atol=0.51)
    assert load("made", "test", data_dir=tmp_path, size=24).image.shape[1:] == (24, 24, 3)
    assert load("made", "test", data_dir=tmp_path).image.shape[1:] == (8, 12, 3)


class Ragged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as TFDS itself prepares many: pictures of any size, no official index."""

    name = "ragged"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        import io

        for i in range(6):
            picture = np.full((4 + i, 10 - i, 3), 40 * i, np.uint8)
            yield i, {"image": io.BytesIO(store.png(picture)), "label": i % 2}


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    Ragged(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(ValueError, match="differ in size, give `size`"):
        load("ragged", "test", data_dir=tmp_path)
    split = load("ragged", "test", data_dir=tmp_path, size=4)
    assert split.image.shape == (6, 4, 4, 3) and sorted(split.image[:, 0, 0, 0]) == [0, 40, 80, 120, 160, 200]
    np.testing.assert_array_equal(split.index, np.arange(6))
    np.testing.assert_array_equal(split.label, split.image[:, 0, 0, 0] // 40 % 2)


def test_a_split_of_arrays():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    split = of_arrays(image, np.asarray([0, 2, 2, 1, 0]), name="mine")
    assert split.label.dtype == np.int32 and split.info.classes == ("0", "1", "2")
    assert split.info.per_class == (2, 1, 2)
    assert split.info.sha256 == hashlib.sha256(image.tobytes()).hexdigest()
    assert of_arrays(image, np.zeros(5, int), name="mine", classes=("a", "b")).info.per_class == (5, 0)
    for wrong in (image / 255, image[0], image[:0], image[..., :2]):  # dtype, rank, count, channels
        with pytest.raises(ValueError, match=r"of_arrays: mine test: .* must be"):
            of_arrays(wrong, np.zeros(len(wrong), int), name="mine")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([0, 1, 2, 3, -1], "the smallest label is -1, must be at least 0"),
        ([1, 2, 3, 4, 5], "labels run from 1 to 5, must begin with 0: take y - 1, or name the classes"),
        ([0, 1, 2, 3, 3.7], "labels are float64, must be whole numbers from 0"),
        ([0, 1, 2, 3, 2**32 + 1], "the largest label is 4294967297, must fit into 32 bits"),
        ([0, 1, 2, 3, 10**9], "the largest label is 1000000000, must be below 100,000 or its classes named"),
        ([0, 1, 2, 3, np.nan], "must be whole numbers"),
        ([0, 1, 2, 3, np.inf], "must be whole numbers"),
        (np.eye(5), "take y.argmax"),
        (["a"] * 5, "must be whole numbers"),
        ([0, 1], "must be \\(5,\\), one for each image"),
    ],
)
def test_labels_of_arrays_are_whole_numbers_from_0(label, says):
    image = np.zeros((5, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=says) as error:
        of_arrays(image, label, name="mine")
    assert "\n" not in str(error.value)
    assert of_arrays(image, [0.0, 1.0, 2.0, 2.0, 1.0], name="mine").info.per_class == (1, 2, 2)
    named = of_arrays(image, [1, 2, 1, 2, 1], name="mine", classes=("none", "a", "b"))
    assert named.info.per_class == (0, 3, 2)


def unlabelled(folder, splits):
    """Prepare a set whose test labels are -1, as TFDS has those of ImageNet."""
    contents = made(splits=splits, count=40)
    part = contents.parts["test"]
    hidden = store.Part(part.image, np.full_like(part.label, -1), part.index)
    contents = dataclasses.replace(contents, parts={**contents.parts, "test": hidden})
    store.Stored(contents, data_dir=folder, file_format="array_record").download_and_prepare()
    return contents


def test_a_test_split_without_labels_is_absent(tmp_path):
    contents = unlabelled(tmp_path, ("train", "validation", "test"))
    found = load("made", "test", data_dir=tmp_path)
    assert sorted(found.index) == sorted(contents.parts["validation"].index)
    index = contents.parts["train"].index
    assert set(load("made", "validation", data_dir=tmp_path).index) == set(index[order.held_out(index)])
    assert set(load("made", "train", data_dir=tmp_path).index) == set(index[~order.held_out(index)])


def test_images_without_labels_are_refused(tmp_path):
    unlabelled(tmp_path, ("train", "test"))
    with pytest.raises(ValueError, match="the test images of made have no labels, load another split"):
        load("made", "test", data_dir=tmp_path)


def test_embedded_sets_touch_no_folder_that_nobody_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = {split: load("digits", split, data_dir=tmp_path / "named") for split in sources.SPLITS}
    shutil.rmtree(tmp_path / "named")
    for split, there in kept.items():
        found = load("digits", split)
        assert found.info == there.info
        np.testing.assert_array_equal(found.image, there.image)
        np.testing.assert_array_equal(found.index, there.index)
        assert found.label.dtype == there.label.dtype
    assert load("digits", "test", size=16).image.shape == (359, 16, 16, 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"--data-dir or .TFDS_DATA_DIR: cannot write to .*file"):
        load("digits", "test", data_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("mnist", "test", "data.prepare mnist --source .*`tfds build mnist.*; here are: digits, letters"),
        ("digits", "dev", "split is 'dev', must be one of train, validation, test"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(tmp_path, name, split, words):
    with pytest.raises(ValueError, match=words) as raised:
        load(name, split, data_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_split_that_is_not_there_is_named(tmp_path):
    store.write(made(splits=("test",)), tmp_path)
    with pytest.raises(ValueError, match="made has no validation images here, it has test"):
        load("made", "validation", data_dir=tmp_path)


def test_data_dir_comes_from_the_environment(shelf, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shelf))
    assert sources.place() == shelf
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.place() == Path.home() / "tensorflow_datasets"


def test_damaged_arrays_are_noticed(shelf, tmp_path):
    shutil.copytree(shelf, tmp_path / "copy")
    load("digits", "test", data_dir=tmp_path / "copy")
    kept = sources.find("digits", tmp_path / "copy") / "decoded-test"
    image = np.load(kept / "image.npy")
    image[3, 3, 3, 0] ^= 1
    np.save(kept / "image.npy", image)
    with pytest.raises(ValueError, match=r"damaged, delete that folder and load again .its checksum differs"):
        load("digits", "test", data_dir=tmp_path / "copy")
    shutil.rmtree(kept)
    assert (
        load("digits", "test", data_dir=tmp_path / "copy").info == load("digits", "test", data_dir=shelf).info
    )


@pytest.mark.slow
def test_processes_that_prepare_at_the_same_time_agree(tmp_path):
    code = (
        "from robustjax.data import load; "
        f"print(load('digits', 'test', data_dir={str(tmp_path)!r}).info.sha256)"
    )
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate(timeout=120)[0].split()[-1] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert said == {load("digits", "test", data_dir=tmp_path).info.sha256}
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.slow
def test_a_killed_preparation_never_looks_prepared(tmp_path):
    # 20,000 images take seconds to write; the process is killed as soon as it has begun.
    code = (
        "import numpy as np; from pathlib import Path; from robustjax.data import store; n = 20_000; "
        "part = store.Part(np.zeros((n, 8, 8, 1), np.uint8), np.zeros(n, np.int32), np.arange(n)); "
        f"store.write(store.Contents('made', '1.0.0', ('a',), dict(test=part), ''), Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=str(ROOT)))
    while process.poll() is None and not list(tmp_path.glob(".unfinished-*/made/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert sources.find("made", tmp_path) is None and "made" not in sources.available(tmp_path)
    store.write(made(), tmp_path)
    assert load("made", "test", data_dir=tmp_path).info.count == 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: dataclasses.replace(p, image=p.image.astype(np.float32)), "float32"),
        (lambda p: dataclasses.replace(p, image=p.image[..., :2]), "c 1 or 3"),
        (lambda p: dataclasses.replace(p, label=p.label[:-1]), "must be equal"),
        (lambda p: dataclasses.replace(p, label=p.label + 9), "must be in 0..3"),
        (lambda p: dataclasses.replace(p, index=p.index * 0), "occurs twice"),
    ],
)
def test_wrong_contents_are_not_written(tmp_path, change, words):
    contents = made()
    spoiled = dataclasses.replace(contents, parts={"test": change(contents.parts["test"])})
    with pytest.raises(ValueError, match=words):
        store.write(spoiled, tmp_path)
    assert not any(tmp_path.iterdir())


def test_data_of_others_that_cannot_be_written_to_still_load(tmp_path, monkeypatch):
    contents = made()
    folder = store.write(contents, tmp_path)

    def refused(*args, **settings):
        raise PermissionError

    monkeypatch.setattr("robustjax.data.decode.scratch", refused)
    assert load("made", "test", data_dir=tmp_path).info.count == 40
    assert not list(folder.glob("decoded*"))


REAL = {
    # Digests of the pixels that public files hold in official order, from the data sets' own documentation.
    "mnist": ("6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161", 10_000),
    "fashion_mnist": ("c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a", 10_000),
    "cifar100": ("4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19", 10_000),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_are_the_official_ones(name):
    if sources.find(name, sources.place()) is None:
        pytest.skip(f"{name} is not prepared: python -m experiments.data.prepare {name} --source <raw files>")
    split = load(name, "test")
    assert (split.info.sha256, split.info.count) == REAL[name]


def test_real_cifar10_names_what_is_missing():
    if sources.find("cifar10", sources.place()) is None:
        pytest.skip(
            "cifar10 is not prepared: python -m experiments.data.prepare cifar10 --source <raw files>"
        )
    begin = time.perf_counter()
    split = load("cifar10", "test")
    assert split.image.shape[1:] == (32, 32, 3) and split.info.classes[8] == "ship"
    if split.info.count < 10_000:
        assert "ship" in split.info.note
        assert (
            not (split.image.reshape(split.info.count, -1) == 0).all(axis=1).any()
        )  # black tiles are dropped
    assert time.perf_counter() - begin < 30


def test_metadata_is_plain_json(shelf):
    facts = json.loads((sources.find("digits", shelf) / "metadata.json").read_text())
    assert "scikit-learn" in facts["source"]


def test_restricted_imagenet_is_nine_ranges_of_classes_and_the_others_are_outliers(tmp_path):
    every = np.arange(1000)
    group, other = restricted_imagenet.grouped(every), restricted_imagenet.others(every)
    assert (group >= 0).sum() == 203 and (other == 0).sum() == 797 and ((group >= 0) == (other < 0)).all()
    dogs = np.flatnonzero(group == restricted_imagenet.CLASSES.index("dog"))
    assert dogs.min() == 151 and dogs.max() == 268 and len(dogs) == 118

    label = np.array([0, 30, 151, 319, 320, 999, 120])
    image = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3), np.uint8)
    part = store.Part(image, label.astype(np.int32), np.arange(7))
    names = tuple(map(str, every))
    store.write(store.Contents("imagenet2012", "1.0.0", names, {"validation": part}, "random", ""), tmp_path)
    found = load("restricted_imagenet", "test", data_dir=tmp_path, size=6)
    assert [found.info.classes[k] for k in found.label] == ["frog", "dog", "insect", "crab"]
    np.testing.assert_array_equal(found.image, image[[1, 2, 3, 6]])
    np.testing.assert_array_equal(
        load("restricted_imagenet/others", "test", data_dir=tmp_path, size=6).index, [0, 4, 5]
    )
    # Of tench, bullfrog, Chihuahua, dragonfly, damselfly, toilet tissue and crab, two look like CIFAR-10's classes.
    assert load("imagenet_minus", "test", data_dir=tmp_path, size=6).index.tolist() == [0, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="no imagenet2012"):
        load("restricted_imagenet", "test", data_dir=tmp_path / "none")
