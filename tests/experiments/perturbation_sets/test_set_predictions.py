"""What a smoothed network says of images that arrive perturbed: counted by hand for a network that reads brightness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.perturbation_sets.config import CertifyConfig
from experiments.perturbation_sets.predictions import Smoothed, predicted, summary
from robustjax import data, runtime
from robustjax.smoothing.noise import in_pixels

GREY = (0.1, 0.3, 0.5, 0.9)  # of four images
CFG = CertifyConfig(predict=("corrupted",), predict_samples=40, chunk_size=20)


def bright(x):
    """Say 1 where the mean is above 1/2."""
    over = 40.0 * (x.mean(axis=(1, 2, 3)) - 0.5)
    return jnp.stack([-over, over], axis=1)


def smoothed(sigma=0.01, channels=3, real=None):
    image = jnp.broadcast_to(jnp.array(GREY)[:, None, None, None], (4, 8, 8, channels))
    label = np.array([0, 0, 0, 1])
    info = data.of_arrays(np.zeros((4, 8, 8, channels), np.uint8), label, name="grey").info
    return Smoothed("x", bright, in_pixels(sigma), sigma, info, image, label, None, image, real)


def test_corrupted_images_are_predicted_by_votes():
    """Brightness adds 0.3 to 0.1, 0.3, 0.5 and 0.9: all but the first are then bright; at 0.5 nothing is certain."""
    keys, mesh = jax.random.split(jax.random.key(0), 4), runtime.data_mesh()
    found = {
        kind: predicted(CFG, smoothed(), mesh, keys, kind) for kind in ("clean", "brightness", "contrast")
    }
    assert found["clean"]["smoothed"].tolist() == [0, 0, -1, 1]
    assert found["brightness"]["smoothed"].tolist() == found["brightness"]["plain"].tolist() == [0, 1, 1, 1]
    # Contrast leaves images of one grey as they are.
    assert found["contrast"]["smoothed"].tolist()[:2] == [0, 0] and found["contrast"]["smoothed"][3] == 1
    rows = {row["images"]: row for row in summary(found, smoothed().label)}
    assert rows["clean"]["right %"].startswith("75.0") and rows["clean"]["abstains %"] == "25.0"
    assert rows["brightness"]["right %"].startswith("50.0") and rows["brightness"]["abstains %"] == "0.0"


def test_a_row_for_each_group_of_corruptions():
    """Right on both, one and none of two of three corruptions; abstaining is never right."""
    kinds = {"gaussian_blur": [0, 1], "spatter": [0, -1], "saturate": [-1, -1]}
    found = {k: {"smoothed": np.array(v), "plain": np.array([0, 1])} for k, v in kinds.items()}
    *_, mean = summary(found, np.array([0, 1]))
    assert mean["images"] == "mean of OOD corruptions" and mean["right %"].startswith("50.0")
    assert mean["abstains %"] == "50.0" and mean["right without noise %"] == "100.0"


def test_kinds_that_images_do_not_have():
    assert len(smoothed().kinds(["clean", "corrupted", "held_out"])) == 1 + 12 + 3
    with pytest.raises(ValueError, match=r"corruptions are of colour images"):
        smoothed(channels=1).kinds(["held_out"])
    with pytest.raises(ValueError, match=r"which runs of classification.train do not know"):
        smoothed().kinds(["perturbed"])
    assert smoothed(real=lambda key, x: x).kinds(["perturbed"]) == ["perturbed"]
    for wrong, match in (
        ({"predict_samples": 5}, "at least 1"),
        ({"predict": ("clean", "clean")}, "each kind once"),
    ):
        with pytest.raises(ValueError, match=match):
            dataclasses.replace(CFG, **wrong).check()
