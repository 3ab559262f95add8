"""Outliers of ratio.compare by name: those of `outlier_sets`, and embedded ones for small grey images.

`photo/china` and `photo/flower` are patches of scikit-learn's photographs, for training and for testing;
`data/joined`, `data/permuted`, `data/inverted` and `data/upside_down` are made from the data themselves.
"""

import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.catalog import outlier_sets
from robustjax.data import outliers, photos
from robustjax.data.sources import Split

STRANGE: dict[str, Callable] = {
    "data/joined": outliers.joined,
    "data/permuted": outliers.permuted,
    "data/inverted": lambda key, images: outliers.inverted(images),
    "data/upside_down": lambda key, images: outliers.upside_down(images),
}
PHOTOS: tuple[photos.Photo, ...] = ("china", "flower")


def load(name: str, like: Split, *, split: str, count: int, data_dir: str | None = None) -> Split:
    """Load one set, `count` images of the shape of `like`; what is made of data repeats them if need be.

    Raises:
      ValueError: for an unknown name, or photographs where images are not square and grey.
    """
    kind, _, which = name.partition("/")
    if kind == "photo":
        if which not in PHOTOS or like.image.shape[1] != like.image.shape[2] or like.image.shape[3] != 1:
            raise ValueError(
                f"outliers: {name} must be photo/china or photo/flower, and the data square and grey"
            )
        image = photos.patches(which, count=count, size=like.image.shape[1])
    elif kind == "data":
        if name not in STRANGE:
            raise ValueError(f"outliers: {name} is unknown, must be one of {', '.join(STRANGE)}")
        rows = np.arange(count) % len(like.label)
        key = jax.random.key(zlib.crc32(f"{name} {split}".encode()))
        found = STRANGE[name](key, jnp.asarray(like.image[rows], jnp.float32) / 255)
        image = np.rint(255 * np.asarray(found)).astype(np.uint8)
    else:
        return outlier_sets.load(name, like, split=split, data_dir=data_dir, count=count)
    return data.of_arrays(image, np.zeros(count, np.int32), name=name, split=split, classes=("outlier",))


def mixture(names: Sequence[tuple[str, int]], like: Split, *, data_dir: str | None = None) -> Split:
    """Join sets to train on, each with its number of images; drawing from the whole weighs them by it."""
    parts = [load(name, like, split="train", count=count, data_dir=data_dir) for name, count in names]
    label = np.concatenate([np.full(len(p.label), i) for i, p in enumerate(parts)])
    joined = " + ".join(name for name, _ in names)
    return data.of_arrays(
        np.concatenate([p.image for p in parts]),
        label,
        name=joined,
        split="train",
        classes=tuple(name for name, _ in names),
    )
