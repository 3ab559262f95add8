"""CPU time of training alone, kept in `cpu_time.jsonl` of a run folder over interruptions.

Of updates that are lost with a killed process the time is lost too: they are made again. Metrics are the same for
every run of a command and are compared byte by byte, times are not, so they have a file of their own.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from robustjax.runtime import strict_json
from robustjax.runtime.record import measured

FILE = "cpu_time.jsonl"
S = TypeVar("S")


class CpuTime:
    """Count the CPU seconds of all threads of this process, but for pauses.

    Args:
      folder: of the run.
      every: updates between two lines of the file.
    """

    def __init__(self, folder: str | Path, *, every: int) -> None:
        self._file, self._every = Path(folder) / FILE, every
        self._began, self._done, self._known = time.process_time(), 0, True

    def start(self, updates: int) -> None:
        """Go on from what was spent on so many updates; where that is not known, nothing is written any more."""
        before = [line for line in _lines(self._file) if line["step"] <= updates]
        spent = before[-1]["cpu_seconds"] if before else 0.0
        self._known = bool(before) or not updates
        self._began, self._done = time.process_time() - spent, updates

    def counted(self, update: Callable[[S, Any], tuple[S, Any]]) -> Callable[[S, Any], tuple[S, Any]]:
        """Let an update write the time now and then."""

        def one(state: S, batch: Any) -> tuple[S, Any]:
            state, metrics = update(state, batch)
            self._done += 1
            if self._done % self._every == 0:
                self._write()
            return state, metrics

        return one

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Write the time, and leave out what is done meanwhile: validation, which follows the last update too."""
        self._write()
        began = time.process_time()
        yield
        self._began += time.process_time() - began

    def _write(self) -> None:
        if self._known and jax.process_index() == 0:
            line = {"step": self._done, "cpu_seconds": round(time.process_time() - self._began, 2)}
            strict_json.append(self._file, line)


def cpu_minutes(folder: str | Path) -> float | None:
    """Read the CPU minutes of the training in a run folder, up to its last line; None if they were not counted."""
    lines = _lines(Path(folder) / FILE)
    return lines[-1]["cpu_seconds"] / 60 if lines else None


def _lines(file: Path) -> list[dict[str, Any]]:
    return measured(file.read_text(encoding="utf-8", errors="replace")) if file.exists() else []
