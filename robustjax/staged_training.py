"""Train over arrays in memory, in segments that are one compiled loop each, and exact to resume.

A whole epoch on the device costs one call from the host: what pays for small networks. `runtime.fit_stage` adds
progress, records and checkpoints.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.types import Metrics, Params, State

Step = Callable[[Any, Any], tuple[Any, Metrics]]


class Stage(NamedTuple):
    """One training: where it starts, the step that is taken `total` times, and on which examples.

    Attributes:
      name: in files and on the screen.
      start: draws the first state.
      step: (state, batch) -> (state, metrics).
      arrays: examples, a tree of arrays of one length.
      batch_size: examples per update.
      total: updates.
      seed: of the order of the examples.
      weights: the (params, state) of a training state that are evaluated and kept.
      renew_every: epochs after which the examples are made anew, 0 for never.
      renew: round, from 1 on -> the examples of that round, as many as before.
    """

    name: str
    start: Callable[[], Any]
    step: Step
    arrays: Any
    batch_size: int
    total: int
    seed: int
    weights: Callable[[Any], tuple[Params, State]] = lambda state: (state.params, state.state)
    renew_every: int = 0
    renew: Callable[[int], Any] | None = None

    @property
    def examples(self) -> int:
        """Count the examples."""
        return len(jax.tree.leaves(self.arrays)[0])

    @property
    def per_epoch(self) -> int:
        """Say how many updates see every example once."""
        return self.examples // self.batch_size


class Segment(NamedTuple):
    """What a segment ended with: the updates done, the state, and the mean of its metrics."""

    done: int
    state: Any
    metrics: Metrics


def segment_ends(stage: Stage, *, begin: int = 0, length: int | None = None) -> list[int]:
    """List after which updates a segment ends: when it is full, and when the examples are made anew."""
    if stage.total <= begin:
        return []
    full, anew = length or stage.per_epoch, stage.renew_every * stage.per_epoch or stage.total
    marks = {*range(full, stage.total, full), *range(anew, stage.total, anew), stage.total}
    return sorted(mark for mark in marks if mark > begin)


def segments(stage: Stage, state: Any, *, begin: int = 0, length: int | None = None) -> Iterator[Segment]:
    """Train segment by segment.

    Update i sees the same examples whatever the segments are and wherever training began, so that a run that goes on
    from a state it saved ends in the same one.

    Args:
      stage: what to do.
      state: after `begin` updates; it is donated.
      begin: updates done before.
      length: updates per segment; an epoch by default.
    Raises:
      ValueError: if there are fewer examples than a batch has.
    """
    count = stage.examples
    if count < stage.batch_size:
        raise ValueError(
            f"{stage.name}: batch size is {stage.batch_size}, must be at most the {count} examples"
        )

    compiled = _compiled(stage.step)
    orders: dict[int, np.ndarray] = {}

    def rows(update: int) -> np.ndarray:
        epoch, place = divmod(update, stage.per_epoch)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng((stage.seed, epoch)).permutation(count)
        return orders[epoch][place * stage.batch_size : (place + 1) * stage.batch_size]

    done, size = begin, length or stage.per_epoch
    arrays, current = stage.arrays, 0
    for until in segment_ends(stage, begin=begin, length=length):
        if stage.renew and stage.renew_every:
            turn = done // (stage.renew_every * stage.per_epoch)
            if turn != current:
                arrays, current = stage.renew(turn), turn
        chosen = np.zeros((size, stage.batch_size), np.int32)
        chosen[: until - done] = [rows(i) for i in range(done, until)]
        state, metrics = compiled(state, jnp.asarray(chosen), jnp.int32(until - done), arrays)
        done = until
        yield Segment(done, state, metrics)


@functools.lru_cache(maxsize=8)
def _compiled(step: Step) -> Callable[..., Any]:
    """Compile a segment; stages of one step function share it."""

    def run(state: Any, rows: jax.Array, updates: jax.Array, arrays: Any):
        def one(i: jax.Array, carry: tuple[Any, Any]):
            state, total = carry
            state, metrics = step(state, jax.tree.map(lambda a: a[rows[i]], arrays))
            return state, jax.tree.map(jnp.add, total, metrics)

        _, shapes = jax.eval_shape(step, state, jax.tree.map(lambda a: a[rows[0]], arrays))
        nothing = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)
        # Their number is traced, so that a last, shorter segment compiles nothing anew.
        state, total = jax.lax.fori_loop(0, updates, one, (state, nothing))
        return state, jax.tree.map(lambda m: m / updates.astype(m.dtype), total)

    return jax.jit(run, donate_argnums=0)
