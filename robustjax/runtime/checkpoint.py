"""Checkpoints that can be trusted: whole or absent, checked when read, the one before if one is damaged.

orbax writes and reads the arrays. Beside them lies a manifest with the name, shape, dtype and CRC-32 of every
leaf, which tells a damaged checkpoint (fall back) from one of another architecture (an error).
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

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
      say: takes one line when a checkpoint is damaged; stderr by default.
    Raises:
      ValueError: if keep is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 3,
        best: str | None = None,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep is {keep}, must be at least 1")
        self.folder = Path(folder).absolute()
        self._keep, self._best, self._say = keep, best, say
        self._manager = self._open()

    def save(self, step: int, state: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Save a state, in the background after its arrays are copied; a step already saved is left alone.

        Args:
          step: the updates done.
          state: any pytree of arrays.
          metrics: numbers to choose the best by, such as {"valid_accuracy": 0.5}.
        Raises:
          ValueError: if metrics are given without the one that is to choose the best.
        """
        if metrics is not None and self._best is not None and self._best not in metrics:
            raise ValueError(
                f"Checkpoints.save: metrics hold {', '.join(sorted(metrics))}, must hold {self._best!r}"
            )
        if step in self._manager.all_steps():
            return
        leaves = _leaves(state)
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            "metrics": numbers,
            "leaves": {name: [*_kind(leaf), _crc(_raw(leaf))] for name, leaf in leaves.items()},
        }
        ranked = self._best is not None and not np.isnan(numbers.get(self._best, np.nan))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({name: _raw(leaf) for name, leaf in leaves.items()}),
                manifest=ocp.args.JsonSave(manifest),
            ),
            metrics=numbers if ranked else None,
            force=True,
        )

    def steps(self) -> list[int]:
        """List the steps saved, oldest first."""
        self.wait()
        return sorted(self._manager.all_steps())

    def restore(self, like: Tree) -> tuple[Tree, int] | None:
        """Read the newest checkpoint that is whole, into the structure, dtypes and shardings of `like`.

        A damaged checkpoint is renamed, said, and the one before is read.

        Returns:
          The state and its step, or None if there is no whole checkpoint.
        Raises:
          ValueError: if the checkpoint is of another architecture; names the first leaf that differs.
        """
        return self._first_whole(like, sorted(self.steps(), reverse=True))

    def restore_best(self, like: Tree) -> tuple[Tree, int] | None:
        """Read the checkpoint with the best metric, the newest of equals; like `restore` in all else.

        Raises:
          ValueError: if no metric was named, or the checkpoint is of another architecture.
        """
        if self._best is None:
            raise ValueError("Checkpoints.restore_best: best is None, must name a metric")
        ranked = [(value, step) for step in self.steps() if (value := self._metric(step)) is not None]
        return self._first_whole(like, [step for _, step in sorted(ranked, reverse=True)])

    def wait(self) -> None:
        """Return when everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        keep: list[Any] = [policies.LatestN(self._keep)]
        name = self._best
        if name is not None:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[name], n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep), cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _first_whole(self, like: Tree, steps: list[int]) -> tuple[Tree, int] | None:
        for i, step in enumerate(steps):
            found = self._read(like, step)
            if not isinstance(found, _Damage):
                return found, step
            aside = self._set_aside(step)
            then = f"reading step {steps[i + 1]} instead" if i + 1 < len(steps) else "there is none before it"
            self._say(f"checkpoint {step} is damaged ({found.what}); kept as {aside.name}, {then}")
        return None

    def _read(self, like: Tree, step: int) -> "Tree | _Damage":
        leaves = _leaves(like)
        manifest = self._manifest(step)
        damage, raw = None, {}
        if isinstance(manifest, _Damage):
            damage = manifest
        else:
            _expect(leaves, manifest["leaves"], self.folder / str(step))
            abstract = {name: _abstract(_raw(leaf)) for name, leaf in leaves.items()}
            try:
                raw = self._manager.restore(
                    step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                )["state"]
                wrong = [name for name in leaves if _crc(raw[name]) != manifest["leaves"][name][2]]
                damage = _Damage(f"the checksum of {wrong[0]} is wrong") if wrong else None
            except DAMAGED as error:
                damage = _Damage(_first_line(error))
        if jax.process_count() > 1:  # one process that cannot read sends all of them to the one before
            hurt = multihost_utils.process_allgather(np.asarray(damage is not None))
            damage = damage or (_Damage("another process could not read it") if hurt.any() else None)
        if damage is not None:
            return damage
        return jax.tree.unflatten(
            jax.tree.structure(like), [_rewrap(raw[name], leaf) for name, leaf in leaves.items()]
        )

    def _manifest(self, step: int) -> "dict[str, Any] | _Damage":
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))
            manifest = found["manifest"]
            if manifest["format"] != FORMAT:
                raise ValueError(f"manifest of format {manifest['format']}, must be {FORMAT}")
            return manifest
        except DAMAGED as error:
            return _Damage(_first_line(error))

    def _metric(self, step: int) -> float | None:
        manifest = self._manifest(step)
        value = np.nan if isinstance(manifest, _Damage) else manifest["metrics"].get(self._best, np.nan)
        return None if np.isnan(value) else value

    def _set_aside(self, step: int) -> Path:
        """Rename the folder of a damaged checkpoint, so that it can be looked at and its step saved again."""
        aside = self.folder / f"damaged_{step}"
        count = 1
        while aside.exists():
            count += 1
            aside = self.folder / f"damaged_{step}_{count}"
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"found damaged {step}")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()
        return aside


# What orbax, tensorstore and json raise for files that are missing, short or overwritten.
DAMAGED = (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError, IndexError, EOFError)


class _Damage(NamedTuple):
    what: str


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else 'no message'}"


def _leaves(tree: Any) -> dict[str, Any]:
    """Name the leaves by their path, in the order of `jax.tree.leaves`."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    if len(named) != len(paths):
        raise ValueError("Checkpoints: two leaves of the state have the same dotted path, must be different")
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> tuple[str, list[int]]:
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return str(array.dtype), list(array.shape)


def _raw(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _rewrap(raw: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(like))
    return raw if isinstance(like, jax.Array | np.ndarray) else type(like)(raw)


def _abstract(raw: Any) -> Any:
    if isinstance(raw, jax.Array):
        return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=raw.sharding)
    return raw


def _crc(raw: Any) -> int:
    if isinstance(raw, jax.Array) and not (raw.is_fully_addressable or raw.is_fully_replicated):
        raw = multihost_utils.process_allgather(raw, tiled=True)
    return zlib.crc32(np.ascontiguousarray(np.asarray(raw)).reshape(-1).view(np.uint8).data)


def _expect(leaves: dict[str, Any], found: dict[str, Any], where: Path) -> None:
    """Raise if a checkpoint holds other leaves than expected."""
    for name, leaf in leaves.items():
        expected = _text(*_kind(leaf))
        if name not in found:
            raise ValueError(f"Checkpoints.restore: {where} has no {name}, expected {expected}")
        if expected != _text(*found[name][:2]):
            raise ValueError(
                f"Checkpoints.restore: {name} is {_text(*found[name][:2])} in {where}, expected {expected}"
            )
    for name in found:
        if name not in leaves:
            raise ValueError(
                f"Checkpoints.restore: {where} has {name} {_text(*found[name][:2])}, expected no such leaf"
            )


def _text(dtype: str, shape: list[int]) -> str:
    return f"{dtype}{json.dumps(shape)}"
