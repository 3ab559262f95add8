"""Checkpoints that can be trusted: whole or absent, checked when read, the one before if one is damaged.

orbax writes and reads the arrays. Beside them lies a manifest with the name, dtype, shape and CRC-32 of every
leaf, which tells a damaged checkpoint (fall back) from one of another architecture (an error).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from robustjax.runtime import orbax_logging, pytree_files
from robustjax.runtime.progress import say as to_stderr

Tree = TypeVar("Tree")
FORMAT = 1


class Checkpoints:
    """Save and restore pytrees of arrays: typed keys, numpy arrays, Python numbers and None included.

    With several processes all of them call everything, with the same arguments.

    Args:
      folder: where the checkpoints lie, one folder per step.
      keep: how many of the newest to keep.
      best: the name of a validation metric, higher is better; its best checkpoint is kept as well.
      read_only: change nothing in the folder, to read from a run that may still be going on.
      say: takes one line when a checkpoint is damaged; stderr by default.
    Raises:
      ValueError: if keep is below 1, or a folder to read only from does not exist.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 3,
        best: str | None = None,
        read_only: bool = False,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep is {keep}, must be at least 1")
        self.folder = Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise ValueError(f"Checkpoints: {self.folder} must be a folder to read from, there is none")
        self._best, self._read_only, self._say = best, read_only, say
        self._keep = keep
        self._ranks: dict[int, float] = {}
        with orbax_logging.orbax():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self, cleanup_tmp_directories=not read_only, read_only=read_only
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
            self._ranks = {step: self._rank(step) for step in self._manager.all_steps()}

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, Any] | None = None,
        *,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        """Save a state, in the background once its arrays are copied; a step already saved is left alone.

        Args:
          step: the updates done.
          state: any pytree of arrays.
          metrics: numbers to choose the best by, such as {"valid_accuracy": 0.5}.
          reading: where the batches are, in plain data; see `data.reading_state`.
        Raises:
          ValueError: if metrics are given without the one that chooses the best, or this is read only.
        """
        if self._read_only:
            raise ValueError("Checkpoints.save: read_only is True, must be False to save")
        if metrics is not None and self._best is not None and self._best not in metrics:
            raise ValueError(
                f"Checkpoints.save: metrics are {', '.join(sorted(metrics))}, must hold {self._best}"
            )
        if step in self._manager.all_steps():
            return
        stored = {name: pytree_files.raw(leaf) for name, leaf in pytree_files.named(state).items()}
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            "metrics": numbers,
            "reading": dict(reading or {}),
            "leaves": {
                name: [*pytree_files.kind(leaf), pytree_files.checksum(stored[name])]
                for name, leaf in pytree_files.named(state).items()
            },
        }
        self._ranks[step] = numbers.get(self._best or "", math.nan)
        with orbax_logging.orbax():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(stored), manifest=ocp.args.JsonSave(manifest)
                ),
                force=True,
            )

    def steps(self) -> list[int]:
        """List the steps saved, oldest first."""
        self.wait()
        return sorted(self._manager.all_steps())

    def reading(self, step: int) -> dict[str, Any]:
        """Say where the batches were when a step was saved; nothing where that was not saved."""
        with orbax_logging.orbax():
            manifest = self._manifest(step)
        return {} if isinstance(manifest, _Damage) else manifest.get("reading", {})

    def restore(self, like: Tree, *, others: bool = False) -> tuple[Tree, int] | None:
        """Read the newest checkpoint that is whole, into the structure, dtypes and shardings of `like`.

        A damaged checkpoint is renamed, said, and the one before is read.

        Args:
          like: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
          others: whether the checkpoint may hold more than `like` asks for, which is then left out: an
            evaluation asks for {"params": ..., "state": ...} of a train state.
        Returns:
          The state and its step, or None if there is no whole checkpoint.
        Raises:
          ValueError: if the checkpoint is of another architecture; names the first leaf that differs.
        """
        return self._first_whole(like, self.steps()[::-1], others)

    def restore_best(self, like: Tree, *, others: bool = False) -> tuple[Tree, int] | None:
        """Read the checkpoint with the best metric, the newest of equals; like `restore` in all else.

        Raises:
          ValueError: if no metric was named, or the checkpoint is of another architecture.
        """
        if self._best is None:
            raise ValueError("Checkpoints.restore_best: best is None, must name a metric")
        steps = self.steps()
        with orbax_logging.orbax():
            ranks = [(self._rank(step), step) for step in steps]
        ranked = sorted(pair for pair in ranks if not math.isnan(pair[0]))
        return self._first_whole(like, [step for _, step in reversed(ranked)], others)

    def wait(self) -> None:
        """Return when everything saved is on disk."""
        with orbax_logging.orbax():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self.wait()
        with orbax_logging.orbax():
            self._manager.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell orbax which checkpoints to keep: the newest, the best, and those of unknown metric."""
        ranks = [self._ranks.get(found.step, math.nan) for found in checkpoints]
        best = max(((rank, i) for i, rank in enumerate(ranks) if rank < math.inf), default=(0.0, -1))[1]
        newest = len(ranks) - self._keep
        return [i == best or i >= newest or rank == math.inf for i, rank in enumerate(ranks)]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_whole(self, like: Tree, steps: list[int], others: bool) -> tuple[Tree, int] | None:
        for i, step in enumerate(steps):
            with orbax_logging.orbax():
                found = self._read(like, step, others)
                if isinstance(found, _Damage) and found.in_flight:
                    orbax_logging.let_reads_end()
            if not isinstance(found, _Damage):
                return found, step
            aside = "" if self._read_only else f", kept as {self._set_aside(step).name}"
            then = f"reading step {steps[i + 1]} instead" if i + 1 < len(steps) else "and there is no other"
            self._say(f"checkpoint {step} is damaged{aside}, {then} ({found.what})")
        return None

    def _read(self, like: Tree, step: int, others: bool) -> "Tree | _Damage":
        expected, stored, damage = pytree_files.named(like), {}, None
        manifest = self._manifest(step)
        if isinstance(manifest, _Damage):
            damage = manifest
        else:
            found = manifest["leaves"]
            if differs := pytree_files.mismatch(expected, found, others=others):
                raise ValueError(f"Checkpoints.restore: {differs}, in {self.folder / str(step)}")
            wanted = {name: pytree_files.wanted(leaf) for name, leaf in expected.items()}
            to = ocp.checkpoint_utils.construct_restore_args(wanted)
            try:
                stored = self._load(step, state=ocp.args.PyTreeRestore(wanted, to, partial_restore=True))
                wrong = [name for name in expected if pytree_files.checksum(stored[name]) != found[name][2]]
                damage = _Damage(f"wrong checksum of {wrong[0]}") if wrong else None
            except Exception as error:
                damage = _damage(error)._replace(in_flight=True)
        if jax.process_count() > 1:  # where one process cannot read, all of them must turn to another
            hurt = multihost_utils.process_allgather(np.asarray(damage is not None))
            damage = damage or (_Damage("another process could not read it") if hurt.any() else None)
        if damage is not None:
            return damage
        return jax.tree.unflatten(
            jax.tree.structure(like),
            [pytree_files.rewrap(stored[name], leaf) for name, leaf in expected.items()],
        )

    def _manifest(self, step: int) -> "dict[str, Any] | _Damage":
        try:
            manifest = self._load(step, manifest=ocp.args.JsonRestore())
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']}, this code reads {FORMAT}")
            return manifest
        except Exception as error:
            return _damage(error)

    def _load(self, step: int, **item: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**item))[next(iter(item))]

    def _rank(self, step: int) -> float:
        """The metric; infinite where it cannot be read, so that damage is met and said first."""
        manifest = self._manifest(step)
        return math.inf if isinstance(manifest, _Damage) else manifest["metrics"].get(self._best, math.nan)

    def _set_aside(self, step: int) -> Path:
        """Rename the folder of a damaged checkpoint, so that it can be looked at and its step saved again."""
        names = (f"damaged_{step}{again}" for again in ("", *(f"_{n}" for n in range(2, 1000))))
        aside = next(path for name in names if not (path := self.folder / name).exists())
        _sync(f"found {step} damaged")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(aside)
        _sync(f"set {step} aside")
        with orbax_logging.orbax():
            self._manager.reload()
        return aside


class _Damage(NamedTuple):
    what: str
    in_flight: bool = False  # whether other reads were under way when this one failed


def _damage(error: Exception) -> _Damage:
    """Take an error met while reading for damage; what is no property of the files is raised again."""
    if isinstance(error, PermissionError | MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        raise error
    lines = str(error).strip().splitlines() or ["no message"]
    return _Damage(f"{type(error).__name__}: {lines[0][:100]}")


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
