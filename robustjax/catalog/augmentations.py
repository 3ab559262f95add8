"""Augmentations by name."""

import math
from typing import Any

from robustjax.catalog.models import NORMALISATIONS
from robustjax.data import augment, autoaugment, projective
from robustjax.data.random_window import Windows


def augmentation(names: tuple[str, ...], dataset: str = "") -> augment.Augment | None:
    """Build the chain of augmentations, or None; what it uncovers is black, or the mean colour of a data set named.

    Raises:
      ValueError: for an unknown name.
    """
    mean: Any = NORMALISATIONS.get(dataset, {}).get("mean")
    fill = 0.0 if mean is None else [math.floor(255 * m) / 255 for m in mean]
    known = {
        "crop": lambda: augment.crop(4, fill=fill),
        "flip": augment.flip,
        "resized_crop": augment.resized_crop,
        "projective": projective.projective,
        "cutout": lambda: augment.cutout(8, fill=fill),
        "cutout16": lambda: augment.cutout(16, fill=fill),
        "autoaugment_cifar10": lambda: autoaugment.autoaugment(autoaugment.CIFAR10, fill=fill),
        "autoaugment_svhn": lambda: autoaugment.autoaugment(autoaugment.SVHN, fill=fill),
    }
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--augment has {unknown[0]!r}, must be of {', '.join(known)}")
    return augment.chain(*(known[name]() for name in names)) if names else None


def where_decoded(names: tuple[str, ...]) -> tuple[Windows | None, tuple[str, ...]]:
    """Take off what is done where pictures are decoded, a first `resized_crop`; the rest is done on the device.

    Raises:
      ValueError: if it comes after another augmentation.
    """
    if "resized_crop" not in names:
        return None, names
    if names[0] != "resized_crop" or names.count("resized_crop") > 1:
        raise ValueError(
            f"--augment is {' '.join(names)}, must begin with resized_crop, once: pictures are cut where they are "
            "decoded"
        )
    return Windows(), names[1:]
