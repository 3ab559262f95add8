"""Trained smoke systems for all tests that only read them."""

import dataclasses
import shutil

import jax
import pytest

from experiments.ood_to_id import train


def trained(folder, **changes):
    """Train the smoke preset as the script does."""
    cfg = dataclasses.replace(train.PRESETS["smoke"], out=str(folder), **changes)
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(cfg) == 0
    return folder


@pytest.fixture(scope="session")
def system(tmp_path_factory):
    """Train pix2pix with its classifier and encoder, once per worker."""
    return trained(tmp_path_factory.mktemp("translators") / "pix2pix")


@pytest.fixture(scope="session")
def random_system(system, tmp_path_factory):
    """Train ddpm with the classifier and the encoder of `system`."""
    folder = tmp_path_factory.mktemp("translators") / "ddpm"
    for name in ("classifier", "encoder"):
        shutil.copytree(system / "networks" / name, folder / "networks" / name)
    return trained(folder, kind="ddpm")
