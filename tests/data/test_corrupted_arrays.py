"""Folders like CIFAR-10-C: the right rows, and one line for what does not fit."""

import dataclasses

import numpy as np
import pytest

from robustjax import data
from robustjax.data import corrupted_arrays, subsets

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 12)
CLEAN = data.of_arrays(
    RNG.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8), LABELS, name="mine", classes="abc"
)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5))
    for number, name in enumerate(("fog", "snow")):
        images = np.zeros((60, 4, 4, 3), np.uint8)
        images[:, 0, 0, 0] = np.arange(60)  # severity and number of the image
        images[:, 0, 0, 1] = number
        np.save(tmp_path / f"{name}.npy", images)
    return tmp_path


def test_rows_are_those_of_the_subset(folder):
    part = subsets.subset(CLEAN, 5)
    read = corrupted_arrays.cells(folder, part, ["snow", "fog"], [5, 2])
    for cell, (severity, number) in enumerate([(5, 1), (2, 1), (5, 0), (2, 0)]):
        found = read(cell, 1, 4)
        np.testing.assert_array_equal(found[:, 0, 0, 0], 12 * (severity - 1) + part.index[1:4])
        assert (found[:, 0, 0, 1] == number).all()
    assert corrupted_arrays.names(folder) == ["fog", "snow"]


def test_labels_of_one_severity_do(folder):
    np.save(folder / "labels.npy", LABELS)
    corrupted_arrays.cells(folder, CLEAN, ["fog"], [1])


@pytest.mark.parametrize(
    ("file", "array", "says"),
    [
        (
            "labels",
            np.tile((LABELS + 1) % 3, 5),
            r"12 of 12 labels differ from those of mine, the first at image 0",
        ),
        ("labels", LABELS[:11], r"60 images with 11 labels in labels.npy, must be five severities"),
        ("fog", np.zeros((59, 4, 4, 3), np.uint8), r"59 images with 60 labels"),
        ("fog", np.zeros((60, 4, 4, 3), np.float32), r"images are float32, must be bytes"),
        ("fog", np.zeros((60, 8, 8, 3), np.uint8), r"must be \(n, 4, 4, 3\) as those of mine are"),
        ("fog", np.zeros((55, 4, 4, 3), np.uint8), r"55 images with 60 labels"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(folder, file, array, says):
    np.save(folder / f"{file}.npy", array)
    with pytest.raises(ValueError, match=says) as error:
        corrupted_arrays.cells(folder, CLEAN, ["fog"], [1])
    assert "\n" not in str(error.value)


def test_missing_files_are_named_in_one_line(folder):
    with pytest.raises(ValueError, match=r"frost.npy, hail.npy missing, .* that do: fog, snow"):
        corrupted_arrays.cells(folder, CLEAN, ["fog", "frost", "hail"], [1])
    more = dataclasses.replace(CLEAN, index=CLEAN.index + 1)
    with pytest.raises(ValueError, match="12 images of each severity, and mine has number 12, must be more"):
        corrupted_arrays.cells(folder, more, ["fog"], [1])
