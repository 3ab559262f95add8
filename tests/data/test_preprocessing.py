"""Preprocessing by name: sizes and places by hand, pixels by torchvision's."""

import io

import numpy as np
import pytest
from PIL import Image

from robustjax.data.pictures import from_bytes
from robustjax.data.preprocessing import preprocessing, side

RNG = np.random.default_rng(0)
NAMES = [
    "Res256Crop224",
    "BicubicRes256Crop224",
    "BicubicRes248Crop224",
    "Crop288",
    "Res224",
    "BicubicRes224Crop224",
]


def jpeg(width, height, mode="RGB", quality=90):
    """Draw a smooth random picture and store it as JPEG does."""
    small = Image.fromarray(RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8)).resize(
        (width, height), Image.BICUBIC
    )
    out = io.BytesIO()
    small.convert(mode).save(out, "JPEG", quality=quality)
    return out.getvalue()


def numbered(width, height):
    """Make a picture whose pixels say where they are: column in red, row in green."""
    x, y = np.meshgrid(np.arange(width) % 256, np.arange(height) % 256)
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def test_crops_are_where_arithmetic_says():
    found = preprocessing("Crop4")(numbered(9, 7))  # (9 - 4) / 2 = 2.5 and 1.5: rounded to the even 2 and 2
    np.testing.assert_array_equal(found[0, :, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(found[:, 0, 1], [2, 3, 4, 5])
    padded = preprocessing("Crop5")(numbered(4, 9))  # one column is missing: (5 - 4) // 2 = 0 left, 1 right
    np.testing.assert_array_equal(padded[0, :, 0], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(padded[:, 0, 1], [2, 3, 4, 5, 6])


def test_halving_is_the_triangle_filter():
    """Bilinear at half the size weighs 4 neighbours by 1/8, 3/8, 3/8, 1/8 along each side, here 0, 80, 160, 240."""
    columns = np.array([0, 0, 80, 160, 240, 240, 240, 240], np.uint8)
    picture = Image.fromarray(np.repeat(np.repeat(columns[None, :, None], 8, 0), 3, 2))
    found = preprocessing("Res4")(picture)
    middle = [(0 + 3 * 80 + 3 * 160 + 240) / 8, (160 + 3 * 240 + 3 * 240 + 240) / 8]
    np.testing.assert_array_equal(found[1, 1:3, 0], middle)


@pytest.mark.parametrize(
    ("size", "scaled"), [((500, 375), (341, 256)), ((333, 500), (256, 384)), ((257, 256), (257, 256))]
)
def test_the_shorter_side_is_scaled_and_the_longer_cut_off(size, scaled):
    """256 * 500 / 375 is 341.3, 256 * 500 / 333 is 384.4."""
    picture = from_bytes(jpeg(*size), "picture")
    whole = picture.resize(scaled, Image.BILINEAR)
    left, top = round((scaled[0] - 224) / 2), round((scaled[1] - 224) / 2)
    expected = np.asarray(whole)[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(preprocessing("Res256Crop224")(picture), expected)
    assert side("Res256Crop224") == 224 and side("Crop288") == 288 and side("Res224") == 224


@pytest.mark.parametrize(
    "name", ["", "Bicubic", "BicubicCrop224", "Res0", "res256", "Res256Crop288", "Crop224Res256"]
)
def test_other_names_end_in_one_line(name):
    with pytest.raises(ValueError, match=f"preprocessing is '{name}', must"):
        preprocessing(name)


@pytest.mark.oracle
def test_equal_to_torchvision_on_pictures_of_many_sizes():
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode("bicubic")
    theirs = {
        "Res256Crop224": [transforms.Resize(256), transforms.CenterCrop(224)],
        "BicubicRes256Crop224": [transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)],
        "BicubicRes248Crop224": [transforms.Resize(248, interpolation=bicubic), transforms.CenterCrop(224)],
        "BicubicRes224Crop224": [transforms.Resize(224, interpolation=bicubic), transforms.CenterCrop(224)],
        "Crop288": [transforms.CenterCrop(288)],
        "Res224": [transforms.Resize([224, 224])],
    }
    sizes = [
        (500, 375),
        (375, 500),
        (333, 500),
        (224, 224),
        (256, 256),
        (60, 91),
        (1000, 257),
        (289, 287),
        (17, 900),
    ]
    for width, height in sizes:
        for mode in ("RGB", "L", "CMYK"):
            content = jpeg(width, height, mode)
            opened = Image.open(io.BytesIO(content)).convert("RGB")
            for name in NAMES:
                expected = np.asarray(transforms.Compose(theirs[name])(opened))
                found = preprocessing(name)(from_bytes(content, "picture"))
                np.testing.assert_array_equal(found, expected, err_msg=f"{name} of {mode} {width} x {height}")
