"""Pictures that are decoded when they are asked for: what an array of bytes is, without its memory."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from robustjax.data.pictures import from_bytes
from robustjax.data.preprocessing import preprocessing, side

Content = bytes | Callable[[], bytes]
Reader = Callable[[np.ndarray], Sequence[Content]]  # positions -> the content of each file, or what reads it
NO_DIGEST = "not computed: read while needed"
THREADS = 16  # at most; Pillow decodes and scales without Python's lock


class LazyPictures:
    """Take the place of images uint8 (n, side, side, 3) in a `Split`: rows are decoded by several threads.

    Nothing is kept, so memory is that of the rows asked for; `np.asarray` asks for all.

    Args:
      names: (n,) of the files within their class, which tell pictures apart; subsets are chosen by them.
      read: positions -> for each the content of the file, or what reads it.
      preprocess: by name, see `data.preprocessing`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, names: Sequence[str] | np.ndarray, read: Reader, preprocess: str) -> None:
        self.names, self.preprocess = np.asarray(names, dtype=np.str_), preprocess
        self.shape = (len(self.names), side(preprocess), side(preprocess), 3)
        self.read, self._convert = read, preprocessing(preprocess)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Count the bytes that all would take."""
        return int(np.prod(self.shape))

    @property
    def digest(self) -> str:
        """Tell these files from others by the CRC-32 of each, where they are known; `NO_DIGEST` where not."""
        known = getattr(self.read, "checksums", None)
        sums = None if known is None else known(np.arange(len(self)))
        return (
            NO_DIGEST
            if sums is None
            else f"CRC-32s:{hashlib.sha256(sums.astype('<u4').tobytes()).hexdigest()}"
        )

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = np.arange(len(self))[rows]
        flat = np.atleast_1d(places)
        out = np.empty((len(flat), *self.shape[1:]), np.uint8)

        def decode(job: tuple[int, int | np.integer, Content]) -> None:
            i, place, content = job
            out[i] = self._convert(from_bytes(content, str(self.names[place])))

        jobs = zip(range(len(flat)), flat, self.read(flat), strict=True)
        for _ in pool().map(decode, jobs):
            pass
        return out if np.ndim(places) else out[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype)


class Chosen:
    """Read some of the pictures of another reader.

    Args:
      read: of all pictures.
      places: (m,) which of them.
    """

    def __init__(self, read: Reader, places: np.ndarray) -> None:
        self.read, self.places = read, places

    def __call__(self, rows: np.ndarray) -> Sequence[Content]:
        """Read by positions among the chosen."""
        return self.read(self.places[rows])

    def name(self, row: int) -> str:
        """Name a picture in errors."""
        return name_of(self.read, int(self.places[row]))

    def checksums(self, rows: np.ndarray) -> np.ndarray | None:
        """Give the CRC-32 of some pictures, if they are known."""
        known = getattr(self.read, "checksums", None)
        return None if known is None else known(self.places[rows])


def name_of(read: Reader, row: int) -> str:
    """Name a picture in errors, as its reader does."""
    named = getattr(read, "name", None)
    return f"picture {row}" if named is None else named(row)


@functools.cache
def pool() -> ThreadPoolExecutor:
    """Share the threads that decode pictures."""
    return ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="decode")


def taken(image: Any, rows: np.ndarray) -> Any:
    """Take some rows, by position or mask: of pictures that are read while needed without reading them."""
    if not isinstance(image, LazyPictures):
        return np.asarray(image[rows])
    places = np.arange(len(image))[rows]
    return LazyPictures(image.names[places], Chosen(image.read, places), image.preprocess)


def numbers(names: Sequence[str]) -> np.ndarray | None:
    """Read the official numbers off names such as ILSVRC2012_val_00000293.JPEG; None unless each has its own."""
    found = [name.rpartition(".")[0].rpartition("_")[2] for name in names]
    if not all(word.isascii() and word.isdigit() for word in found):
        return None
    number = np.array([int(word) for word in found], np.int64)
    return number if len(np.unique(number)) == len(number) else None
