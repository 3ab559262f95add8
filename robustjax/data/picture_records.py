"""Records of a prepared set of pictures, read by number: the content of the files, checked one by one."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from robustjax.checks import reading

CHECKSUM = "crc32"  # the feature that holds the CRC-32 of a picture's bytes


class PictureRecords:
    """Read pictures by their place in an order: `records(rows) -> contents`.

    It may be sent to other processes: what they get is where the set is and the order, and they open it themselves.

    Args:
      folder: a prepared data set.
      split: its name there.
      order: (n,) the number of each record among those stored.
    """

    def __init__(self, folder: Path, split: str, order: np.ndarray) -> None:
        self.folder, self.split, self.order = folder, split, order

    def __getstate__(self) -> tuple[Path, str, np.ndarray]:
        """Leave out what is open."""
        return self.folder, self.split, self.order

    def __setstate__(self, state: tuple[Path, str, np.ndarray]) -> None:
        """Be as newly made."""
        self.folder, self.split, self.order = state

    @functools.cached_property
    def _source(self) -> Any:
        return source(self.folder, self.split)

    @functools.cached_property
    def _listed(self) -> Mapping[str, np.ndarray]:
        return listed(self.folder, self.split)

    def __call__(self, rows: np.ndarray) -> Sequence[bytes]:
        """Read the bytes of some pictures.

        Raises:
          ValueError: in one line, naming the record, if one cannot be read or its checksum differs.
        """
        numbers = self.order[rows].tolist()
        try:
            found = self._source.__getitems__(numbers)
        except Exception:  # one of them is damaged, or all: which?
            found = [self._one(number) for number in numbers]
        for number, record in zip(numbers, found, strict=True):
            have = zlib.crc32(record["image"])
            if CHECKSUM in record and have != int(record[CHECKSUM]):
                raise ValueError(
                    f"{self._where(number)}: damaged (its CRC-32 is {have:08x}, must be "
                    f"{int(record[CHECKSUM]):08x}); prepare the set again"
                )
        return [record["image"] for record in found]

    def name(self, row: int) -> str:
        """Name a picture in errors: the set, the split, the number of the record and the file it was made of."""
        return self._where(int(self.order[row]))

    def checksums(self, rows: np.ndarray) -> np.ndarray | None:
        """Give the CRC-32 of some pictures as they were prepared; None if the set holds none."""
        kept = self._listed.get(CHECKSUM)
        return None if kept is None else kept[self.order[rows]]

    def _one(self, number: int) -> Any:
        with reading(self._where(number), "damaged, prepare the set again"):
            return self._source.__getitems__([number])[0]

    def _where(self, number: int) -> str:
        names = self._listed.get("names")
        file = "" if names is None else f" ({names[number]})"
        return f"{self.folder}: {self.split} record {number}{file}"


def listing(folder: Path, split: str) -> Path:
    """Say where names, labels and checksums of a split are kept."""
    return folder / f"listed-{split}.npz"


def listed(folder: Path, split: str) -> Mapping[str, np.ndarray]:
    """Read names, labels and checksums of a split where they are kept; nothing where they are not.

    Raises:
      ValueError: in one line, if the file is damaged.
    """
    kept = listing(folder, split)
    if not kept.is_file():
        return {}
    with reading(kept, "damaged, delete that file and load again"), np.load(kept) as file:
        return {name: file[name] for name in file.files}


def source(folder: Path, split: str) -> Any:
    """Open the records of a stored split; pictures stay as they are stored.

    TFDS would decode with OpenCV, or warn of its absence.
    """
    builder: Any = tfds.builder_from_directory(folder)
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
