"""One learned set and one classifier on it, for all tests that only read them."""

import dataclasses

import jax
import pytest

from experiments.perturbation_sets import networks, train, train_classifier


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Learn a tiny set, and train a classifier on it by SmoothAdv, on all devices."""
    folder = tmp_path_factory.mktemp("perturbation_sets")
    for_set = dataclasses.replace(train.PRESETS["smoke"], out=str(folder / "set"))
    for_classifier = dataclasses.replace(
        train_classifier.PRESETS["smoke"],
        set=str(folder / "set"),
        out=str(folder / "classifier"),
        method="smoothadv",
        batch_size=256,
    )
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(for_set) == 0
        assert train_classifier.main(for_classifier) == 0
    return folder


@pytest.fixture(scope="session")
def learned_set(runs):
    """Open the set."""
    return networks.open_set(str(runs / "set"))
