"""Open sub-domains on the host: arrays that are sorted, cut in two, joined, and sent to the device in batches."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from robustjax.bounds.domains import Domain

FEW = 8  # sub-domains in a batch where there are no more


class Queue(NamedTuple):
    """Open sub-domains: their cuts, bounds, and the places where they may be cut next; arrays of a row for each."""

    domain: Domain
    bound: np.ndarray
    place: np.ndarray
    end: np.ndarray
    scale: np.ndarray


def nothing(depth: int, places: int) -> Queue:
    """Start without any, of so many cuts at most and so many places for the next one."""
    none = np.zeros((0, places), np.float32)
    return Queue(uncut(np.zeros(0, np.int32), depth), np.zeros(0), none.astype(np.int32), none, none)


def uncut(others: np.ndarray, depth: int) -> Domain:
    """Take the whole threat, once for each class that the label's is compared with."""
    shape = (len(others), depth)
    zeros = np.zeros(shape, np.float32)
    return Domain(others, np.full(shape, -1, np.int32), zeros, zeros, zeros, zeros)


def take(queue: Queue, rows: np.ndarray) -> Queue:
    """Take some of them, by number."""
    return jax.tree.map(lambda v: v[rows], queue)


def joined(first: Queue, second: Queue) -> Queue:
    """Put one after the other."""
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)


def halves(parents: Queue, number: int) -> Domain:
    """Cut sub-domains at one of their places: first all upper halves, then all lower ones."""
    rows, at = np.arange(len(parents.bound)), (parents.domain.place < 0).argmax(axis=1)
    both = []
    for side in (1.0, -1.0):
        cut = jax.tree.map(np.copy, parents.domain)
        cut.place[rows, at], cut.side[rows, at] = parents.place[:, number], side
        cut.end[rows, at], cut.scale[rows, at] = parents.end[:, number], parents.scale[:, number]
        cut.multiplier[rows, at] = 0.0
        both.append(cut)
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), *both)


def batches(domain: Domain, largest: int) -> Iterator[tuple[Domain, int]]:
    """Cut sub-domains into batches of two sizes, filled with their first one; and say how many count."""
    sizes = sorted({min(FEW, largest), largest})
    total, start = len(domain.other), 0
    while start < total:
        rows = min(total - start, sizes[-1])
        size = next(s for s in sizes if s >= rows)
        at = start + np.minimum(np.arange(size), rows - 1)
        yield jax.tree.map(lambda v, at=at: v[at], domain), rows
        start += rows
