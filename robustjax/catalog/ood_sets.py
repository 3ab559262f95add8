"""OOD sets by name, in the size and colours of the in-distribution images.

    kmnist, kmnist:test     a prepared or embedded data set; where no part is given, the split that is asked for
    noise/uniform           noise; also noise/gaussian, noise/low_frequency
    noise/permuted          noise from the pixels of in-distribution images; also noise/smoothed, noise/acet, noise/ccu
    data/joined             in-distribution images, changed so that they belong to no class; also data/permuted,
                            data/inverted, data/upside_down
    photo/china             grey patches of one of scikit-learn's two photographs; also photo/flower
    package.module:name     a function of yours

A function of yours has the signature of `OODSet`: (like, *, split, count) -> Split.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.catalog.names import named
from robustjax.data import ood_images, order, photos, subsets
from robustjax.data.batches import Augment
from robustjax.data.decode import digest
from robustjax.data.sources import SPLITS, Split, Subset

MOST = 20_000  # generated images where no number is asked for, and images of each set in a balanced mixture


@runtime_checkable
class OODSet(Protocol):
    """Make OOD images, uint8 and of the shape of the in-distribution images: what `module:name` must name.

    Args:
      like: in-distribution images, whose shape counts; `data.of_arrays` makes a Split of arrays.
      split: "train", "validation" or "test": what is trained on should not be tested on.
      count: how many images are wanted; None leaves it to the set. Of more than that, the first are taken.
    """

    def __call__(self, like: Split, *, split: str, count: int | None) -> Split: ...


def load(
    name: str, like: Split, *, split: str, data_dir: str | None = None, count: subsets.Wanted = None
) -> Split:
    """Load an OOD set as images of the shape of `like`.

    Args:
      name: see the top of this file.
      like: in-distribution images.
      split: "train", "validation" or "test" where the name does not say.
      data_dir: where data are prepared.
      count: how many images. Of a data set they are a subset, see `data.subsets`, and all are taken by default. What
        is generated has as many as asked for, by default as many as `like`, at most 20,000.
    Raises:
      ValueError: if there is no such set or split, or it does not fit the images.
    """
    base, _, part = name.partition(":")
    if _is_generated(name):
        try:
            generate = named(GENERATED, name, flag="OOD set")
        except ValueError as error:
            hint = f"; the part of a data set must be one of {', '.join(SPLITS)}" if part else ""
            raise ValueError(f"{error}{hint}") from None
        number = None if count is None else subsets.rule(count).images
        return _checked(name, generate(like, split=split, count=number), like, number)
    # Which images they are is decided before their colours change: the same for grey and for colour.
    return _coloured(subsets.subset(_stored(base, part or split, like, data_dir), count), like)


def _stored(base: str, part: str, like: Split, data_dir: str | None) -> Split:
    """Load a data set in the size of the in-distribution images."""
    height, width = like.image.shape[1:3]
    if height != width:
        raise ValueError(f"OOD set {base}: in-distribution images are {height} x {width}, must be square")
    found = data.load(base, part, data_dir=data_dir)
    if found.image.shape[1:3] != (height, width):
        found = data.load(base, part, data_dir=data_dir, size=height)
    return found


def _coloured(split: Split, like: Split) -> Split:
    image = coloured(split.image, like.image.shape[-1])
    if image is split.image:
        return split
    return dataclasses.replace(split, image=image, info=dataclasses.replace(split.info, sha256=digest(image)))


def _for_training(name: str, like: Split, *, split: str, count: int, data_dir: str | None) -> Split:
    """Load an OOD set to train on; of a larger data set, draw images in an order that depends on its name alone."""
    base = name.partition(":")[0]
    found = load(name, like, split=split, data_dir=data_dir, count=count if _is_generated(name) else None)
    if count >= len(found.label):
        return found
    drawn = np.sort(order.permutation(len(found.label), seed=_seed(base), epoch=0)[:count])
    return subsets.of_rows(found, drawn, Subset("drawn by its name", len(found.label)))


def _is_generated(name: str) -> bool:
    part = name.partition(":")[2]
    return (
        name in GENERATED
        or name.startswith(("noise/", "data/", "photo/"))
        or bool(part and part not in SPLITS)
    )


def balanced_mixture(
    names: Sequence[str], like: Split, *, split: str = "train", data_dir: str | None = None
) -> tuple[Split, Augment | None]:
    """Load OOD sets to train on, each with the same weight; noise on its own is drawn anew in every step.

    Sets differ in size, so all are repeated up to the largest, which counts with 20,000 images at most; generated
    images are as many, made once. Noise on its own is not stored: the second result, an augmentation, makes it
    anew in every step.

    Args:
      names, like, split, data_dir: as in `load`.
    Returns:
      The images, and what to make of each batch of them.
    Raises:
      ValueError: if no name is given.
    """
    if not names:
        raise ValueError("OOD sets: none is given, must be at least one")
    if len(names) == 1 and names[0] in NOISE:
        return like, NOISE[names[0]]
    if len(names) == 1:
        return load(names[0], like, split=split, data_dir=data_dir), None
    stored = {
        n: _for_training(n, like, split=split, data_dir=data_dir, count=MOST)
        for n in names
        if n not in GENERATED
    }
    most = max((len(s.label) for s in stored.values()), default=min(len(like.label), MOST))
    sets = {n: stored[n] if n in stored else load(n, like, split=split, count=most) for n in names}
    repeated = [
        subsets.of_rows(s, np.arange(most) % len(s.label), Subset("repeated", len(s.label)))
        for s in (sets[n] for n in names)
    ]
    return _joined(dict(zip(names, repeated, strict=True)), split), None


def counted_mixture(
    counts: Mapping[str, int], like: Split, *, split: str = "train", data_dir: str | None = None
) -> Split:
    """Load OOD sets to train on, each with its number of images; drawing from the whole weighs the sets by them.

    Args:
      counts: images by name.
      like, split, data_dir: as in `load`.
    """
    return _joined(
        {
            n: _for_training(n, like, split=split, count=count, data_dir=data_dir)
            for n, count in counts.items()
        },
        split,
    )


def with_split(name: str, split: str) -> str:
    """Write a name with the part that is loaded: `kmnist` becomes `kmnist:test`.

    What is generated keeps its name: noise of another key is still the same noise.
    """
    return name if name in GENERATED or ":" in name else f"{name}:{split}"


def coloured(image: np.ndarray, channels: int) -> np.ndarray:
    """Turn colours to grey, by luminance, or repeat grey in every channel."""
    if image.shape[-1] == channels:
        return image
    if channels == 1:
        grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None]
    return np.repeat(image, channels, axis=-1)


NOISE: dict[str, Augment] = {
    "noise/uniform": lambda key, images: ood_images.uniform(key, images.shape),
    "noise/gaussian": lambda key, images: ood_images.gaussian(key, images.shape),
    "noise/low_frequency": lambda key, images: ood_images.low_frequency(key, images.shape),
    "noise/permuted": ood_images.permuted,
    "noise/smoothed": ood_images.smoothed,
    "noise/acet": ood_images.acet_noise,
    "noise/ccu": ood_images.ccu_noise,
}
CHANGED: dict[str, Augment] = {
    "data/joined": ood_images.joined,
    "data/permuted": ood_images.permuted,
    "data/inverted": lambda key, images: ood_images.inverted(images),
    "data/upside_down": lambda key, images: ood_images.upside_down(images),
}
PHOTOS: dict[str, photos.Photo] = {"photo/china": "china", "photo/flower": "flower"}


def _noise(name: str, like: Split, *, split: str, count: int | None) -> Split:
    count = _count(like, count)
    draw: Callable = jax.jit(NOISE[name])
    # Keys by name and split: what is tested is not what was trained on.
    key = jax.random.key(_seed(f"{name} {split}"))
    made = []
    for start in range(0, count, 500):
        rows = np.arange(start, start + 500)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows, jnp.int32))
        made.append(_bytes(draw(keys, _floats(like, rows))))
    return _named(np.concatenate(made)[:count], name, split)


def _changed(name: str, like: Split, *, split: str, count: int | None) -> Split:
    # One key for all: an image may be joined with any other. The seed is the one of recorded results.
    key = jax.random.key(zlib.crc32(f"{name} {split}".encode()))
    return _named(_bytes(CHANGED[name](key, _floats(like, np.arange(_count(like, count))))), name, split)


def _photo(name: str, like: Split, *, split: str, count: int | None) -> Split:
    height, width, channels = like.image.shape[1:]
    if height != width:
        raise ValueError(f"OOD set {name}: in-distribution images are {height} x {width}, must be square")
    image = photos.patches(PHOTOS[name], count=_count(like, count), size=height)
    return _named(coloured(image, channels), name, split)


GENERATED: dict[str, OODSet] = {
    name: partial(make, name)
    for make, table in ((_noise, NOISE), (_changed, CHANGED), (_photo, PHOTOS))
    for name in table
}


def _count(like: Split, count: int | None) -> int:
    return min(len(like.label), MOST) if count is None else count


def _floats(like: Split, rows: np.ndarray) -> jax.Array:
    return jnp.asarray(like.image[rows % len(like.label)], jnp.float32) / 255


def _bytes(images: jax.Array) -> np.ndarray:
    return np.rint(255 * np.asarray(images)).astype(np.uint8)


def _named(image: np.ndarray, name: str, split: str) -> Split:
    return data.of_arrays(image, np.zeros(len(image), np.int32), name=name, split=split, classes=("outlier",))


def _checked(name: str, found: Split, like: Split, count: int | None) -> Split:
    if not isinstance(found, Split):
        raise ValueError(f"OOD set {name} gives {type(found).__name__}, must be a robustjax.data.Split")
    shape, expected = list(found.image.shape[1:]), list(like.image.shape[1:])
    if shape != expected:
        raise ValueError(f"OOD set {name} gives images of shape {shape}, must be {expected}")
    if count is None or count >= len(found.label):
        return found
    return subsets.of_rows(found, np.arange(count), Subset("the first", len(found.label)))


def _joined(sets: Mapping[str, Split], split: str) -> Split:
    return data.of_arrays(
        np.concatenate([s.image for s in sets.values()]),
        np.repeat(np.arange(len(sets)), [len(s.label) for s in sets.values()]),
        name=" + ".join(sets),
        split=split,
        classes=tuple(sets),
    )


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
