"""The data of ood_detection.compare: digits 0 to 5, outliers to train on, and others to test on."""

from typing import Any

import numpy as np

from robustjax import data

SETS = ("digits 8 and 9", "flipped", "uniform noise", "permuted", "stripes")
CLASSES = 6


def scene(cfg: Any, seed: int) -> dict[str, np.ndarray]:
    """Make the data of a seed: digits 0 to 5 in two parts, outliers to train on, outliers to test on."""
    parts = [data.load("digits", split, data_dir=cfg.data_dir) for split in ("train", "validation", "test")]
    index, image, label = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("index", "image", "label")
    )
    image, label = (a[np.argsort(index)] for a in (image.astype(np.float32) / 255, label))
    rng = np.random.default_rng(seed)
    ours = rng.permutation(np.flatnonzero(label < CLASSES))
    train, test = np.split(ours, [round(0.7 * len(ours))])
    near = image[(label == 6) | (label == 7)]
    scrambled = permuted(rng, image[rng.choice(train, 300)])
    noise = rng.uniform(size=(300, 8, 8, 1)).astype(np.float32)
    noise[100:] = stretched(boxed(noise[100:]))
    count = cfg.outliers
    outside = (
        image[(label == 8) | (label == 9)],
        image[test][:, ::-1],
        rng.uniform(size=(count, 8, 8, 1)).astype(np.float32),
        permuted(rng, image[test]),
        stripes(rng, count),
    )
    return {
        "image": image[train],
        "label": label[train].astype(np.int32),
        "far": np.concatenate([near, scrambled, noise]),
        "near": near,
        "test": image[test],
        "test_label": label[test].astype(np.int32),
        "outside": np.stack([images[np.arange(count) % len(images)] for images in outside]),
    }


def permuted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Shuffle the pixels of every image on its own."""
    return rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape)


def boxed(images: np.ndarray) -> np.ndarray:
    """Blur with a box of 2 x 2 pixels, around the border."""
    return sum(np.roll(images, (i, j), (1, 2)) for i in (0, 1) for j in (0, 1)) / 4  # pyright: ignore


def stretched(images: np.ndarray) -> np.ndarray:
    """Stretch the values of every image to [0, 1]."""
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    return (images - low) / (high - low)


def stripes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw black and white stripes and chequers: floor((a i + c j) / q) mod 2."""
    a, c, q = (rng.integers(low, high, (count, 1, 1)) for low, high in ((0, 3), (1, 3), (1, 4)))
    row, column = np.arange(8)[:, None], np.arange(8)
    return (((a * row + c * column) // q) % 2).astype(np.float32)[..., None]
