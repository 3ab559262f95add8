"""Batches for training and evaluation: exact to resume, the same on any number of devices and processes.

A split stays one array of bytes, on the device if it fits; gathering, conversion to float and augmentation
are one compiled function.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Integer

from robustjax.data import feeding, order
from robustjax.data.lazy_pictures import LazyPictures
from robustjax.data.random_window import Windows
from robustjax.data.sources import Split
from robustjax.data.tiny_images import Records
from robustjax.numerics import keys_for
from robustjax.types import Batch, Images, Keys, Mask, Pair

Augment = Callable[[Keys, Images], Images]
RESIDENT = 2**30  # bytes of images that are kept on the device without being asked
# 1/255 in two parts, the first of 16 bits so that its product with a byte is exact.
_HIGH = np.float32(32896 / 2**23)
_LOW = np.float32(1 / 255 - 32896 / 2**23)


def to_float(image: Integer[Array, "b h w c"]) -> Images:
    """Divide bytes by 255, rounded exactly as numpy does in float32.

    XLA multiplies by the reciprocal of a constant instead, which is one bit off for half of the 256 values.
    """
    value = image.astype(jnp.float32)
    return value * _HIGH + value * _LOW


def stream(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
    sharding: NamedSharding | None = None,
    resident: bool | None = None,
    windows: Windows | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield full training batches without end.

    Batch i holds positions i B .. (i + 1) B of the shuffled epochs laid end to end: every image once an
    epoch, and all a function of (seed, i), so a run resumed at `start` sees what it would have seen.

    Args:
      split: the images.
      batch_size: examples a batch, over all devices and processes.
      seed: of the order and of the augmentation.
      start: the first batch.
      augment: `(key, images) -> images` with one key per example; see `augment`.
      sharding: of the batch axis; by default all on one device. Every process must hold the same split.
      resident: keep the images on every device, instead of copying each batch from the host; by default if
        they take at most 1 GiB.
      windows: of pictures that are read while needed, cut a random window out of each instead of its centre, where it
        is decoded: torchvision's RandomResizedCrop.
      workers: processes of Grain that read and decode such pictures ahead; 0 for threads of this one. The batches are
        the same for any number. Workers import the main module again, so that a script must start its work under
        `if __name__ == "__main__":`.
    Raises:
      ValueError: if a number is out of range, images are no bytes, labels are not in 0..classes - 1, the batch does
        not divide over the devices, or windows or workers are asked for and the images lie in memory.
    """
    _check("stream", split, batch_size, sharding)
    if start < 0:
        raise ValueError(f"stream: start is {start}, must be at least 0")
    if workers < 0:
        raise ValueError(f"stream: workers is {workers}, must be at least 0")
    if windows is not None or workers:
        if not isinstance(split.image, LazyPictures):
            raise ValueError(
                f"stream: windows is {windows} and workers {workers}, must be None and 0: the images of "
                f"{split.info.name} lie in memory; load with streamed=True"
            )
        return _decoded(split, split.image, batch_size, seed, start, augment, sharding, windows, workers)
    return _stream(split, batch_size, seed, start, augment, sharding, resident, lane=0)


def reading_state(
    split: Split, *, batch_size: int, seed: int, windows: Windows | None = None
) -> Callable[[int], dict[str, Any]]:
    """Build batches taken -> the state of `stream`, in plain data: what to save to go on bit for bit.

    It is the number of the next batch and what decides which batch that is; it does not depend on workers, processes
    and devices, any number of which goes on from it.

    Args:
      split, batch_size, seed, windows: of the stream.
    """
    fixed = {
        "name": f"{split.info.name} {split.info.split}",
        "images": split.info.count,
        "SHA-256": split.info.sha256,
        "batch size": batch_size,
        "seed": seed,
        "windows": None if windows is None else [*windows.area, *windows.ratio],
    }
    return lambda taken: {"next batch": taken, **fixed}


def along(
    split: Split,
    rows: Callable[[int], np.ndarray],
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
    sharding: NamedSharding | None = None,
    resident: bool | None = None,
) -> Iterator[Batch]:
    """Yield the batches whose rows a function of their number names; all else as in `stream`."""
    _check("along", split, batch_size, sharding)
    if start < 0:
        raise ValueError(f"along: start is {start}, must be at least 0")
    return _fetched(split, rows, order.folded(seed), start, augment, sharding, resident)


def pairs(
    split: Split,
    ood: Split,
    *,
    batch_size: int,
    ood_batch_size: int | None = None,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
    ood_augment: Augment | None = None,
    sharding: NamedSharding | None = None,
    resident: bool | None = None,
) -> Iterator[Pair]:
    """Yield full batches of ID images beside batches of OOD images, each with an order of its own; see `stream`.

    `ood_augment` may also make the OOD images: noise from keys, or the images with their pixels permuted.

    Raises:
      ValueError: as `stream`, and if the images of the two differ in shape.
    """
    second = batch_size if ood_batch_size is None else ood_batch_size
    _check("pairs", split, batch_size, sharding)
    _check("pairs", ood, second, sharding)
    if start < 0:
        raise ValueError(f"pairs: start is {start}, must be at least 0")
    if split.image.shape[1:] != ood.image.shape[1:]:
        raise ValueError(
            f"pairs: images of {split.info.name} are {list(split.image.shape[1:])} and those of "
            f"{ood.info.name} {list(ood.image.shape[1:])}, must be equal; load with `size`"
        )
    inside = _stream(split, batch_size, seed, start, augment, sharding, resident, lane=0)
    outside = _stream(ood, second, seed, start, ood_augment, sharding, resident, lane=1)
    return (Pair(a, b.image) for a, b in zip(inside, outside, strict=True))


def evaluation(
    split: Split, *, batch_size: int, sharding: NamedSharding | None = None, resident: bool | None = None
) -> Iterator[tuple[Batch, Mask]]:
    """Yield every example once, in order; the last batch is filled up with examples that the mask leaves out.

    Raises:
      ValueError: if the batch size is below 1 or does not divide over the devices.
    """
    _check("evaluation", split, batch_size, sharding)
    total = len(split.label)

    def batches() -> Iterator[tuple[Batch, Mask]]:
        fetch, finish = _steps(split, 0, None, sharding, resident)
        for first in range(0, total, batch_size):
            position = np.arange(first, first + batch_size)
            yield finish(fetch(np.minimum(position, total - 1)), 0), _put(position < total, sharding)

    return batches()


def _stream(
    split: Split,
    batch_size: int,
    seed: int,
    start: int,
    augment: Augment | None,
    sharding: NamedSharding | None,
    resident: bool | None,
    lane: int,
) -> Iterator[Batch]:
    def rows(step: int) -> np.ndarray:
        position = np.arange(step * batch_size, (step + 1) * batch_size)
        return order.rows(len(split.label), position, seed=seed, lane=lane)

    return _fetched(split, rows, order.folded(seed, lane), start, augment, sharding, resident)


def _decoded(
    split: Split,
    image: LazyPictures,
    batch_size: int,
    seed: int,
    start: int,
    augment: Augment | None,
    sharding: NamedSharding | None,
    windows: Windows | None,
    workers: int,
) -> Iterator[Batch]:
    rows = feeding.ShuffledRows(len(split.label), batch_size, seed=seed, lane=0)
    own = feeding.own_places(batch_size, sharding)
    pieces = feeding.Pieces(
        image, rows, batch_size=batch_size, own=own, start=start, windows=windows, seed=seed, lane=0
    )
    settings: dict[str, Any] = {"augment": augment, "sharding": sharding}
    key = np.uint32(order.folded(seed))
    local = feeding.fed(pieces, workers)

    def fetched(step: int) -> Any:
        image = feeding.assembled(next(local), own, batch_size, sharding)
        return image, _put(split.label, sharding, rows(step))

    # The thread ahead ends before what it reads from.
    with contextlib.closing(local), contextlib.closing(_ahead(fetched, start)) as ahead:
        for ready, step in ahead:
            yield _finished(*ready, None, key, np.uint32(step), **settings)


def _fetched(
    split: Split,
    rows: Callable[[int], np.ndarray],
    seed: int,
    start: int,
    augment: Augment | None,
    sharding: NamedSharding | None,
    resident: bool | None,
) -> Iterator[Batch]:
    fetch, finish = _steps(split, seed, augment, sharding, resident)

    def fetched(step: int) -> Any:
        return fetch(rows(step))

    for ready, step in _ahead(fetched, start):
        yield finish(ready, step)


def _ahead(fetched: Callable[[int], Any], start: int) -> Generator[tuple[Any, int]]:
    """Fetch by a thread ahead: gathering on the host overlaps with what the caller does with the batch before."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(fetched, start + ahead) for ahead in range(2))
        for step in count(start):
            ready = waiting.popleft().result()
            waiting.append(pool.submit(fetched, step + 2))
            yield ready, step


def _steps(
    split: Split,
    seed: int,
    augment: Augment | None,
    sharding: NamedSharding | None,
    resident: bool | None,
) -> tuple[Callable[[np.ndarray], Any], Callable[[Any, int], Batch]]:
    """Build the two halves of a batch: what the host sends for some rows, and the compiled rest."""
    settings: dict[str, Any] = {"augment": augment, "sharding": sharding}
    key = np.uint32(seed)
    if split.image.nbytes <= RESIDENT if resident is None else resident:
        everywhere = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())
        image, label = _put(split.image, everywhere), _put(split.label, everywhere)
        return (
            lambda rows: _put(rows.astype(np.int32), sharding),
            lambda rows, step: _finished(image, label, rows, key, np.uint32(step), **settings),
        )
    return (
        lambda rows: (_put(split.image, sharding, rows), _put(split.label, sharding, rows)),
        lambda ready, step: _finished(*ready, None, key, np.uint32(step), **settings),
    )


# One function for all streams, so that a second stream or evaluation of the same shape compiles nothing.
@partial(jax.jit, static_argnames=("augment", "sharding"))
def _finished(
    image: Array,
    label: Array,
    rows: Array | None,
    seed: Array,
    step: Array,
    *,
    augment: Augment | None,
    sharding: NamedSharding | None,
) -> Batch:
    if rows is not None:
        image, label = image[rows], label[rows]
    value = to_float(image)
    if augment is not None:
        # Keys are made here from numbers: a key from outside would belong to one process.
        value = augment(keys_for(jax.random.fold_in(jax.random.key(seed), step), value.shape[0]), value)
    batch = Batch(value, label)
    return batch if sharding is None else jax.lax.with_sharding_constraint(batch, sharding)


def _put(
    value: np.ndarray | LazyPictures | Records, sharding: NamedSharding | None, rows: np.ndarray | None = None
) -> Array:
    """Send an array, or some rows of it, to the devices; a process touches no rows but its own."""
    if sharding is None:
        return jnp.asarray(value if rows is None else value[rows])
    if rows is None:
        return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])
    shape = (len(rows), *value.shape[1:])
    return jax.make_array_from_callback(
        shape, sharding, lambda part: value[rows[(part or (slice(None),))[0]]]
    )


def _check(who: str, split: Split, batch_size: int, sharding: NamedSharding | None) -> None:
    if batch_size < 1:
        raise ValueError(f"{who}: batch_size is {batch_size}, must be at least 1")
    if not len(split.label):
        raise ValueError(f"{who}: {split.info.name} is empty, must hold at least one example")
    if split.image.dtype != np.uint8 or split.image.ndim != 4 or len(split.image) != len(split.label):
        raise ValueError(
            f"{who}: images of {split.info.name} are {split.image.dtype}{list(split.image.shape)} with "
            f"{len(split.label)} labels, must be uint8[n h w c] with as many"
        )
    if split.label.ndim == 1:  # classes of pixels may be unknown
        if split.label.dtype.kind not in "iu":
            raise ValueError(
                f"{who}: labels of {split.info.name} are {split.label.dtype}, must be whole numbers from 0"
            )
        low, high, classes = int(split.label.min()), int(split.label.max()), len(split.info.classes)
        if low < 0 or (classes and high >= classes):
            hint = "; of labels from 1 take y - 1" if low == 1 and high == classes else ""
            raise ValueError(
                f"{who}: labels of {split.info.name} run from {low} to {high}, must be in 0..{classes - 1}{hint}"
            )
    if sharding is not None:
        try:
            sharding.shard_shape((batch_size,))
        except ValueError as error:
            raise ValueError(
                f"{who}: batch_size is {batch_size}, must divide over the devices: {error}"
            ) from None
