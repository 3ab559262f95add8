"""Images whose foreground and background are known: labels, places, groups and masks, read a batch at a time."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax.types import Images, Labels, Mask

Rows = np.ndarray  # int (b,), positions in a data set


class Scene(NamedTuple):
    """A batch of images with what is known of their parts.

    Attributes:
      image: float32 in [0, 1].
      label: the class of the object.
      group: places * label + place; -1 where the place is unknown.
      mask: (b, h, w) in [0, 1], 1 on the object; None if there are no masks.
    """

    image: Images
    label: Labels
    group: Labels
    mask: Float[Array, "b h w"] | None = None


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A set of scenes. Facts are arrays, pixels are read when asked for, so that a set may exceed the memory.

    Attributes:
      name: for reports.
      label: int32 (n,).
      place: int32 (n,), which kind of background; -1 for unknown.
      classes, places: their names.
      image: rows -> (b, h, w, c), uint8 or float32 in [0, 1].
      mask: rows -> (b, h, w) in [0, 1], 1 on the object; None if there are no masks.
      index: int64 (n,), where each example comes from.
    """

    name: str
    label: np.ndarray
    place: np.ndarray
    classes: tuple[str, ...]
    places: tuple[str, ...]
    image: Callable[[Rows], np.ndarray]
    mask: Callable[[Rows], np.ndarray] | None
    index: np.ndarray

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.label)

    @property
    def group(self) -> np.ndarray:
        """Number the pairs of class and place, int32 (n,): places * label + place, -1 for unknown places."""
        number = len(self.places) * self.label + self.place
        return np.where(self.place >= 0, number, -1).astype(np.int32)

    @property
    def groups(self) -> int:
        """Count the groups there can be."""
        return len(self.classes) * len(self.places)


def batch(scenes: Scenes, rows: Rows) -> Scene:
    """Read some rows of a set."""
    mask = None if scenes.mask is None else jnp.asarray(scenes.mask(rows), jnp.float32)
    image = scenes.image(rows)
    if image.dtype == np.uint8:
        image = image.astype(np.float32) / np.float32(255)
    return Scene(jnp.asarray(image), jnp.asarray(scenes.label[rows]), jnp.asarray(scenes.group[rows]), mask)


def batches(scenes: Scenes, *, batch_size: int) -> Iterator[tuple[Scene, Mask]]:
    """Yield every example once, in order, as `evaluation.mapped` takes them.

    The last batch is filled up with copies of the last example, which the mask leaves out.

    Raises:
      ValueError: if the batch size is below 1 or the set is empty.
    """
    if batch_size < 1:
        raise ValueError(f"scenes.batches: batch_size is {batch_size}, must be at least 1")
    if not len(scenes):
        raise ValueError(f"scenes.batches: {scenes.name} is empty, must hold at least one example")

    def all_of_them() -> Iterator[tuple[Scene, Mask]]:
        for first in range(0, len(scenes), batch_size):
            position = np.arange(first, first + batch_size)
            yield batch(scenes, np.minimum(position, len(scenes) - 1)), jnp.asarray(position < len(scenes))

    return all_of_them()


def subset(scenes: Scenes, rows: Rows) -> Scenes:
    """Choose rows of a set, in the order given; a row may be chosen several times."""
    rows = np.asarray(rows)
    mask = scenes.mask
    return dataclasses.replace(
        scenes,
        label=scenes.label[rows],
        place=scenes.place[rows],
        index=scenes.index[rows],
        image=lambda chosen: scenes.image(rows[chosen]),
        mask=None if mask is None else lambda chosen: mask(rows[chosen]),
    )
