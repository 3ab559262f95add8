"""The images of experiments on translation, all of them in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.data import subsets
from robustjax.data.sources import decoded
from robustjax.models import resampling
from robustjax.types import Batch, Images


class Sets(NamedTuple):
    """Images in [0, 1] with labels: to train on, to calibrate and choose on, to test on.

    Attributes:
      train, valid, test: the parts.
      numbers: (n,) the numbers of the test images in their data set; None for images of one's own.
    """

    train: Batch
    valid: Batch
    test: Batch
    numbers: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Say what one image measures, (h, w, c)."""
        return self.train.image.shape[1:]

    @property
    def classes(self) -> int:
        """Count the classes."""
        return int(self.train.label.max()) + 1

    def tested(self, images: subsets.Wanted) -> tuple[Batch, np.ndarray]:
        """Take test images by the rule of `data.subsets`; with their numbers in the data set."""
        rows = subsets.batch_rows(self.test, images)
        numbers = np.arange(len(self.test.label)) if self.numbers is None else self.numbers
        return subsets.batch_subset(self.test, images), numbers[rows]


def load(
    dataset: str,
    seed: int,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    images: subsets.Wanted = None,
    preprocess: str | None = None,
) -> Sets:
    """Load a data set: the embedded digits enlarged to 16 x 16, or a prepared one.

    Args:
      dataset: its name.
      seed: draws which of the digits calibrate.
      data_dir: where prepared sets are.
      size: pixels a side that prepared sets are scaled and cut to.
      images: which of each part, see `data.subsets`; all for None.
      preprocess: of prepared pictures, by name, instead of `size`; only those that are chosen are decoded.
    """
    if dataset == "digits":
        train, valid, test, numbers = _digits(seed)
        train, valid = (subsets.batch_subset(part, images) for part in (train, valid))
        test, numbers = Sets(train, valid, test, numbers).tested(images)
        return Sets(train, valid, test, numbers)
    parts = [
        decoded(
            subsets.subset(
                data.load(dataset, split, data_dir=data_dir, size=size, preprocess=preprocess), images
            )
        )
        for split in ("train", "validation", "test")
    ]
    train, valid, test = (
        Batch(jnp.asarray(part.image, jnp.float32) / 255, jnp.asarray(part.label)) for part in parts
    )
    return Sets(train, valid, test, parts[-1].index)


def _digits(seed: int, *, calibration: int = 200) -> tuple[Batch, Batch, Batch, np.ndarray]:
    parts = [data.load("digits", split) for split in ("train", "validation", "test")]
    train, valid, test = (Batch(_enlarged(part.image), jnp.asarray(part.label)) for part in parts)
    known = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), train, valid)
    order = np.random.default_rng(seed).permutation(len(known.label))
    rest, held = order[calibration:], order[:calibration]
    train, valid = (Batch(known.image[rows], known.label[rows]) for rows in (rest, held))
    return train, valid, test, parts[-1].index


def _enlarged(image: np.ndarray) -> Images:
    """Make images of bytes twice as large, linearly between pixel centres."""
    x = jnp.asarray(image, jnp.float32) / 255
    return resampling.resize(x, (2 * x.shape[1], 2 * x.shape[2]))
