"""The folder of a run: what was asked (`config.json`) and what was measured (`metrics.jsonl`).

The same folder with the same config resumes; with another config it is refused and left as it was.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, overload

import jax
import numpy as np
from jax.experimental import multihost_utils

from robustjax.checks import reading
from robustjax.runtime import provenance, strict_json
from robustjax.runtime.files import write_whole
from robustjax.runtime.program_memory import release_programs
from robustjax.runtime.snapshot import in_bytes

MAY_DIFFER = ("out", "updates", "keep", "tensorboard")


class Run:
    """Own a run folder: write what made it, refuse another config, append measurements.

    With several processes all of them may call everything; process 0 writes.

    Args:
      out: the folder, made if absent. Starting again with the same folder resumes.
      config: a dataclass or mapping, nested as you like; numbers, strings, paths, tuples, enums, functions.
      may_differ: dotted names of fields that may change when a run is resumed, a whole group by its prefix.
      tensorboard: also write TensorBoard events (needs the extra `tensorboard`).
    Raises:
      ValueError: if the folder holds a run of another config; the message names the fields.
    """

    def __init__(
        self,
        out: str | Path,
        config: Any,
        *,
        may_differ: Collection[str] = MAY_DIFFER,
        tensorboard: bool = False,
    ) -> None:
        self.folder = Path(out)
        self.config = strict_json.named(provenance.plain(config))
        self.resumed = (self.folder / "config.json").exists()
        self._writes = jax.process_index() == 0
        self._metrics = self.folder / "metrics.jsonl"
        self._file: TextIO | None = None
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._tensorboard, self._events = tensorboard, None
        starts = []
        if self.resumed:
            made = _read_config(self.folder / "config.json")
            differing = provenance.differences(strict_json.named(made["config"]), self.config, may_differ)
            if differing:
                raise ValueError(
                    f"Run: {self.folder} holds a run of another config ({'; '.join(differing)}); "
                    "nothing was changed, choose another folder"
                )
            starts = made["starts"]
        elif self._metrics.exists():
            raise ValueError(
                f"Run: {self.folder} has a metrics.jsonl but no config.json, choose another folder"
            )
        if jax.process_count() > 1:  # nobody writes before everybody has looked
            multihost_utils.sync_global_devices(f"Run {self.folder}")
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            page = {
                "config": self.config,
                "config_hash": provenance.digest(self.config, may_differ),
                "starts": [*starts, provenance.made_with()],
            }
            strict_json.write(self.folder / "config.json", page, indent=2)
            self._trim(None)
        self._last = self._read_last()

    def resume(self, step: int) -> None:
        """Forget what a killed run measured at `step` and later, which will now be measured again.

        Args:
          step: the first step to come, that is the number of updates done.
        """
        self._flush()
        if self._writes:
            self._close_file()
            self._trim(step)
        self._last = self._read_last()

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep the numbers of a step; several calls for one step make one line.

        A line is written when the next step is recorded, so that the host need not wait for the device.

        Raises:
          ValueError: if the step lies before the last one recorded.
        """
        if self._pending is not None and self._pending[0] == step:
            self._pending[1].update(metrics)
        else:
            self._flush()
            if step <= self._last:
                raise ValueError(
                    f"Run.record: step is {step}, must be above {self._last}, the last in {self._metrics}; "
                    "call resume(step) first to measure again from a step"
                )
            self._pending = (step, dict(metrics))
        for value in metrics.values():
            if isinstance(value, jax.Array) and self._writes:
                value.copy_to_host_async()

    @overload
    def cached(self, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]: ...

    @overload
    def cached(
        self, name: str, make: Callable[[], Mapping[str, np.ndarray] | None]
    ) -> dict[str, np.ndarray] | None: ...

    def cached(
        self, name: str, make: Callable[[], Mapping[str, np.ndarray] | None]
    ) -> dict[str, np.ndarray] | None:
        """Read arrays from a file of the run folder; if it is missing make them first, and keep them.

        Args:
          name: of the file without its ending, such as "networks/ratio_0"; whole or absent, never half-written.
          make: what makes them, or None if it was asked to stop; then nothing is kept.
        Raises:
          ValueError: if the file is damaged.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            made = make()
            if made is None:
                return None
            write_whole(path, in_bytes(made))
            release_programs()  # a run of many parts compiles many
        with reading(path, "damaged, remove it to make it again"), np.load(path) as file:
            return dict(file)

    def close(self) -> None:
        """Write the last line."""
        self._flush()
        self._close_file()
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last numbers may come from the very computation that failed: its error is the one to show.
        with contextlib.suppress(Exception) if error is not None else contextlib.nullcontext():
            self.close()

    def _flush(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._last = step
        if not self._writes:
            return
        line = {"step": step} | {name: strict_json.number(value) for name, value in metrics.items()}
        if self._file is None:
            self._file = self._metrics.open("a", encoding="utf-8")
        self._file.write(strict_json.text(line) + "\n")
        self._file.flush()
        if self._tensorboard:
            if self._events is None:
                from tensorboardX import SummaryWriter  # an extra, and slow to import

                # From this step on TensorBoard forgets what a killed run wrote.
                self._events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step or None)
            for name, value in metrics.items():
                if np.size(value) == 1:
                    self._events.add_scalar(name, float(np.asarray(value).item()), step)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _trim(self, step: int | None) -> None:
        """Drop a torn last line, and the lines from `step` on."""
        if not self._metrics.exists():
            return
        text = self._metrics.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in measured(text) if step is None or line["step"] < step]
        whole = "".join(strict_json.text(line) + "\n" for line in kept)
        if whole != text:
            write_whole(self._metrics, whole)

    def _read_last(self) -> int:
        lines = read_metrics(self.folder) if self._writes else []
        return lines[-1]["step"] if lines else -1


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl` of a run folder, one dictionary per step; none if there is no such file."""
    path = Path(folder) / "metrics.jsonl"
    return measured(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []


def measured(text: str) -> list[dict[str, Any]]:
    """Parse the lines of a `metrics.jsonl`, leaving out what a killed process tore."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            parsed = json.loads(line)
            if isinstance(parsed, dict) and "step" in parsed:
                lines.append(parsed)
    return lines


def _read_config(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"Run: {path} is not JSON ({error}), must be the config of a run") from error
    if not isinstance(made, dict) or not {"config", "starts"} <= made.keys():
        raise ValueError(f"Run: {path} was not written by a run, choose another folder")
    return made
