"""Run folders of perturbation_sets: how they are filled, and what others read out of them."""

import json
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

import jax

from robustjax import data, runtime, training
from robustjax.runtime.stopping import stopping

C = TypeVar("C")
MAY_DIFFER = ("out", "data_dir", "save_every", "distributed", "cluster")


class Ended(NamedTuple):
    """The state after the last update, and 0; or, if the run was stopped, what to leave with."""

    state: training.TrainState
    code: int


def fitted(
    cfg: Any,
    split: data.Split,
    update: training.Step,
    fresh: Callable[[], training.TrainState],
    begun: Callable[[training.TrainState], training.TrainState] = lambda state: state,
    *,
    total: int,
    batch_size: int,
    sharding: Any,
    may_differ: Collection[str] = (),
) -> Ended:
    """Train from the newest checkpoint on, or from a fresh state, recording and saving on the way.

    Args:
      cfg: has `out`, `seed` and `save_every`.
      split: what batches are drawn from.
      update: donates its state; the host waits for it nowhere but where something is saved.
      fresh: draws the first state, on all devices.
      begun: what is done to it before the first update.
      total: updates.
      batch_size: over all devices.
      sharding: of a batch.
      may_differ: fields of the config that may differ when a run goes on, beside `MAY_DIFFER`.
    """
    with (
        runtime.Run(cfg.out, cfg, may_differ=(*MAY_DIFFER, *may_differ)) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        stopping() as stop,
    ):
        state = fresh()
        state, begin = saved.restore(state) or (begun(state), 0)
        run.resume(begin)
        stream = data.stream(split, batch_size=batch_size, seed=cfg.seed, start=begin, sharding=sharding)
        bar = runtime.progress(stream, total=total, start=begin, label="train", batch_size=batch_size)
        for i, batch in bar:
            state, metrics = update(state, batch)
            if i % 20 == 0 or i + 1 == total:
                run.record(i, metrics)
                bar.show(metrics)
            if (i + 1) % cfg.save_every == 0 or i + 1 == total:
                saved.save(i + 1, state)
            if stop.agreed(i + 1) and i + 1 < total:
                saved.save(i + 1, state)
                saved.wait()
                runtime.say(f"stopped after {i + 1} updates, saved; the same command goes on from there")
                return Ended(state, stop.exit_code)
    return Ended(state, 0)


def settings(folder: str, script: str, *, needed: set[str], build: Callable[[dict[str, Any]], C]) -> C:
    """Read the settings that a script left in a run folder.

    Args:
      folder: of the run.
      script: whose run it must be.
      needed: fields by which its settings are known from those of others.
      build: from the fields, without those of a cluster, to the settings.
    Raises:
      ValueError: if the folder holds no such run.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        if not needed <= made.keys():
            raise ValueError("its config is another script's")
        return build({name: value for name, value in made.items() if name not in ("distributed", "cluster")})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no run of {script} ({type(error).__name__}: {error})") from None


def weights(folder: str, init: Callable[[jax.Array], tuple[Any, Any]]) -> tuple[Any, Any, int]:
    """Read what a network's `init` draws out of a run folder: (params, state, updates done).

    Raises:
      ValueError: if there is no whole checkpoint, or it is of another network.
    """
    params, state = jax.eval_shape(init, jax.random.key(0))
    place = pathlib.Path(folder) / "checkpoints"
    with runtime.Checkpoints(place, read_only=True) as saved:
        found = saved.restore({"params": params, "state": state}, others=True)
    if found is None:
        raise ValueError(f"{place} has no whole checkpoint yet")
    tree: Any = found[0]
    return tree["params"], tree["state"], found[1]
