"""Folders of pairs of pictures."""

import numpy as np
import pytest
from PIL import Image

from robustjax.data.paired import paired
from robustjax.data.pictures import by_class


def write(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def test_every_view_stands_beside_its_image(tmp_path):
    for i, name in enumerate(("a", "deep/b")):
        write(tmp_path / "image" / f"{name}.png", 10 * i)
    write(tmp_path / "perturbed" / "a.bmp", 100)
    write(tmp_path / "perturbed" / "deep" / "b" / "one.png", 110)
    write(tmp_path / "perturbed" / "deep" / "b" / "two.png", 120)
    found = paired(tmp_path)
    assert found.image.shape == (3, 4, 8, 3) and found.names == ("a", "deep/b")
    rows = sorted(
        zip(
            found.number.tolist(),
            found.image[:, 0, 0, 0].tolist(),
            found.image[:, 0, 4, 0].tolist(),
            strict=True,
        )
    )
    assert rows == [(0, 0, 100), (1, 10, 110), (1, 10, 120)]


def test_pictures_without_a_partner_and_of_other_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no pair"):
        paired(tmp_path)
    write(tmp_path / "image" / "a.png", 0)
    with pytest.raises(ValueError, match="a has no partner"):
        paired(tmp_path)
    write(tmp_path / "perturbed" / "b.png", 0)
    with pytest.raises(ValueError, match="b has no partner"):
        paired(tmp_path)
    (tmp_path / "perturbed" / "b.png").unlink()
    write(tmp_path / "perturbed" / "a.png", 0, (6, 6))
    with pytest.raises(ValueError, match="give a size"):
        paired(tmp_path)
    assert paired(tmp_path, size=4).image.shape == (1, 4, 8, 3)


def test_of_16_bit_grey_the_upper_8_are_kept(tmp_path):
    wide = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    for side in ("image", "perturbed"):
        (tmp_path / side).mkdir()
        Image.fromarray(wide).save(tmp_path / side / "a.png")
    np.testing.assert_array_equal(paired(tmp_path).image[0, ..., 0], np.tile(wide >> 8, 2))


def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path):
    # Of a pair one picture carries the orientation of a camera that was held upright (6: turn clockwise by a quarter),
    # the other was turned already.
    upright = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
    as_stored = np.rot90(upright)  # counter-clockwise; a clockwise turn brings it back
    for side in ("image", "perturbed"):
        (tmp_path / side).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(as_stored).save(tmp_path / "image" / "a.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "perturbed" / "a.png")
    left, right = np.split(paired(tmp_path).image[0, ..., 0], 2, axis=1)
    np.testing.assert_array_equal(left, upright)
    np.testing.assert_array_equal(right, upright)


def test_classification_sets_are_read_as_they_are_stored(tmp_path):
    # torchvision's convention, and that of published numbers.
    stored = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        Image.fromarray(stored).save(tmp_path / name / "a.png", exif=exif)
    raw = by_class(tmp_path)
    assert raw is not None
    np.testing.assert_array_equal(raw.parts["test"].image[0, ..., 0], stored)
