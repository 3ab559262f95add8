"""ImageNet as a folder tree or as TFDS prepares it: labels, numbers, subsets, and memory while it is streamed."""

import io
import threading
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from robustjax import data
from robustjax.data import picture_tree, subsets
from robustjax.data.lazy_pictures import LazyPictures
from robustjax.data.preprocessing import preprocessing
from robustjax.data.sources import decoded
from robustjax.evaluation.predictions import predictions

RNG = np.random.default_rng(0)
CLASSES = ("n01440764", "n01443537", "n02102040")


def jpeg(size, grey=False):
    picture = Image.fromarray(RNG.integers(0, 256, (4, 5, 3)).astype(np.uint8)).resize(size, Image.BILINEAR)
    out = io.BytesIO()
    picture.convert("L" if grey else "RGB").save(out, "JPEG")
    return out.getvalue()


CONTENT = {number: jpeg((20 + number, 30 - number), grey=number == 4) for number in range(1, 13)}
CLASS = {number: (7 * number) % 3 for number in CONTENT}


def name(number):
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for number, content in CONTENT.items():
        folder = root / "val" / CLASSES[CLASS[number]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name(number)).write_bytes(content)
    return root


def test_labels_numbers_and_pixels(tree):
    split = picture_tree.load(tree, preprocess="Res16Crop8")
    assert isinstance(split.image, LazyPictures) and split.image.shape == (12, 8, 8, 3)
    np.testing.assert_array_equal(split.index, np.arange(1, 13))
    np.testing.assert_array_equal(split.label, [CLASS[number] for number in range(1, 13)])
    assert split.info.classes == CLASSES and split.info.per_class == (4, 4, 4)
    crop = preprocessing("Res16Crop8")
    want = np.stack([crop(Image.open(io.BytesIO(CONTENT[number]))) for number in range(1, 13)])
    np.testing.assert_array_equal(np.asarray(split.image), want)
    np.testing.assert_array_equal(split.image[[5, 2]], want[[5, 2]])
    np.testing.assert_array_equal(split.image[2:4], want[2:4])
    np.testing.assert_array_equal(split.image[-1], want[-1])
    whole = decoded(split)
    assert whole.info.sha256 == data.of_arrays(want, split.label, name="x").info.sha256


def test_a_subset_is_the_same_however_pictures_are_scaled(tree):
    one, other = (subsets.subset(picture_tree.load(tree, preprocess=p), 6) for p in ("Res8", "Crop10"))
    np.testing.assert_array_equal(one.index, other.index)
    assert one.info.per_class == (2, 2, 2) and one.info.subset == ("stratified", 12)
    smaller = subsets.subset(picture_tree.load(tree, preprocess="Res8"), 3)
    np.testing.assert_array_equal(smaller.index, one.index[:3])
    assert isinstance(one.image, LazyPictures)
    whole = np.asarray(picture_tree.load(tree, preprocess="Res8").image)
    np.testing.assert_array_equal(one.image[1:3], whole[one.index[1:3] - 1])
    assert "SHA-256" in subsets.in_words(decoded(one).info) and len(decoded(one).info.sha256) == 64
    first = subsets.subset(picture_tree.load(tree, preprocess="Res8"), "official:5")
    np.testing.assert_array_equal(first.index, [1, 2, 3, 4, 5])


def test_robustbench_list(tree, tmp_path):
    listed = tmp_path / "imagenet_test_image_ids.txt"
    chosen = [9, 2, 11, 1]
    listed.write_text("\n".join(f"{CLASSES[CLASS[number]]}/{name(number)}" for number in chosen))
    split = picture_tree.listed(picture_tree.load(tree / "val", preprocess="Res8"), listed)
    np.testing.assert_array_equal(split.index, chosen)
    np.testing.assert_array_equal(split.label, [CLASS[number] for number in chosen])
    assert len(split.info.classes) == 3
    np.testing.assert_array_equal(subsets.subset(split, "official:2").index, [9, 2])

    for text, says in (
        ("n01440764/ILSVRC2012_val_00000099.JPEG\n", "1 of 1 lines name no picture of imagenet2012"),
        ("ILSVRC2012_val_00000001.JPEG\n", "must be like n01440764/ILSVRC2012_val"),
        (2 * f"{CLASSES[CLASS[1]]}/{name(1)}\n", "names 1 pictures twice"),
        ("\n", "holds no line"),
    ):
        listed.write_text(text)
        with pytest.raises(ValueError, match=says):
            picture_tree.listed(picture_tree.load(tree), listed)


def test_what_is_no_tree_ends_in_one_line(tree, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        picture_tree.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no folders"):
        picture_tree.load(tree / "val" / CLASSES[0])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 2 folders hold no picture, the first is a"):
        picture_tree.load(tmp_path)
    (tmp_path / "a" / "y.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"y.png: damaged picture"):
        picture_tree.load(tmp_path).image[0]
    np.testing.assert_array_equal(
        picture_tree.load(tmp_path).index, [0, 1]
    )  # names without numbers: positions


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As TFDS prepares imagenet2012: original JPEG bytes, names of files, test images with label -1."""

    name = "imagenet2012"
    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "validation": self._generate_examples(CLASS),
            "test": self._generate_examples(dict.fromkeys(CLASS, -1)),
        }

    def _generate_examples(self, labels):
        for number, label in labels.items():
            yield (
                name(number),
                {"image": io.BytesIO(CONTENT[number]), "label": label, "file_name": name(number)},
            )


def test_tfds_gives_the_same_images_as_the_tree(tree, tmp_path):
    Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    expected = picture_tree.load(tree, preprocess="Res16Crop8")
    for _ in range(2):  # the second time names and labels come from what was kept
        found = data.load("imagenet2012", "test", data_dir=tmp_path, preprocess="Res16Crop8")
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_array_equal(found.label, expected.label)
        np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
        assert found.info.classes == CLASSES
    assert list(tmp_path.rglob("listed-validation.npz"))
    np.testing.assert_array_equal(subsets.subset(found, 5).index, subsets.subset(expected, 5).index)
    (tmp_path / "ids.txt").write_text(f"{CLASSES[CLASS[7]]}/{name(7)}\n{CLASSES[CLASS[3]]}/{name(3)}")
    np.testing.assert_array_equal(picture_tree.listed(found, tmp_path / "ids.txt").index, [7, 3])
    with pytest.raises(ValueError, match="must be one of them"):
        data.load("imagenet2012", "test", data_dir=tmp_path, preprocess="Res8", size=8)
    with pytest.raises(ValueError, match="must be left out with digits"):
        data.load("digits", "test", preprocess="Res8")


def test_memory_is_bounded_and_decoding_runs_beside_the_network(tmp_path):
    """256 pictures of 48 KiB each, 12 MiB in all, in batches of 8: never more than 8 batches, 3 MiB, are held."""
    content = [jpeg((160, 140)) for _ in range(4)]
    for number in range(256):
        folder = tmp_path / CLASSES[number % 3]
        folder.mkdir(exist_ok=True)
        (folder / name(number)).write_bytes(content[number % 4])
    split = picture_tree.load(tmp_path, preprocess="Res144Crop128")
    threads = set()

    def read(start, stop):
        threads.add(threading.current_thread().name)
        return split.image[start:stop]

    network = lambda x: x.mean(axis=(1, 2)) - jnp.asarray([[0.5, 0.5, 0.5]])
    predictions(lambda: network, (), read, 8, batch_size=8)  # compiled before memory is measured
    tracemalloc.start()
    found = predictions(lambda: network, (), read, 256, batch_size=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert split.image.nbytes == 256 * 3 * 128**2
    assert peak < 8 * 8 * 3 * 128**2, f"{peak / 2**20:.1f} MiB"
    assert threading.current_thread().name not in threads
    assert found.shape == (256,) and len(np.unique(found)) > 1
