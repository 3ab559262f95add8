"""The images of experiments on translation, all of them in memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.models import resampling
from robustjax.types import Batch, Images


class Sets(NamedTuple):
    """Images in [0, 1] with labels: to train on, to calibrate and choose on, to judge on."""

    train: Batch
    valid: Batch
    test: Batch


def digits(seed: int, *, calibration: int = 200) -> Sets:
    """Load the embedded digits enlarged to 16 x 16; which ones calibrate is drawn by the seed."""
    parts = [data.load("digits", split) for split in ("train", "validation", "test")]
    train, valid, test = (Batch(enlarged(part.image), jnp.asarray(part.label)) for part in parts)
    known = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), train, valid)
    order = np.random.default_rng(seed).permutation(len(known.label))
    return Sets(picked(known, order[calibration:]), picked(known, order[:calibration]), test)


def enlarged(image: np.ndarray) -> Images:
    """Make images of bytes twice as large, linearly between pixel centres."""
    x = jnp.asarray(image, jnp.float32) / 255
    return resampling.resize(x, (2 * x.shape[1], 2 * x.shape[2]))


def prepared(
    dataset: str, *, data_dir: str | None = None, size: int | None = None, images: int | None = None
) -> Sets:
    """Load a prepared data set, scaled and cut to `size` pixels; `images` of each part, all for None."""
    parts = [data.load(dataset, split, data_dir=data_dir, size=size) for split in data_splits()]

    def batch(part: data.Split) -> Batch:
        chosen = slice(images)
        return Batch(jnp.asarray(part.image[chosen], jnp.float32) / 255, jnp.asarray(part.label[chosen]))

    return Sets(*(batch(part) for part in parts))


def data_splits() -> tuple[str, str, str]:
    """Name the parts in the order of `Sets`."""
    return "train", "validation", "test"


def picked(batch: Batch, rows: Any) -> Batch:
    """Keep some rows."""
    return Batch(batch.image[rows], batch.label[rows])
