"""Outliers by name, in the size and colours of the data: prepared or embedded sets, noise, or a mixture of them.

`kmnist` is its training part where outliers are trained on and its test part where detectors are judged;
`kmnist:test` says so by hand. `noise/uniform`, `noise/gaussian` and `noise/low_frequency` show nothing;
`noise/permuted`, `noise/smoothed`, `noise/acet` and `noise/ccu` are made from the data's own pixels.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.data import order, outliers
from robustjax.data.batches import Augment
from robustjax.data.sources import SPLITS, Split

MOST = 20_000  # noise images, and images of each set in a mixture
NOISE: dict[str, Augment] = {
    "noise/uniform": lambda key, images: outliers.uniform(key, images.shape),
    "noise/gaussian": lambda key, images: outliers.gaussian(key, images.shape),
    "noise/low_frequency": lambda key, images: outliers.low_frequency(key, images.shape),
    "noise/permuted": outliers.permuted,
    "noise/smoothed": outliers.smoothed,
    "noise/acet": outliers.acet_noise,
    "noise/ccu": outliers.ccu_noise,
}


def load(
    name: str, like: Split, *, split: str, data_dir: str | None = None, count: int | None = None
) -> Split:
    """Load one set of outliers as images of the shape of `like`.

    Args:
      name: see the top of this file.
      like: data, whose shape counts; noise of pixels is made from its images.
      split: "train" or "test" where the name does not say.
      data_dir: where data are prepared.
      count: how many images, drawn without replacement in an order that depends on the name alone; all (of
        noise, as many as there are data, at most 20,000) by default. Noise has as many as asked for.
    Raises:
      ValueError: if there is no such set, split or noise.
    """
    height, width, channels = like.image.shape[1:]
    if name.startswith("noise/"):
        return _noise(name, like, split, count)
    name, _, given = name.partition(":")
    if given and given not in SPLITS:
        raise ValueError(f"outliers: {name}:{given} asks for {given!r}, must be one of {', '.join(SPLITS)}")
    if height != width:
        raise ValueError(f"outliers: images of the data are {height} x {width}, must be square")
    found = data.load(name, given or split, data_dir=data_dir)
    if found.image.shape[1:3] != (height, width):
        found = data.load(name, given or split, data_dir=data_dir, size=height)
    found = dataclasses.replace(found, image=coloured(found.image, channels))
    if count is None or count >= len(found.label):
        return found
    rows = np.sort(order.permutation(len(found.label), seed=_seed(name), epoch=0)[:count])
    return dataclasses.replace(
        found,
        image=found.image[rows],
        label=found.label[rows],
        index=found.index[rows],
        info=dataclasses.replace(
            found.info, count=count, note=f"{found.info.note} {count} of {len(found.label)}".strip()
        ),
    )


def mixture(
    names: Sequence[str], like: Split, *, split: str = "train", data_dir: str | None = None
) -> tuple[Split, Augment | None]:
    """Load outliers to train on: several sets in one, or noise drawn anew in every step.

    Sets differ in size, so in a mixture all are repeated up to the largest, which counts with 20,000 images at
    most; noise has as many, made once. Noise on its own is not stored: the second result, an augmentation, makes
    it anew in every step.

    Args:
      names, like, split, data_dir: as in `load`.
    Returns:
      The images, and what to make of each batch of them.
    Raises:
      ValueError: if no name is given.
    """
    if not names:
        raise ValueError("--outliers is empty, must name at least one set of outliers")
    if len(names) == 1 and names[0] in NOISE:
        return like, NOISE[names[0]]
    if len(names) == 1:
        return load(names[0], like, split=split, data_dir=data_dir), None
    real = [n for n in names if n not in NOISE]
    found = {n: load(n, like, split=split, data_dir=data_dir, count=MOST) for n in real}
    most = max((len(p.label) for p in found.values()), default=min(len(like.label), MOST))
    parts = [found[n] if n in found else load(n, like, split=split, count=most) for n in names]
    image = np.concatenate([p.image[np.arange(most) % len(p.label)] for p in parts])
    label = np.repeat(np.arange(len(parts)), most)
    return data.of_arrays(image, label, name=" + ".join(names), split=split, classes=tuple(names)), None


def coloured(image: np.ndarray, channels: int) -> np.ndarray:
    """Turn colours to grey, by luminance, or repeat grey in every channel."""
    if image.shape[-1] == channels:
        return image
    if channels == 1:
        grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None]
    return np.repeat(image, channels, axis=-1)


def _noise(name: str, like: Split, split: str, count: int | None) -> Split:
    if name not in NOISE:
        raise ValueError(f"outliers: {name} is no noise, must be one of {', '.join(NOISE)}")
    count = min(len(like.label), MOST) if count is None else count
    draw: Callable = jax.jit(NOISE[name])
    # Keys by name and split: what is tested is not what was trained on.
    key = jax.random.key(_seed(f"{name} {split}"))
    made = []
    for start in range(0, count, 500):
        rows = np.arange(start, start + 500)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows, jnp.int32))
        images = jnp.asarray(like.image[rows % len(like.label)], jnp.float32) / 255
        made.append(np.rint(255 * np.asarray(draw(keys, images))).astype(np.uint8))
    image = np.concatenate(made)[:count]
    return data.of_arrays(image, np.zeros(count, np.int32), name=name, split=split, classes=("noise",))


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
