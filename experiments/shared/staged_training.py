"""Training over arrays in memory, in segments that are one compiled loop each, and exact to resume."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import runtime

Step = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


class Stage(NamedTuple):
    """One training: what is begun with, what is done `total` times, over which rows.

    Attributes:
      name: in files and on the screen.
      start: draws the first state.
      step: (state, batch) -> (state, metrics).
      arrays: examples, a tree of arrays of one length.
      batch_size: rows per update.
      total: updates.
      seed: of the order.
      weights: the (params, state) of a state that are to be judged.
      every: epochs after which the rows are made anew, 0 for never.
      renew: round, from 1 on -> the rows of that round, as many as before.
    """

    name: str
    start: Callable[[], Any]
    step: Step
    arrays: Any
    batch_size: int
    total: int
    seed: int
    weights: Callable[[Any], tuple[Any, Any]] = lambda state: (state.params, state.state)
    every: int = 0
    renew: Callable[[int], Any] | None = None

    @property
    def per_epoch(self) -> int:
        """Say how many updates see every example once."""
        return len(jax.tree.leaves(self.arrays)[0]) // self.batch_size


def ends(stage: Stage, *, begin: int = 0, segment: int | None = None) -> list[int]:
    """List after which updates a segment ends: when it is full, and when the rows are made anew."""
    full, anew = segment or stage.per_epoch, stage.every * stage.per_epoch or stage.total
    marks = {*range(full, stage.total, full), *range(anew, stage.total, anew), stage.total}
    return sorted(mark for mark in marks if mark > begin)


def course(
    stage: Stage, state: Any, *, begin: int = 0, segment: int | None = None
) -> Iterator[tuple[int, Any, dict[str, jax.Array]]]:
    """Train in segments; yield the updates done, the state and mean metrics after each.

    Update i sees the same rows whatever the segments are and wherever the course began, so that a run that goes on
    from a state it saved ends in the same one.

    Args:
      stage: what to do.
      state: after `begin` updates; it is given up.
      begin: updates done before.
      segment: updates per loop; an epoch by default.
    Raises:
      ValueError: if there are fewer examples than a batch has.
    """
    count = len(jax.tree.leaves(stage.arrays)[0])
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

    done, length = begin, segment or stage.per_epoch
    arrays, current = stage.arrays, 0
    for until in ends(stage, begin=begin, segment=segment):
        if stage.renew and stage.every and (turn := done // (stage.every * stage.per_epoch)) != current:
            arrays, current = stage.renew(turn), turn
        chosen = np.zeros((length, stage.batch_size), np.int32)
        chosen[: until - done] = [rows(i) for i in range(done, until)]
        state, metrics = compiled(state, jnp.asarray(chosen), jnp.int32(until - done), arrays)
        done = until
        yield done, state, metrics


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


def completed(stage: Stage) -> tuple[Any, Any]:
    """Follow a stage to its end in memory, showing how far it is; return its weights."""
    state, segment = stage.start(), stage.per_epoch
    if stage.total <= 0:
        return stage.weights(state)
    bar = runtime.progress(
        course(stage, state, segment=segment), total=len(ends(stage, segment=segment)), label=stage.name
    )
    for _, (_, now, metrics) in bar:
        state = now
        bar.show(metrics)
    return stage.weights(state)
