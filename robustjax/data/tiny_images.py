"""80 Million Tiny Images, from the one large file and the lists of what to leave out; the set itself was withdrawn.

The file holds 32 x 32 colour pictures, 3,072 bytes each, columns first. A list holds one number a line. That of
Hendrycks, `80mn_cifar_idxs.txt`, counts images from 1; those of Augustin, `80mn_cifar10_test_idxs.txt` and so on,
count from 0.

Reference: Torralba, Fergus and Freeman 2008; withdrawn by its authors in 2020 for what it shows and says. The lists:
  Hendrycks, Mazeika and Dietterich 2019, arXiv:1812.04606; Augustin, Meinke and Hein 2020, arXiv:2003.09461.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from robustjax.checks import reading
from robustjax.data.layouts import files
from robustjax.data.order import mixed
from robustjax.data.sources import Info, Split
from robustjax.data.store import Part, Raw

SIDE, RECORD = 32, 3072
FROM_ONE = "80mn_cifar_idxs.txt"
CLASSES = ("unlabelled",)
_CHOICE, _CHUNK = 0x74696E79, 2**22

Numbers = Int64[np.ndarray, "n"]
Some = Int64[np.ndarray, "..."] | np.int64  # one number, or several


class Records:
    """The pictures of a file, but for some, read where rows are asked for: what streams need of an array."""

    def __init__(self, path: Path, dropped: Numbers):
        """Open a file; `dropped` are sorted numbers of records, from 0."""
        size = path.stat().st_size
        if not size or size % RECORD:
            raise ValueError(f"{path}: {size} bytes, must be a whole number of records of {RECORD}")
        self._content = np.memmap(path, np.uint8, mode="r").reshape(-1, 3, SIDE, SIDE)
        if len(dropped) and not 0 <= dropped[0] <= dropped[-1] < len(self._content):
            raise ValueError(
                f"{path}: images {dropped[0]} to {dropped[-1]} are to be left out, must be in 0 to "
                f"{len(self._content) - 1}"
            )
        self._before = dropped - np.arange(len(dropped))  # how many kept ones precede each
        self.dtype, self.ndim = np.dtype(np.uint8), 4
        self.shape = (len(self._content) - len(dropped), SIDE, SIDE, 3)
        self.nbytes = self.shape[0] * RECORD

    def __len__(self) -> int:
        """Count the pictures that are kept."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read some of the kept pictures: uint8 (n, 32, 32, 3)."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        return np.ascontiguousarray(self._content[self.number(rows)].swapaxes(-3, -1))

    def number(self, rows: Some) -> Some:
        """Say which records of the file, from 0, the kept pictures are."""
        return rows + np.searchsorted(self._before, rows, side="right")


def left_out(lists: Sequence[Path]) -> Numbers:
    """Join lists of images to leave out: sorted numbers from 0, each once.

    Raises:
      ValueError: if a line is not a number.
    """
    found = [np.zeros(0, np.int64)]
    for path in lists:
        with reading(path, "must hold one number a line"):
            numbers = np.array(path.read_text().split(), np.int64)
        found.append(numbers - (path.name == FROM_ONE))
    return np.unique(np.concatenate(found))


def whole(path: str | os.PathLike[str], *, lists: Sequence[str | os.PathLike[str]] = ()) -> Split:
    """Open the file as OOD images for training, without a copy: pictures are read when a batch asks for them.

    Its pictures count among those that `stream` and `pairs` gather on the host. An epoch's order of all 79 million
    takes some 2 GB of memory; to train on a part `data.prepare tiny_images/1000000` draws one.

    Args:
      path: `tiny_images.bin`.
      lists: files of images to leave out.

    Raises:
      ValueError: if the file is not a whole number of records, or a list does not fit it.
    """
    dropped = left_out([Path(p) for p in lists])
    image: Any = Records(Path(path), dropped)
    total = len(image)
    info = Info(
        name="tiny_images",
        split="train",
        classes=CLASSES,
        count=total,
        per_class=(total,),
        sha256="",  # of hundreds of gigabytes
        source=f"{Path(path).name}, {image.nbytes:,} bytes",
        note=f"{len(dropped):,} images left out",
    )
    label = np.broadcast_to(np.int32(0), (total,))
    return Split(image, label, image.number(np.arange(total)), info)


def sample(folder: Path, count: int) -> Raw | None:
    """Draw OOD images for training from `tiny_images.bin`, without what the lists beside it name.

    Which ones is decided by hashing their numbers: the first 1,000 are among the first 2,000.

    Raises:
      ValueError: if there are fewer images, or the file or a list is damaged.
    """
    found = [path for path in files(folder, ".bin") if path.name == "tiny_images.bin"]
    if not found:
        return None
    records = Records(found[0], left_out([p for p in files(folder, ".txt") if p.name.endswith("idxs.txt")]))
    if not 0 < count <= len(records):
        raise ValueError(f"tiny_images/{count}: must be 1 to {len(records):,}, the images of {found[0]}")
    number, score = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for first in range(0, len(records), _CHUNK):
        more = records.number(np.arange(first, min(first + _CHUNK, len(records))))
        number, score = np.append(number, more), np.append(score, mixed(_CHOICE, more))
        least = np.argsort(score, kind="stable")[:count]
        number, score = number[least], score[least]
    number = np.sort(number)
    everything = Records(found[0], np.zeros(0, np.int64))
    return Raw({"train": Part(everything[number], np.zeros(count, np.int32), number)}, CLASSES)
