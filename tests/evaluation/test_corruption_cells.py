"""Corrupted images: every cell as by an evaluation of its own, one program, resumption, mCE as it is published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.analysis import corruption_error
from robustjax.analysis.intervals import proportion
from robustjax.catalog.corruption_baselines import ALEXNET, ALEXNET_3DCC
from robustjax.evaluation import corruptions
from robustjax.evaluation.predictions import predictions
from robustjax.perturbations.corruptions.table import CORRUPTIONS

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1])
WEIGHTS = RNG.normal(size=(192, 3)).astype(np.float32)
NAMES = ("gaussian_noise", "brightness", "pixelate")


def network(x):
    return x.reshape(len(x), -1) @ WEIGHTS


@pytest.mark.slow
def test_cells_are_those_of_separate_evaluations():
    """For each cell: corrupt with the image's own keys, round to bytes, classify, count; nothing is shared."""
    found = corruptions.evaluate(network, IMAGES, LABELS, corruptions=NAMES, batch_size=7, seed=3)
    for i, name in enumerate(NAMES):
        place, apply = list(CORRUPTIONS).index(name), jax.jit(CORRUPTIONS[name].apply)
        for j, severity in enumerate((1, 2, 3, 4, 5)):
            bits = np.float32(severity).view(np.uint32)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), place), bits)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
            x = IMAGES.astype(np.float32) / 255
            made = np.rint(255 * np.asarray(apply(keys, x, np.float32(severity))))
            guess = network(made.astype(np.float32) / 255).argmax(axis=1)
            np.testing.assert_array_equal(found.prediction[i, j], guess, err_msg=f"{name} {severity}")
            assert found.accuracy[i, j] == (guess == LABELS).mean()
    np.testing.assert_array_equal(found.clean, network(IMAGES.astype(np.float32) / 255).argmax(axis=1))
    assert "pixelate" in repr(found) and "5 images" in repr(found)
    # Parameters are for 32 pixels a side, these images have 8; nothing else is wrong.
    assert [flag.name for flag in found.flags if flag.raised] == ["size of corrupted images"]
    assert "warning: size of corrupted images: lengths of CIFAR-10-C's parameters" in repr(found)
    assert not corruptions.of_another_size((32, 32)).raised


def test_an_image_is_corrupted_alike_in_any_company():
    key = jax.random.key(1)
    index = np.array([4, 7, 9, 11, 30])
    whole = corruptions.corrupted(IMAGES, LABELS, index, corruptions=NAMES, key=key, chunk_size=4)
    part = corruptions.corrupted(
        IMAGES[2:4], LABELS[2:4], index[2:4], corruptions=("gaussian_noise",), severities=(4, 2), key=key
    )
    np.testing.assert_array_equal(part.read(0, 0, 2), whole.read(3, 2, 4))
    np.testing.assert_array_equal(part.read(1, 1, 2), whole.read(1, 3, 4))
    assert (whole.read(3, 0, 5) != whole.read(4, 0, 5)).any()


class Killed(Exception):
    pass


class InMemory:
    """Keep what a killed run leaves; `turns` batches are kept before it is killed."""

    def __init__(self, turns=None):
        self.arrays, self.turns = None, turns

    def load(self):
        return self.arrays

    def keep(self, arrays):
        self.arrays = {name: np.array(value) for name, value in arrays().items()}
        if self.turns is not None:
            self.turns -= 1
            if self.turns < 0:
                raise Killed


def test_one_program_full_batches_and_resumption_after_every_batch():
    traced, asked = [], []

    def counted():
        traced.append(1)
        return network

    def read(start, stop):
        asked.append((start, stop))
        return IMAGES[np.arange(start, stop) % 5]

    whole = predictions(counted, (), read, 22, batch_size=4)
    assert len(traced) == 1  # 22 images of several "cells", the last batch padded
    assert asked == [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 22)]
    np.testing.assert_array_equal(whole, network(IMAGES / 255.0).argmax(axis=1)[np.arange(22) % 5])
    for turns in range(5):
        memory = InMemory(turns)
        with pytest.raises(Killed):
            predictions(lambda: network, (), read, 22, batch_size=4, memory=memory, about="this")
        memory.turns = None
        asked.clear()
        again = predictions(lambda: network, (), read, 22, batch_size=4, memory=memory, about="this")
        np.testing.assert_array_equal(again, whole)
        assert asked[0][0] == 4 * (turns + 1)
        with pytest.raises(ValueError, match="another evaluation"):
            predictions(lambda: network, (), read, 22, batch_size=4, memory=memory, about="that")


def test_no_label_is_misclassified():
    assert (
        predictions(lambda: lambda x: jnp.full((len(x), 3), jnp.nan), (), lambda a, b: IMAGES[a:b], 5).max()
        == -1
    )


# ResNet-50 of torchvision as rgeirhos/texture-vs-shape reports it: accuracy, and corruption error by AlexNet's.
RESNET50 = {
    "brightness": (68.02, 56.64), "contrast": (39.06, 71.43), "defocus_blur": (38.75, 74.71), "fog": (45.83, 66.11),
    "elastic_transform": (45.25, 84.75), "frost": (38.14, 74.84), "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61), "impulse_noise": (23.81, 82.58),
}  # fmt: skip
# RobustBench's ResNet-50 (Standard_R50) on 5,000 images of ImageNet-3DCC, mean accuracy in its repository's table.
STANDARD_R50 = {
    "near_focus": 0.5936, "far_focus": 0.54976, "bit_error": 0.46844, "color_quant": 0.5636, "flash": 0.3788,
    "fog_3d": 0.42776, "h265_abr": 0.61696, "h265_crf": 0.67656, "iso_noise": 0.2672, "low_light": 0.44404,
    "xy_motion_blur": 0.3220, "z_motion_blur": 0.3454,
}  # fmt: skip


def answers(accuracy):
    """Lay out 25,000 answers for each corruption, five severities of 5,000, that have these accuracies."""
    right = np.zeros((len(accuracy), 5, 5000), bool)
    for row, share in zip(right.reshape(len(accuracy), -1), accuracy, strict=True):
        row[: round(25_000 * share)] = True
    return right


def test_mce_is_what_is_published():
    for name, (accuracy, error) in RESNET50.items():
        measured = corruption_error.mce(answers([accuracy / 100]), [name], [1, 2, 3, 4, 5], ALEXNET)
        assert 100 * measured.value == pytest.approx(error, abs=0.011)
        assert measured.low < measured.value < measured.high
    right = answers(list(STANDARD_R50.values()))
    found = corruption_error.mce(right, list(STANDARD_R50), [5, 4, 3, 2, 1], ALEXNET_3DCC)
    assert 100 * found.value == pytest.approx(73.16, abs=0.005)  # corruptions_mce_3d there
    assert 100 * corruption_error.mean_accuracy(right).value == pytest.approx(47.12, abs=0.005)


def test_relative_mce_by_hand():
    """Clean error 1/4; errors 3/4 and 1/4 at the two severities of one corruption: it costs 1/4 on average."""
    right = np.array([[[1, 0, 0, 0], [1, 1, 1, 0]]], bool)
    clean = np.array([1, 1, 1, 0], bool)
    base = corruption_error.Baseline("x", 0.1, {"fog": 0.6}, (1.0, 2.0))
    assert corruption_error.relative_mce(right, clean, ["fog"], [1, 2], None).value == pytest.approx(0.25)
    assert corruption_error.relative_mce(right, clean, ["fog"], [1, 2], base).value == pytest.approx(0.5)
    assert corruption_error.mce(right, ["fog"], [1, 2], base).value == pytest.approx(0.5 / 0.6)
    assert corruption_error.mce(right, ["fog"], [1, 2], None).value == 0.5
    assert np.isnan(
        corruption_error.relative_mce(right, clean, ["fog"], [1, 2], base._replace(clean=0.6)).value
    )
    assert corruption_error.cells(right)[0][0] == proportion(np.array([1, 0, 0, 0]))
    assert corruption_error.mean_accuracy(np.ones((2, 4), bool)) == proportion(np.ones(4))  # not sure of 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"corruptions": ["fog", "hail"]}, "corruption is 'hail', must be one of gaussian_noise"),
        ({"corruptions": ["fog", "fog"]}, "must be different"),
        ({"severities": ()}, "severities is empty"),
        ({"severities": (1, 6)}, "severity is 6, must be above 0 and at most 5"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_line(settings, says):
    with pytest.raises(ValueError, match=says):
        corruptions.evaluate(network, IMAGES, LABELS, **settings)


def test_a_baseline_must_fit():
    right = np.zeros((1, 2, 4), bool)
    with pytest.raises(ValueError, match="AlexNet on ImageNet-C has no error for snowfall"):
        corruption_error.mce(right, ["snowfall"], [1, 2], ALEXNET)
    with pytest.raises(ValueError, match="severities are 1, 2, must be 1, 2, 3, 4, 5"):
        corruption_error.mce(right, ["fog"], [1, 2], ALEXNET)
