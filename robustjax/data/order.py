"""Decide which example goes where: the held-out part of a training set, and the order of every epoch.

Both come from hashing numbers, not from a library's random generator, so they are the same on every
machine, in every process and after every upgrade.
"""

import functools

import numpy as np
from jaxtyping import Int64, UInt64

HELD_OUT = 10  # one in so many examples of an official training set is kept for validation
# What a hash is for, so that no two uses agree by accident.
_VALIDATION, _EPOCH, _AUGMENT = 0x76616C, 0x65706F, 0x617567


def mixed(*words: int | np.integer | np.ndarray) -> UInt64[np.ndarray, "..."]:
    """Hash integers of equal or broadcast shapes to 64 well mixed bits.

    Reference: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), chained over the words.
    """
    state = np.uint64(0)
    # Wrapping around at 64 bits is the point; numpy warns about it for scalars only.
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ np.asarray(word).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def held_out(index: Int64[np.ndarray, "n"]) -> np.ndarray:
    """Say which examples of a training set belong to validation: about one in ten, by official index alone.

    The rule is the same for every data set, so it survives missing images and any stored order.
    """
    return mixed(_VALIDATION, index) % np.uint64(HELD_OUT) == 0


@functools.lru_cache(maxsize=8)  # a stream asks for the same epoch every step
def permutation(count: int, *, seed: int, epoch: int, lane: int = 0) -> Int64[np.ndarray, "n"]:
    """Shuffle 0 .. count - 1 for one epoch; `lane` tells streams of the same seed apart."""
    order = np.argsort(mixed(_EPOCH, seed, lane, epoch, np.arange(count)), kind="stable")
    order.setflags(write=False)
    return order


def rows(
    count: int, positions: Int64[np.ndarray, "b"], *, seed: int, lane: int = 0
) -> Int64[np.ndarray, "b"]:
    """Look up positions of the endless sequence that joins the shuffled epochs 0, 1, 2, ..."""
    epoch, place = np.divmod(positions, count)
    found = np.empty_like(place)
    for e in np.unique(epoch):
        here = epoch == e
        found[here] = permutation(count, seed=seed, epoch=int(e), lane=lane)[place[here]]
    return found


def folded(seed: int, lane: int = 0) -> int:
    """Hash a seed to 32 bits for the keys of a stream, apart from what orders it."""
    return int(mixed(_AUGMENT, seed, lane) >> np.uint64(32))
