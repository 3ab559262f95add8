"""OpenOOD's lists: order, labels and pixels, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from robustjax.catalog import openood
from robustjax.data import imglist

RNG = np.random.default_rng(0)
PICTURES = {
    "a/wide.png": RNG.integers(0, 256, (40, 64, 3), dtype=np.int64).astype(np.uint8),
    "a/grey.png": RNG.integers(0, 256, (28, 28), dtype=np.int64).astype(np.uint8),
    "b/same.png": RNG.integers(0, 256, (32, 32, 3), dtype=np.int64).astype(np.uint8),
}


@pytest.fixture
def root(tmp_path):
    for name, pixels in PICTURES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def listed(root, text):
    path = root / "list.txt"
    path.write_text(text)
    return path


def test_pictures_come_in_the_order_of_the_list_scaled_by_pillow_and_cut_in_the_middle(root):
    path = listed(root, "b/same.png 2\na/wide.png 0\n\na/grey.png 1\n")
    found = imglist.load(path, root, preprocess="Res32Crop32", name="x", split="test", classes=3)
    assert found.label.tolist() == [2, 0, 1] and found.info.per_class == (1, 1, 1)
    wide = Image.fromarray(PICTURES["a/wide.png"]).resize((51, 32), Image.Resampling.BILINEAR)
    grey = Image.fromarray(PICTURES["a/grey.png"]).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    want = [PICTURES["b/same.png"], np.asarray(wide)[:, 10:42], np.asarray(grey)]  # round(19 / 2) is 10
    np.testing.assert_array_equal(np.asarray(found.image), want)


def test_labels_of_ood_images_are_not_read(root):
    path = listed(root, "b/same.png -1\na/wide.png 700\n")
    found = imglist.load(path, root, preprocess="Res32Crop32", name="x", split="test")
    assert found.label.tolist() == [0, 0] and found.image.shape == (2, 32, 32, 3)


WRONG = {
    "": "holds no line",
    "b/same.png\n": "line 1 is 'b/same.png'",
    "/etc/same.png 0\n": "must be a path inside the folder",
    "a/../../x.png 0\n": "must be a path inside the folder",
    "b/same.png 0\na/wide.png 3\n": "line 2 has the label '3'",
    "b/same.png cat\n": "line 1 has the label 'cat'",
    "b/same.png 0\nb/same.png 1\n": "lists 1 images twice",
    "b/none.png 0\nb/same.png 1\n": "1 of 2 pictures are not in",
}


@pytest.mark.parametrize("text", WRONG)
def test_damaged_lists_are_refused_in_one_line(root, text):
    with pytest.raises(ValueError, match=WRONG[text]) as caught:
        imglist.load(listed(root, text), root, preprocess="Res32Crop32", name="x", split="test", classes=3)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_is_refused_in_one_line(root):
    with pytest.raises(ValueError, match="cannot be read as a list"):
        imglist.entries(root / "none.txt")


def test_benchmarks_are_those_of_the_paper():
    """Table 1 of arXiv:2306.09301: sets by group, and 9,000 ID test images beside 1,000 for validation."""
    names = {name: (tuple(b.near), tuple(b.far)) for name, b in openood.BENCHMARKS.items()}
    assert names["cifar10"] == (("cifar100", "tin"), ("mnist", "svhn", "texture", "places365"))
    assert names["cifar100"] == (("cifar10", "tin"), ("mnist", "svhn", "texture", "places365"))
    large = (("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o"))
    assert names["imagenet200"] == names["imagenet"] == large
    for name, classes in {"cifar10": 10, "cifar100": 100, "imagenet200": 200, "imagenet": 1000}.items():
        one = openood.BENCHMARKS[name]
        assert one.classes == classes
        assert (one.test.length or 0) + (one.validation.length or 0) == (
            50_000 if name == "imagenet" else 10_000
        )
    assert openood.BENCHMARKS["imagenet"].shifted["imagenet_c"].preprocess == "Crop224"
    assert openood.BENCHMARKS["imagenet200"].test.path == "imagenet200/test_imagenet200.txt"


def test_a_set_is_read_from_openoods_folder(root):
    (root / "benchmark_imglist/cifar10").mkdir(parents=True)
    (root / "benchmark_imglist/cifar10/test_cifar100.txt").write_text("b/same.png 1\n")
    (root / "images_classic/b").mkdir(parents=True)
    (root / "b/same.png").rename(root / "images_classic/b/same.png")
    benchmark = openood.BENCHMARKS["cifar10"]
    found = openood.load(
        benchmark.near["cifar100"], root, benchmark, name="cifar100", split="test", is_id=False
    )
    np.testing.assert_array_equal(np.asarray(found.image)[0], PICTURES["b/same.png"])
