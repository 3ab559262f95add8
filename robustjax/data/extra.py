"""More images for a data set: unlabelled ones as OOD images, pseudo-labelled ones as data beside the labelled."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.sharding import NamedSharding

from robustjax.data import order
from robustjax.data.batches import Augment, along
from robustjax.data.cifar import unpickled
from robustjax.data.layouts import arrays, files, npz, part
from robustjax.data.sources import Split
from robustjax.data.store import Raw
from robustjax.types import Batch

_TOGETHER = 0x65787472  # what the hash is for that shuffles a batch


def unlabelled(folder: Path) -> Raw | None:
    """Read the one .npy file of a folder as OOD images for training, such as the 300,000 random images.

    Raises:
      ValueError: if it cannot be read or holds anything but bytes (n, h, w, c).
    """
    found = files(folder, ".npy")
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"{folder}: {len(found)} .npy files, must be one")
    image = arrays(found[0], mapped=True).get("")
    if image is None:
        raise ValueError(f"{found[0]}: holds several arrays, must be one")
    if image.dtype != np.uint8 or image.ndim != 4:
        raise ValueError(f"{found[0]}: holds {image.dtype}{list(image.shape)}, must be uint8[n h w c]")
    return Raw(
        {"train": part(np.asarray(image), np.zeros(len(image), np.int32), where=found[0])}, ("unlabelled",)
    )


def pseudo_labelled(folder: Path) -> Raw | None:
    """Read pseudo-labelled images as training data: a pickle of `data` and `extrapolated_targets`, or an npz file.

    Raises:
      ValueError: if a file is damaged, holds something else or asks to run anything.
    """
    found = files(folder, ".pickle", ".pkl")
    if not found:
        raw = npz(folder)
        return raw and Raw({"train": next(iter(raw.parts.values()))})
    content = unpickled(found[0])
    image, label = content.get("data"), content.get("extrapolated_targets")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 4 or label is None:
        raise ValueError(f"{found[0]}: must hold `data`, uint8[n h w c], and `extrapolated_targets`")
    return Raw({"train": part(image, label, where=found[0])})


def enriched(
    split: Split,
    more: Split,
    *,
    batch_size: int,
    share: float = 0.7,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
    sharding: NamedSharding | None = None,
    resident: bool | None = None,
) -> Iterator[Batch]:
    """Yield batches of which int(share * batch_size) images are pseudo-labelled and the rest are labelled.

    Each kind has an order of its own, epoch after epoch; within a batch they are shuffled together. What is usual
    for an epoch are as many batches as the labelled images alone would fill.

    Args:
      split: the labelled images.
      more: images with the labels of a network, of the same shape and classes.
      batch_size: of both together.
      share: of the pseudo-labelled ones, in [0, 1].
      seed, start, augment, sharding, resident: as in `stream`; all images of both are joined in memory.

    Raises:
      ValueError: as `stream`, if share is outside [0, 1], or the images or numbers of classes differ.

    Reference: Carmon et al. 2019, arXiv:1905.13736; 89 of 128 as Augustin, Meinke and Hein 2020, arXiv:2003.09461.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"enriched: share is {share}, must be in [0, 1]")
    first, second = (list(s.image.shape[1:]) for s in (split, more))
    if first != second or len(split.info.classes) != len(more.info.classes):
        raise ValueError(
            f"enriched: {first} in {len(split.info.classes)} classes and {second} in "
            f"{len(more.info.classes)}, must be equal"
        )
    added = int(share * batch_size)
    own, total = batch_size - added, len(split.label)
    both = dataclasses.replace(
        split,
        image=np.concatenate([split.image, more.image]),
        label=np.concatenate([split.label, more.label]),
        index=np.concatenate([split.index, more.index]),
    )

    def rows(step: int) -> np.ndarray:
        inside = np.arange(step * own, (step + 1) * own)
        beside = np.arange(step * added, (step + 1) * added)
        joined = np.concatenate(
            [
                order.rows(total, inside, seed=seed),
                total + order.rows(len(more.label), beside, seed=seed, lane=1),
            ]
        )
        return joined[np.argsort(order.mixed(_TOGETHER, seed, step, np.arange(batch_size)))]

    return along(
        both,
        rows,
        batch_size=batch_size,
        seed=seed,
        start=start,
        augment=augment,
        sharding=sharding,
        resident=resident,
    )
