"""Predictions for images that are read while they are needed: one program, full batches, interruptible at any time."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array

from robustjax import logit
from robustjax.data.batches import to_float
from robustjax.evaluation.runner import Memory
from robustjax.numerics import in_float32
from robustjax.types import Bytes, Labels, LogitsFn

Read = Callable[[int, int], np.ndarray]  # (start, stop) -> bytes (stop - start, h, w, c)
AHEAD = 2  # batches that are read while the device computes


def predictions(
    network: Callable[..., LogitsFn],
    arguments: tuple[Any, ...],
    read: Read,
    count: int,
    *,
    batch_size: int = 512,
    sharding: NamedSharding | None = None,
    memory: Memory | None = None,
    about: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Classify images 0 to count - 1, in order.

    Batches are full, but for the last one, and begin at the same images whether or not a run was killed. One thread
    reads ahead, so that the device does not wait; no more than four batches are in memory.

    Args:
      network: (*arguments) -> logits function, such as `functools.partial(types.frozen, model)`.
      arguments: what it is called with, such as (params, state); already on the devices of `sharding`.
      read: gives the images from start to before stop, as bytes; called by one thread, in order.
      count: of the images.
      batch_size: images on the devices at a time; rounded up to a multiple of the devices of `sharding`.
      sharding: of the batch.
      memory: keeps progress and takes it up again.
      about: what decides the predictions, as text; progress kept about something else is refused.
      progress: called after every batch with the images that are done, and `count`.
    Returns:
      (count,) int32, -1 where the logits say no label: NaN or plus infinity among them, or all minus infinity.
    Raises:
      ValueError: if batch_size is below 1, or the progress kept is about something else.
    """
    if batch_size < 1:
        raise ValueError(f"predictions: batch_size is {batch_size}, must be at least 1")
    devices = sharding.num_devices if sharding else 1
    size = -(-min(batch_size, count) // devices) * devices
    found, done = np.full(count, -1, np.int32), 0
    if memory is not None and (kept := memory.load()):
        if str(kept.get("about")) != about or len(kept.get("found", ())) != count:
            raise ValueError(
                "predictions: the progress kept is of another evaluation, remove it to start again"
            )
        found, done = kept["found"].copy(), int(kept["done"])

    def placed(start: int) -> Array:
        images = read(start, min(start + size, count))
        if len(images) < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        return jax.device_put(images, sharding)

    classify = jax.jit(in_float32(partial(_classified, network)))

    def take(start: int, answer: Array) -> None:
        stop = min(start + size, count)
        found[start:stop] = np.asarray(answer)[: stop - start]
        if memory is not None:
            memory.keep(lambda: {"found": found, "done": np.asarray(stop), "about": np.asarray(about)})
        if progress is not None:
            progress(stop, count)

    starts = range(done, count, size)
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(placed, start) for start in starts[:AHEAD])
        before: tuple[int, Array] | None = None
        try:
            for i, start in enumerate(starts):
                images = waiting.popleft().result()
                if i + AHEAD < len(starts):
                    waiting.append(reader.submit(placed, starts[i + AHEAD]))
                now = start, classify(arguments, images)
                # Fetching the batch before only now lets the device work on this one meanwhile.
                if before is not None:
                    take(*before)
                before = now
            if before is not None:
                take(*before)
        finally:
            for job in waiting:
                job.cancel()
    return found


def _classified(network: Callable[..., LogitsFn], arguments: tuple[Any, ...], images: Bytes) -> Labels:
    return logit.prediction(network(*arguments)(to_float(images)))
