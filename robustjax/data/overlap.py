"""Images that two sets share, found by their bytes: what is chosen on one must not be tested on the other."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from robustjax.data.sources import Split

CHUNK = 512  # images read at a time


def require_disjoint(who: str, first: Mapping[str, Split], second: Mapping[str, Split]) -> None:
    """Refuse two groups of sets that have an image in common.

    Args:
      who: the function or flag, for the error.
      first, second: sets by name, such as validation sets and test sets.
    Raises:
      ValueError: in one line, naming the first two sets that share an image, and how many they share.
    """
    known = {name: _hashes(split.image) for name, split in second.items()}
    for name, split in first.items():
        mine = _hashes(split.image)
        for other, theirs in known.items():
            if shared := mine.keys() & theirs.keys():
                one = min(shared, key=lambda h: mine[h])
                raise ValueError(
                    f"{who}: {name} and {other} share {len(shared)} images, number {mine[one]} of {name} is number "
                    f"{theirs[one]} of {other}; must have none in common"
                )


def _hashes(images: Any) -> dict[bytes, int]:
    """Number the images by their hashes, the last of equal ones; pictures are decoded a few at a time."""
    found = {}
    for start in range(0, len(images), CHUNK):
        for i, image in enumerate(np.asarray(images[start : start + CHUNK]), start):
            found[hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()] = i
    return found
