"""The nineteen corruptions of CIFAR-10-C by name."""

from collections.abc import Callable
from typing import NamedTuple

from robustjax.perturbations.corruptions import blur, digital, jpeg, noise, spatter, weather
from robustjax.types import Images, Keys, Radius

Corrupt = Callable[[Keys, Images, Radius], Images]


class Corruption(NamedTuple):
    """One corruption: `apply(key, x, severity)` and what is known of it.

    The key is one key or one per example, x is (b, h, w, c) in [0, 1], and severity any real number in [0, 5],
    one for all or one per example (b,). 0 leaves x as it is; 1 to 5 are the published severities.
    `extra` marks the four that CIFAR-10-C holds out; `random` those that use their key; `smooth` those whose
    severity has a gradient that tells how the image changes.
    """

    apply: Corrupt
    extra: bool = False
    random: bool = True
    smooth: bool = True


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise),
    "shot_noise": Corruption(noise.shot_noise),
    "impulse_noise": Corruption(noise.impulse_noise, smooth=False),
    "defocus_blur": Corruption(blur.defocus_blur, random=False),
    "glass_blur": Corruption(blur.glass_blur),
    "motion_blur": Corruption(blur.motion_blur),
    "zoom_blur": Corruption(blur.zoom_blur, random=False),
    "snow": Corruption(weather.snow),
    "frost": Corruption(weather.frost),
    "fog": Corruption(weather.fog),
    "brightness": Corruption(digital.brightness, random=False),
    "contrast": Corruption(digital.contrast, random=False),
    "elastic_transform": Corruption(digital.elastic_transform),
    "pixelate": Corruption(digital.pixelate, random=False),
    "jpeg_compression": Corruption(jpeg.jpeg_compression, random=False),
    "speckle_noise": Corruption(noise.speckle_noise, extra=True),
    "gaussian_blur": Corruption(blur.gaussian_blur, extra=True, random=False),
    "spatter": Corruption(spatter.spatter, extra=True),
    "saturate": Corruption(digital.saturate, extra=True, random=False),
}


def corrupt(name: str) -> Corrupt:
    """Look up a corruption by the name that CIFAR-10-C gives it.

    Raises:
      ValueError: if there is none of that name.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corrupt: name is {name!r}, must be one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name].apply
