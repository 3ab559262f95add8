"""The one training loop: batches, progress, records, validation, checkpoints, and leaving cleanly."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax.runtime.checkpoint import Checkpoints
from robustjax.runtime.progress import progress, say
from robustjax.runtime.record import Run
from robustjax.runtime.stopping import Stop

S = TypeVar("S")


class Fitted(NamedTuple):
    """What training ended with.

    Attributes:
      state: after the last update that was made.
      updates: how many were made, with those before it was resumed.
      exit_code: 0, or what the script is to leave with because it was asked to stop.
    """

    state: Any
    updates: int
    exit_code: int


def fit(
    update: Callable[[S, Any], tuple[S, Mapping[str, Any]]],
    state: S,
    batches: Callable[[int, Callable[[], S]], Iterable[Any]],
    *,
    total: int,
    saved: Checkpoints | None = None,
    stop: Stop | None = None,
    run: Run | None = None,
    begun: Callable[[S], S] | None = None,
    renew: Callable[[S], S] | None = None,
    validate: Callable[[S], Mapping[str, float]] | None = None,
    reading: Callable[[int], Mapping[str, Any]] | None = None,
    choose: bool = True,
    record_every: int = 20,
    save_every: int = 1000,
    label: str = "train",
    batch_size: int | None = None,
) -> Fitted:
    """Train up to `total` updates, from the newest checkpoint on if there is one.

    A run that was killed ends bit-identical to one that was not, if `batches` and `update` depend on nothing but
    the number of updates done and the state.

    Args:
      update: (state, batch) -> (state, metrics); may donate its state.
      state: freshly drawn, on all devices; also the form that checkpoints are read into.
      batches: (first update, the state now) -> the batches from there on. Few streams ask for the state.
      total: updates.
      saved: where checkpoints are; None for a training so short that one that was stopped begins anew.
      stop: from `runtime.stopping()`; None where nothing is left to be done but to begin anew.
      run: records metrics and validation scores; None where nothing is recorded.
      begun: what is done to a fresh state before the first update.
      renew: what is done to a state before each checkpoint but that of a run that is stopped: it may change only what
        updates do not read and what the next one computes again, such as BatchNorm statistics of averaged weights.
      validate: state -> scores, before each checkpoint.
      reading: updates done -> where the batches are, in plain data, saved beside the state; a run goes on only where it
        left off, on the same images. See `data.reading_state`.
      choose: let the scores choose the best checkpoint; else only those of the last one count.
      record_every: updates between records.
      save_every: updates between checkpoints.
      label, batch_size: of the progress line.
    Raises:
      ValueError: if the loss, or the state at a checkpoint, is not finite; the last checkpoint stays, and is from
        before. If the checkpoint is of a run on other images, or in another order.
    """
    found = saved.restore(state) if saved is not None else None
    if saved is not None and found is not None and reading is not None:
        _same_place(saved.reading(found[1]), reading(found[1]), f"{saved.folder / str(found[1])}")
    state, begin = found or (begun(state) if begun else state, 0)
    if run is not None:
        run.resume(begin)
    bar = progress(
        batches(begin, lambda: state),
        total=max(total, begin),
        start=begin,
        label=label,
        batch_size=batch_size,
    )
    done, earlier = begin, None
    for i, batch in bar:
        state, metrics = update(state, batch)
        done = i + 1
        ended = done == total
        if i % record_every == 0 or ended:
            # The device has finished the record before this one: looking at it waits for nothing.
            check_finite(earlier, label)
            earlier = i, metrics
            if run is not None:
                run.record(i, metrics)
            bar.show(metrics)
        stopping = stop is not None and not ended and stop.agreed(done)
        if done % save_every == 0 or ended or stopping:
            check_finite((i, metrics), label, state)
            scores = None
            if renew is not None and not stopping:
                state = renew(state)
            if validate is not None and not stopping:
                scores = validate(state)
                if run is not None:
                    run.record(i, scores)
            if saved is not None:
                place = reading(done) if reading is not None else None
                saved.save(done, state, scores if choose or ended else None, reading=place)
        if stop is not None and stopping:
            if saved is not None:
                saved.wait()
                say(f"stopped after {done} updates, saved; the same command goes on from there")
            return Fitted(state, done, stop.exit_code)
    return Fitted(state, done, 0)


def _same_place(was: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with other batches than those that would have come next; older checkpoints do not say."""
    for name in was:
        if was[name] != now.get(name):
            raise ValueError(
                f"{where}: {name} of the training images is {now.get(name)!r}, must be {was[name]!r} as it was: go on "
                "with the same data, or begin anew with another --out"
            )


def check_finite(measured: tuple[int, Mapping[str, Any]] | None, label: str, state: Any = None) -> None:
    """Refuse to go on, or to save, with a loss that is not finite or a state that holds NaN.

    Args:
      measured: an update and its metrics, of which `loss` is looked at; None for nothing yet.
      label: of the training, for the error.
      state: after that update, to be saved: an update may break it whose own loss was finite.
    Raises:
      ValueError: if the loss is not finite, or an array of the state holds NaN.
    """
    if measured is None:
        return
    step, metrics = measured
    value = np.asarray(metrics.get("loss", 0.0))
    if not np.isfinite(value).all():
        raise ValueError(
            f"{label}: loss is {value} at update {step}, must be finite; the checkpoints from before are kept. "
            "Lower the learning rate, or look for images or labels that are not finite"
        )
    floats = [
        leaf
        for leaf in jax.tree.leaves(state)
        if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if floats and bool(_any_nan(floats)):
        raise ValueError(
            f"{label}: the parameters are NaN after update {step}, must be finite; the checkpoints from before are "
            "kept. Lower the learning rate, or clip gradients"
        )


@jax.jit
def _any_nan(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.isnan(leaf).any() for leaf in leaves]).any()
