"""OOD sets by name: the same images for a name as ever, in the shape of the data, and the user's own."""

import hashlib

import numpy as np
import pytest

from robustjax import data
from robustjax.catalog import ood_sets

RNG = np.random.default_rng(0)
# First 16 digits of the SHA-256 of 40 images like the embedded digits. Recorded results were measured on these
# images, so a change here changes them.
EXACT = {
    "noise/uniform": "d92dda52570262bd",
    "noise/permuted": "b9a1745c518f20d9",
    "data/joined": "dd4192f44cc655c6",
    "data/permuted": "e37bdcc6e2b3172c",
    "data/inverted": "6b18dd42c607f7cd",
    "data/upside_down": "4872eab2e820cf6e",
    "photo/china": "1bbb66380a10f9c4",
    "photo/flower": "9f7246f9cb7a9181",
}
# Mean values of those whose last bit before rounding may depend on the machine.
MEANS = {
    "noise/gaussian": 126.244,
    "noise/low_frequency": 129.469,
    "noise/smoothed": 130.229,
    "noise/acet": 124.225,
    "noise/ccu": 20.233,
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "test")


def like(count=30, side=8, channels=1):
    image = RNG.integers(0, 256, (count, side, side, channels)).astype(np.uint8)
    return data.of_arrays(image, np.arange(count) % 3, name="made", split="train")


@pytest.mark.parametrize("name", ood_sets.GENERATED)
def test_a_name_stands_for_the_images_of_recorded_results(name, digits):
    image = ood_sets.load(name, digits, split="test", count=40).image
    assert image.shape == (40, 8, 8, 1) and image.dtype == np.uint8
    if name in EXACT:
        assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == EXACT[name]
    else:
        assert image.mean() == pytest.approx(MEANS[name], abs=0.01)


@pytest.mark.parametrize("name", ["letters", "noise/uniform", "data/joined", "photo/china"])
def test_images_take_the_shape_of_the_data(name):
    grey = ood_sets.load(name, like(), split="test", count=7)
    assert grey.image.shape == (7, 8, 8, 1) and len(set(grey.index)) == 7
    colour = ood_sets.load(name, like(channels=3), split="test", count=7)
    assert colour.image.shape == (7, 8, 8, 3)
    if name in ("letters", "photo/china"):
        np.testing.assert_array_equal(colour.image, np.repeat(grey.image, 3, axis=-1))


def test_colours_become_grey_by_luminance():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_array_equal(ood_sets.coloured(red, 1), np.full((1, 2, 2, 1), 60))  # 0.299 of 200


def test_sets_of_a_balanced_mixture_weigh_the_same():
    source = like()
    both, fresh = ood_sets.balanced_mixture(["letters", "noise/permuted"], source)
    assert fresh is None and both.info.per_class[0] == both.info.per_class[1] == 3159
    pixels = both.image[both.label == 1][:30].reshape(30, -1)
    np.testing.assert_array_equal(np.sort(pixels), np.sort(source.image.reshape(30, -1)))
    alone, fresh = ood_sets.balanced_mixture(["noise/uniform"], like())
    assert fresh is not None and len(alone.label) == 30
    stored, fresh = ood_sets.balanced_mixture(["data/joined"], like())
    assert fresh is None and len(stored.label) == 30


def test_sets_of_a_counted_mixture_weigh_as_many_as_asked_for(digits):
    counts = {"photo/china": 5, "data/joined": 7, "noise/acet": 4}
    both = ood_sets.counted_mixture(counts, digits)
    assert both.image.shape == (16, 8, 8, 1) and np.bincount(both.label).tolist() == [5, 7, 4]
    assert both.info.classes == tuple(counts)


def test_a_function_of_the_users_is_an_ood_set(tmp_path, monkeypatch):
    (tmp_path / "my_ood_sets.py").write_text(
        "import numpy as np\nfrom robustjax import data\n"
        "def black(like, *, split, count):\n"
        "    image = np.zeros((9, *like.image.shape[1:]), np.uint8)\n"
        "    return data.of_arrays(image, np.zeros(9), name='black', split=split)\n"
        "def wide(like, *, split, count):\n"
        "    return data.of_arrays(np.zeros((9, 3, 5, 1), np.uint8), np.zeros(9), name='wide')\n"
    )
    monkeypatch.chdir(tmp_path)
    found = ood_sets.load("my_ood_sets:black", like(), split="test", count=4)
    assert found.image.shape == (4, 8, 8, 1) and found.info.split == "test" and found.info.count == 4
    with pytest.raises(ValueError, match=r"wide gives images of shape \[3, 5, 1\], must be \[8, 8, 1\]"):
        ood_sets.load("my_ood_sets:wide", like(), split="test")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("noise/pink", "OOD set is 'noise/pink', must be one of noise/uniform, .*, or module:name"),
        ("data/sideways", "OOD set is 'data/sideways', must be one of"),
        (
            "letters:tset",
            "cannot be imported.*; the part of a data set must be one of train, validation, test",
        ),
        ("math:pi", "must be a function"),
        ("nonesuch", "load: no nonesuch"),
    ],
)
def test_what_is_no_ood_set_is_refused(name, says):
    with pytest.raises(ValueError, match=says):
        ood_sets.load(name, like(), split="test")


def test_the_part_of_a_name():
    assert ood_sets.with_split("kmnist", "test") == "kmnist:test"
    assert ood_sets.with_split("kmnist:train", "test") == "kmnist:train"
    assert ood_sets.with_split("noise/acet", "test") == "noise/acet"
