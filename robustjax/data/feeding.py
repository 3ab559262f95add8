"""Feed training with pictures that are decoded ahead by worker processes: each process reads its own rows alone.

Grain runs the workers. Which picture is read where, with which window, is a function of the seed and of the number of
the batch: a worker remembers nothing, and any number of them yields the same bytes. So the state of the iteration is
the number of the next batch, where Grain's own has a part for each worker.
"""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int64

from robustjax.data import order, random_window
from robustjax.data.lazy_pictures import Content, LazyPictures, name_of, pool
from robustjax.data.pictures import from_bytes
from robustjax.data.preprocessing import preprocessing
from robustjax.data.random_window import Windows

PIECE = 32  # pictures that a worker decodes at a time: what memory is counted in
AHEAD = 2  # pieces that wait for each worker
MOST_WORKERS = 32
_FOREVER = 2**40  # pieces

Rows = Int64[np.ndarray, "n"]


class Pieces:
    """The rows of batch after batch that one process needs, cut in pieces; what Grain calls a source.

    Args:
      image: the pictures.
      rows: number of a batch -> the rows of the whole batch.
      positions: number of a batch -> the place of each row in the endless sequence, which windows are drawn for.
      own: which places of a batch this process needs, rising.
      start: the first batch.
      windows: cut a random window out of each picture and scale it; None for what `image` does.
      seed, lane: of the windows.
    """

    def __init__(
        self,
        image: LazyPictures,
        rows: Callable[[int], Rows],
        *,
        batch_size: int,
        own: Rows,
        start: int,
        windows: Windows | None,
        seed: int,
        lane: int,
    ) -> None:
        self.read, self.preprocess, self.side = image.read, image.preprocess, image.shape[1]
        self.rows, self.batch_size, self.own, self.start = rows, batch_size, own, start
        self.windows, self.seed, self.lane = windows, seed, lane
        self.each = -(-len(own) // PIECE)  # pieces of a batch

    def __len__(self) -> int:
        """Never end."""
        return _FOREVER

    def __getitem__(self, number: int) -> np.ndarray:
        """Read and decode one piece: uint8 (n, side, side, 3).

        Raises:
          ValueError: in one line, naming the picture, if one is damaged.
        """
        batch, part = divmod(number, self.each)
        places = self.own[part * PIECE : (part + 1) * PIECE]
        step = self.start + batch
        rows = self.rows(step)[places]
        draws = random_window.draws(step * self.batch_size + places, seed=self.seed, lane=self.lane)
        contents = self.read(rows)
        decoded = map(self._decoded, rows.tolist(), contents, draws)
        return np.stack(list(decoded))

    def _decoded(self, row: int, content: Content, draws: np.ndarray) -> np.ndarray:
        picture = from_bytes(content, name_of(self.read, row))
        if self.windows is None:
            return preprocessing(self.preprocess)(picture)
        return random_window.cut(picture, self.windows, draws, side=self.side)


class ShuffledRows:
    """The rows of a batch in the endless sequence of shuffled epochs; see `order.rows`."""

    def __init__(self, count: int, batch_size: int, *, seed: int, lane: int) -> None:
        self.count, self.batch_size, self.seed, self.lane = count, batch_size, seed, lane

    def __call__(self, step: int) -> Rows:
        """Look up batch `step`."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return order.rows(self.count, position, seed=self.seed, lane=self.lane)


def fed(pieces: Pieces, workers: int) -> Generator[np.ndarray]:
    """Yield what this process needs of batch after batch, uint8 (n, side, side, 3), decoded ahead.

    Args:
      pieces: what to decode.
      workers: processes; with 0 threads of this one decode, when a batch is asked for.
    Raises:
      ValueError: in one line, if Grain is not installed, or naming a picture that is damaged.
    """
    if not workers:
        for first in range(0, _FOREVER, pieces.each):
            yield np.concatenate(list(pool().map(pieces.__getitem__, range(first, first + pieces.each))))
    grain = _grain()
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    dataset = grain.MapDataset.source(pieces).to_iter_dataset(reading).mp_prefetch(processes, end_with_parent)
    iterator = iter(dataset)
    try:
        while True:
            out = np.empty((len(pieces.own), pieces.side, pieces.side, 3), np.uint8)
            for first in range(0, len(out), PIECE):
                out[first : first + PIECE] = next(iterator)
            yield out
    finally:
        iterator.close()


def end_with_parent(worker: int, workers: int) -> None:
    """End a worker whose parent was killed: Grain's would wait for ever, and hold what the parent had open."""
    del worker, workers

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def usual_workers() -> int:
    """Count the processes that decode unless told otherwise: one for each core but one, 32 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), MOST_WORKERS)


def own_places(batch_size: int, sharding: NamedSharding | None) -> Rows:
    """List the places of a batch that lie on devices of this process, rising."""
    if sharding is None:
        return np.arange(batch_size)
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    ranges = {(part or (slice(None),))[0].indices(batch_size)[:2] for part in parts}
    return np.unique(np.concatenate([np.arange(first, last) for first, last in ranges]))


def assembled(local: np.ndarray, own: Rows, batch_size: int, sharding: NamedSharding | None) -> Array:
    """Make one array over all devices of what each process has of it."""
    if sharding is None:
        return jax.numpy.asarray(local)

    def part(index: Any) -> np.ndarray:
        first, last, _ = index[0].indices(batch_size)
        place = int(np.searchsorted(own, first))
        return local[place : place + last - first]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, part)


def _grain() -> Any:
    try:
        grain, flags = importlib.import_module("grain"), importlib.import_module("absl.flags").FLAGS
        if not flags.is_parsed():  # Grain reads flags of its own, which only programs of absl parse
            flags.mark_as_parsed()
        return grain
    except ImportError as error:
        raise ValueError(
            f"stream: workers is above 0, must be 0 without Grain: pip install 'robustjax[experiments]' ({error})"
        ) from None
