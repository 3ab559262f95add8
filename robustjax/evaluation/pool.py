"""The rows of one attack on the device: examples come and go, the batch stays full."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from robustjax.attacks.case import Case, Rows
from robustjax.attacks.solver import select
from robustjax.threats import Threat
from robustjax.traced import compiled
from robustjax.types import Found

Cases = Callable[[Threat], Sequence[Case]]
FREE = -1
FIRST = 8  # iterations of the first segment: many images break at once
LONGEST = 250  # of any: progress is shown and kept between segments
TAILORED = 1000  # iterations of a search for which a size of its own is worth compiling
# What a device computes in the seconds that one more program takes to compile. Operations are weighted as in `traced`.
COMPILING = {"cpu": 1e11}
COMPILING_ELSEWHERE = 1e14
OF_A_SOLVER = 1000  # operations of an iteration besides the system's, per feature


class Fresh(NamedTuple):
    """What enters the rows where `load` is true, and what every row needs on the way."""

    load: Bool[Array, "s"]
    x: Array
    data: Any  # what is known of the example
    clean: dict[str, Array]  # what the system answers for the example itself
    number: Int[Array, "s"]  # of the example in its data set
    run: Int[Array, "s"]
    parameters: Any
    best: Any = None  # (s, ...) the strongest point of the cases before, for those that enter
    at_best: Any = None  # what the system answers there


class Segment(NamedTuple):
    """What came out of one segment."""

    state: Any
    found: Found
    over: Bool[Array, "s"]
    step: Int[Array, "s"]


class CaseAt(NamedTuple):
    """The program of a case that has none of its own: its place in a suite."""

    cases: Cases
    place: int

    def __call__(self, threat: Threat) -> Case:
        """Build the case."""
        return tuple(self.cases(threat))[self.place]


@dataclasses.dataclass
class Pool:
    """Which example and run is in each row, FREE where none is, how many steps it made, and the solver's state."""

    example: np.ndarray
    run: np.ndarray
    step: np.ndarray
    state: Any = None
    count: int = FIRST  # iterations of the next segment

    @classmethod
    def empty(cls, size: int = 0) -> "Pool":
        """Make rows that hold nothing."""
        return cls(np.full(size, FREE), np.zeros(size, np.int64), np.zeros(size, np.int64))

    @property
    def live(self) -> np.ndarray:
        """Say which rows hold a run."""
        return self.example != FREE

    def resized(self, size: int, empty: Callable[[int], Any], sharding: NamedSharding | None) -> "Pool":
        """Move the live rows into a pool of another size; `empty` makes a state of so many rows."""
        keep = np.flatnonzero(self.live)
        moved = Pool.empty(size)
        moved.count = self.count
        for name in ("example", "run", "step"):
            getattr(moved, name)[: len(keep)] = getattr(self, name)[keep]
        if self.state is None:
            state = empty(size)
        else:
            order = np.zeros(size, np.int32)
            order[: len(keep)] = keep
            state = gathered(self.state, order)
        moved.state = spread(state, sharding)
        return moved

    def enter(self, examples: np.ndarray, runs: np.ndarray) -> np.ndarray:
        """Put runs into the first free rows; return which rows these are."""
        rows = np.flatnonzero(~self.live)[: len(examples)]
        self.example[rows], self.run[rows], self.step[rows] = examples, runs, 0
        return rows

    def iterations(self, length: int) -> int:
        """Choose how many iterations to make: rows should end together, and none wait for long."""
        left = length - self.step[self.live]
        count = min(self.count, int(left.max()))
        return min(count, int(left.min())) if left.min() >= count // 4 else count

    def pace(self, leaving: float, length: int) -> None:
        """Make longer segments while hardly any row leaves, shorter ones while many do."""
        if leaving < 0.02:
            self.count = min(2 * self.count, max(FIRST, min(length // 4, LONGEST)))
        elif leaving > 0.1:
            self.count = max(FIRST // 2, self.count // 2)


def segment(
    state: Any,
    fresh: Fresh,
    key: PRNGKeyArray,
    stream: Any,
    count: Any,
    until: Any,
    threat: Threat,
    arguments: PyTree,
    *,
    system: Callable[..., Any],
    program: Callable[[Threat], Case],
    sharding: NamedSharding | None,
) -> Segment:
    """Make `count` iterations of a case in all rows, except those whose run is over.

    A run is over at a point whose merit is above `until`, or at the end. Rows where `fresh.load` is true start a new
    run first. The system, the program and the number of rows decide what is compiled; everything else is traced, so
    neither radius nor parameters nor segment length compile anew.

    Args:
      stream: of the case's random numbers.
      system: (*arguments) -> what the objective of the case takes, such as a function from images to logits.
      program: from the threat to the case.
      sharding: of the rows. Every device searches for its own rows and never waits for the others.
    """

    def ours(
        state: Any,
        fresh: Fresh,
        key: PRNGKeyArray,
        stream: Any,
        count: Any,
        until: Any,
        threat: Threat,
        given: PyTree,
    ):
        case, under_attack = program(threat), system(*given)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, fresh.number)

        def rows_at(step: Array) -> Rows:
            return Rows(
                keys,
                stream,
                fresh.data,
                fresh.clean,
                fresh.run,
                step,
                fresh.parameters,
                fresh.best,
                fresh.at_best,
            )

        def enter(state: Any) -> Any:
            return select(fresh.load, case.init(rows_at(jnp.zeros_like(fresh.run)), fresh.x), state)

        # Random starts cost as much as some iterations, and most segments begin none.
        state = jax.lax.cond(fresh.load.any(), enter, lambda state: state, state)

        def once(_: Any, state: Any) -> Any:
            resting = case.solver.finish(state).value > until
            objective = case.objective(under_attack, rows_at(state.step))
            return select(resting, state, case.solver.advance(objective, state, 1))

        state = jax.lax.fori_loop(0, count, once, state)
        found = case.solver.finish(state)
        return Segment(state, found, (found.value > until) | (state.step >= case.solver.length), state.step)

    inputs = state, fresh, key, stream, count, until, threat, arguments
    if sharding is None:
        return ours(*inputs)
    rows, all_ = PartitionSpec(sharding.spec[0]), PartitionSpec()
    specs = (rows, rows, *(6 * (all_,)))
    # Unchecked: a loop in somebody's network may well begin with a constant.
    whole = jax.shard_map(ours, mesh=sharding.mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return whole(*inputs)


SEGMENT = compiled(segment, static_argnames=("system", "program", "sharding"), donate_argnums=(0,))


def first(case: Case, fresh: Fresh) -> Any:
    """Start a run in every row of `fresh`, with keys that mean nothing: a state of the right shapes."""
    keys = jax.random.split(jax.random.key(0), len(fresh.run))
    rows = Rows(
        keys,
        case.stream,
        fresh.data,
        fresh.clean,
        fresh.run,
        fresh.run,
        fresh.parameters,
        fresh.best,
        fresh.at_best,
    )
    return case.init(rows, fresh.x)


def blank(case: Case, fresh: Fresh) -> Any:
    """Make a state of the right shapes for the rows of `fresh`, to be loaded over; on the host, but for keys."""

    def zeros(leaf: Any) -> Any:
        if not _is_key(leaf):
            return np.zeros(leaf.shape, leaf.dtype)
        words = jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.wrap_key_data(jax.device_put(np.zeros(words.shape, words.dtype)))

    return jax.tree.map(zeros, jax.eval_shape(partial(first, case), fresh))


@jax.jit
def gathered(state: Any, rows: Int[Array, "t"]) -> Any:
    """Keep some rows of a state, in this order."""
    return jax.tree.map(lambda leaf: leaf[rows], state)


def on_host(state: Any) -> list[np.ndarray]:
    """Copy the leaves of a state to the host; keys as their words."""
    return [
        np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)
    ]


def on_device(leaves: Sequence[np.ndarray], like: Any, sharding: NamedSharding | None) -> Any:
    """Undo `on_host` for a state that looks like `like`."""
    expected, structure = jax.tree.flatten(like)
    found = [
        jax.random.wrap_key_data(jax.device_put(value)) if _is_key(leaf) else value
        for value, leaf in zip(leaves, expected, strict=True)
    ]
    return spread(jax.tree.unflatten(structure, found), sharding)


def buckets(largest: int, smallest: int, multiple: int = 1) -> list[int]:
    """List the batch sizes to compile, rising: the largest and its halves, down to the smallest.

    Each is rounded up to a multiple of the number of devices.

    Raises:
      ValueError: unless 1 <= smallest <= largest.
    """
    if not 1 <= smallest <= largest:
        raise ValueError(
            f"suite: smallest is {smallest} and batch_size {largest}, must be 1 <= smallest <= batch_size"
        )
    sizes, size = set(), largest
    while size >= smallest:
        sizes.add(math.ceil(size / multiple) * multiple)
        size //= 2
    return sorted(sizes)


def fitting(sizes: Sequence[int], count: int) -> int:
    """Find the smallest of the rising sizes that holds this many rows, or the largest of all."""
    return next((size for size in sizes if size >= count), sizes[-1])


def largest(sizes: Sequence[int], count: int, multiple: int = 1) -> int:
    """Choose the largest batch for so many examples in all."""
    return tailored(fitting(sizes, count), count, multiple)


def tailored(size: int, count: int, multiple: int = 1) -> int:
    """Cut a size down to the eighths of it that hold this many rows, and to a multiple of the devices."""
    eighths = math.ceil(size * math.ceil(8 * count / size) / 8)
    return min(size, math.ceil(eighths / multiple) * multiple)


def affordable(sizes: Sequence[int], size: int, room: int, work: float, devices: Sequence[Any]) -> int:
    """Take a smaller batch size only where it saves more than it costs to compile.

    What decides is counted, not timed, so that the batches are the same in every run.

    Args:
      sizes: rising; no size above the largest is needed.
      size: the smallest that holds the rows; room: the size to compare it with.
      work: operations for each row until the batch may change again.
      devices: on which it runs.
    """
    room = min(room, sizes[-1])
    worth = COMPILING.get(devices[0].platform, COMPILING_ELSEWHERE)
    return room if size < room and (room - size) * work < worth else size


def spread(value: Any, sharding: NamedSharding | None) -> Any:
    """Copy arrays that lead with rows to the devices."""
    return jax.device_put(value, sharding)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
