"""Restricted ImageNet: nine groups of ImageNet's classes as ID images, and all other classes as OOD images."""

import numpy as np
from jaxtyping import Int

GROUPS: dict[str, tuple[int, int]] = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "monkey": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}  # first and last of ImageNet's 1000 classes, both inside
CLASSES = tuple(GROUPS)


def grouped(label: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Number the group of each of ImageNet's classes, -1 for the 797 classes in none.

    Reference: Tsipras et al. 2019, arXiv:1805.12152; the ranges as in the robustness library, and as Augustin,
      Meinke and Hein 2020, arXiv:2003.09461, use them.
    """
    return _table()[label]


def others(label: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Say 0 for classes in no group, OOD beside Restricted ImageNet, and -1 for those in one."""
    return np.where(_table() < 0, 0, -1).astype(np.int32)[label]


def _table() -> Int[np.ndarray, "1000"]:
    table = np.full(1000, -1, np.int32)
    for number, (first, last) in enumerate(GROUPS.values()):
        table[first : last + 1] = number
    return table
