"""`fit` for stages of `staged_training`: a segment of updates at a time instead of a batch."""

import jax

from robustjax.runtime.checkpoint import Checkpoints
from robustjax.runtime.fitting import Fitted, check_finite
from robustjax.runtime.progress import progress, say
from robustjax.runtime.record import Run
from robustjax.runtime.stopping import Stop
from robustjax.staged_training import Stage, segment_ends, segments
from robustjax.types import Params, State


def fit_stage(
    stage: Stage,
    *,
    saved: Checkpoints | None = None,
    stop: Stop | None = None,
    run: Run | None = None,
    updates_before: int = 0,
    segment: int | None = None,
    save_every: int = 1,
) -> Fitted:
    """Train a stage to its end, from the newest checkpoint on if there is one.

    A run that was killed ends bit-identical to one that was not, whatever its segments.

    Args:
      stage: what to train; `stage.weights` reads what was asked for out of the state that this ends with.
      saved: where checkpoints are, by updates of this stage; None to train in memory alone.
      stop: from `runtime.stopping()`.
      run: records the mean metrics of each segment, named `<stage>_<metric>`; None where nothing is recorded.
      updates_before: updates of the stages before, which the records count as well.
      segment: updates per compiled loop; an epoch by default.
      save_every: segments between checkpoints.
    Raises:
      ValueError: if the loss or the state is not finite, or a batch is larger than the data.
    """
    found = None if saved is None else saved.restore(jax.eval_shape(stage.start))
    state, begin = found or (stage.start(), 0)
    if run is not None:
        run.resume(updates_before + begin)
    total = len(segment_ends(stage, length=segment))
    bar = progress(
        segments(stage, state, begin=begin, length=segment),
        total=total,
        start=total - len(segment_ends(stage, begin=begin, length=segment)),
        label=stage.name,
    )
    done, earlier = begin, None
    for i, (done, now, metrics) in bar:
        state = now
        if run is not None:
            named = {f"{stage.name}_{key}": value for key, value in metrics.items()}
            run.record(updates_before + done - 1, named)
        bar.show(metrics)
        # The device has finished the segment before this one: looking at it waits for nothing.
        check_finite(earlier, stage.name)
        earlier = done - 1, metrics
        if done == stage.total:
            check_finite(earlier, stage.name, state)
        stopping = stop is not None and stop.agreed(i + 1)
        if saved is not None and ((i + 1) % save_every == 0 or done == stage.total or stopping):
            check_finite((done - 1, metrics), stage.name, state)
            saved.save(done, state)
        if stop is not None and stopping and done < stage.total:
            if saved is not None:
                saved.wait()
                say("stopped and saved; the same command goes on from there")
            return Fitted(state, done, stop.exit_code)
    return Fitted(state, done, 0)


def weights_of(stage: Stage) -> tuple[Params, State]:
    """Train a stage in memory, showing how far it is; return its (params, state)."""
    return stage.weights(fit_stage(stage).state)
