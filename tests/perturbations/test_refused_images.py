"""Images enter as floats in [0, 1]: bytes, images in other units and NaN are refused in a line before any work."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.data import augment, autoaugment, ood_images, views
from robustjax.perturbations import pairs, tones
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.perturbations.spatial import warp

KEY = jax.random.key(0)
CHANGES = {
    **{name: lambda x, one=one: one.apply(KEY, x, 3.0) for name, one in CORRUPTIONS.items()},
    **{
        f"tones.{name}": lambda x, one=one: one.apply(x, one.strengths[0])
        for name, one in tones.SHIFTS.items()
    },
    "ood_images.inverted": ood_images.inverted,
    "ood_images.upside_down": ood_images.upside_down,
    **{
        f"ood_images.{name}": lambda x, name=name: getattr(ood_images, name)(KEY, x)
        for name in ("permuted", "joined", "smoothed", "contrast_stretched", "acet_noise", "ccu_noise")
    },
    "pairs.linf": lambda x: pairs.linf(0.1)(KEY, x).perturbed,
    "pairs.lighting": lambda x: pairs.lighting()(KEY, x).perturbed,
    "pairs.corrupted": lambda x: pairs.corrupted(("contrast",))(KEY, x).perturbed,
    "pairs.corrupted_twice": lambda x: pairs.corrupted_twice(("contrast", "brightness"))(KEY, x).perturbed,
    "views.shifted_and_dimmed": lambda x: views.shifted_and_dimmed()(KEY, x),
    "views.simclr": lambda x: views.simclr()(KEY, x),
    "autoaugment": lambda x: autoaugment.autoaugment()(KEY, x),
}
OF_ANY_FLOATS = {  # linear, or moving pixels alone: a box is not needed
    "warp": lambda x: warp(x, jnp.zeros((len(x), 3))),
    "pairs.warped": lambda x: pairs.warped((30.0, 1.0, 1.0))(KEY, x).perturbed,
    "pairs.rotated_shifted_scaled": lambda x: pairs.rotated_shifted_scaled()(KEY, x).perturbed,
    "crop": lambda x: augment.crop(1, fill=0.5)(KEY, x),
    "cutout": lambda x: augment.cutout(3, fill=0.5)(KEY, x),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", [*CHANGES, *OF_ANY_FLOATS])
def test_bytes_are_refused_in_a_line_that_says_what_to_do(name):
    change = (CHANGES | OF_ANY_FLOATS)[name]
    for given in (jnp.asarray(IMAGES), IMAGES.astype(np.int32), IMAGES > 9):
        with pytest.raises(ValueError, match=r"images are (uint8|int32|bool), must be floats") as error:
            change(given)
        assert "\n" not in str(error.value)
        assert ("x.astype('float32') / 255" in str(error.value)) == (given.dtype == np.uint8)
        with pytest.raises(ValueError, match="must be floats"):  # the dtype is known inside jit, too
            jax.eval_shape(change, given)


@pytest.mark.parametrize("name", CHANGES)
def test_images_in_other_units_are_refused(name):
    floats = IMAGES.astype(np.float32)
    for given, hint in ((floats, "divide them by 255"), (floats / 127.5 - 1, ""), (floats * np.nan, "nan")):
        with pytest.raises(ValueError, match=r"pixels range from .* must lie in \[0, 1\]") as error:
            CHANGES[name](jnp.asarray(given))
        assert "\n" not in str(error.value) and hint in str(error.value)


def test_every_function_of_images_is_listed():
    # A new one of `ood_images` or `tones` must say what it takes, or be listed here with its reason.
    free = {"uniform", "gaussian", "low_frequency", "blurred", "stretched"}  # of shapes; steps of others
    named = {
        name
        for name, one in vars(ood_images).items()
        if inspect.isfunction(one) and one.__module__ == ood_images.__name__
    }
    public = {name for name in named if not name.startswith("_")}
    assert {f"ood_images.{name}" for name in public - free} <= set(CHANGES)


def test_contrast_by_hand():
    # Severity 3 keeps 0.4 of the distance from the mean: bytes 0..252 in steps of 4 have mean 126 / 255.
    ramp = (np.arange(64, dtype=np.uint8) * 4).reshape(1, 8, 8, 1)
    found = CHANGES["contrast"](jnp.asarray(ramp.astype(np.float32) / 255))
    np.testing.assert_allclose(found, (126 + 0.4 * (ramp.astype(float) - 126)) / 255, atol=1e-6)


def test_severities_are_one_or_one_for_each_image():
    x = jnp.asarray(IMAGES.astype(np.float32) / 255)
    with pytest.raises(ValueError, match=r"contrast: severities have shape \(3,\), must be \(\) or \(2,\)"):
        CORRUPTIONS["contrast"].apply(KEY, x, jnp.ones(3))


@pytest.mark.parametrize("name", ["brightness", "sharpness", "contrast", "inversion"])
def test_strengths_of_tones_that_cannot_be_meant_are_refused(name):
    x = jnp.full((2, 4, 4, 3), 0.5)
    for wrong in (-1, np.float32(-1), jnp.float32("nan"), "a", None, True, np.ones(3)):
        with pytest.raises(ValueError, match=f"{name}: (times|share) ") as caught:
            getattr(tones, name)(x, wrong)
        assert "\n" not in str(caught.value)
