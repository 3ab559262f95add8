"""One line that says how far a loop is: a bar on a terminal, a line every ten seconds in a log."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TextIO, TypeVar

import jax
import numpy as np

Item = TypeVar("Item")
BAR = 12  # characters
WINDOW_SECONDS = 30.0  # speed is measured over the most recent ones
REDRAW_SECONDS = {True: 0.2, False: 10.0}  # on a terminal, in a log


def say(line: str, *, file: TextIO | None = None) -> None:
    """Write one line to stderr, from process 0 only, over a progress bar if there is one."""
    out = file or sys.stderr
    if jax.process_index() == 0:
        out.write(("\r\x1b[K" if out.isatty() else "") + line + "\n")
        out.flush()


def duration(seconds: float) -> str:
    """Write seconds as 4.2s, 1:02 or 3:04:05."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class progress(Generic[Item]):
    """Number the items from `start` up to `total` while showing how far they are.

    Iterates as `(step, item)`, like `enumerate`, and never takes more than `total - start` items, so the
    iterable may be endless. `show(metrics)` sets the numbers at the end of the line; arrays that a device
    still computes are shown when they are ready, the loop never waits for them.

    Args:
      items: what to iterate over.
      total: the step at which the loop is complete.
      start: the first step, for a run that resumes.
      label: the first word of the line.
      batch_size: examples per step; shows img/s instead of steps/s.
      file: where to write; stderr of process 0 by default.
      clock: seconds, increasing.
    Raises:
      ValueError: if start is negative or total below start.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        total: int,
        start: int = 0,
        label: str = "",
        batch_size: int | None = None,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= start <= total:
            raise ValueError(f"progress: start is {start} and total {total}, must be 0 <= start <= total")
        self._items, self._total, self._start = items, total, start
        self._label, self._batch_size, self._clock = label, batch_size, clock
        self._file = file or sys.stderr
        self._silent = jax.process_index() != 0
        self._newest: list[dict[str, Any]] = []  # the last two shown: one of them is likely to be ready

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Show these numbers at the end of the line from now on."""
        self._newest = [dict(metrics), *self._newest[:1]]

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        tty = self._file.isatty()
        began = drawn = self._clock()
        recent: deque[tuple[float, int]] = deque()  # (time, step) at the start of each step
        source, step = iter(self._items), self._start
        try:
            while step < self._total:
                try:
                    item = next(source)
                except StopIteration:
                    break
                try:
                    yield step, item
                finally:  # also where the loop is left at the end of a step
                    step += 1
                now = self._clock()
                recent.append((now, step))  # the first step, which compiles, ends before the first entry
                while len(recent) > 2 and now - recent[0][0] > WINDOW_SECONDS:
                    recent.popleft()
                if now - drawn >= REDRAW_SECONDS[tty] and step < self._total:
                    self._draw(step, began, recent, "\r\x1b[K" if tty else "", "" if tty else "\n")
                    drawn = now
        finally:
            self._draw(step, began, recent, "\r\x1b[K" if tty else "", "\n", last=True)

    def _draw(
        self,
        step: int,
        began: float,
        recent: deque[tuple[float, int]],
        before: str,
        after: str,
        last: bool = False,
    ) -> None:
        if self._silent:
            return
        numbers, now = self._numbers(wait=last), self._clock()  # in this order: a device may still be at work
        elapsed = now - began
        if last and recent:
            recent[-1] = now, step
        share = step / self._total if self._total else 1.0
        full = int(share * BAR)
        parts = [f"{int(share * 100):3d}%"]
        if before:
            parts.append("━" * full + "╌" * (BAR - full))
        parts.append(f"{step}/{self._total}")
        if len(recent) > 1 and recent[-1][0] > recent[0][0]:
            rate = (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])
            unit = "img/s" if self._batch_size else "steps/s"
            speed = rate * (self._batch_size or 1)
            parts.append(f"{speed:.0f} {unit}" if speed >= 100 else f"{speed:.3g} {unit}")
            if not last:
                parts.append(f"{duration(elapsed)} gone, {duration((self._total - step) / rate)} left")
        elif not last:
            parts.append(f"{duration(elapsed)} gone")
        if last:
            parts.append(f"took {duration(elapsed)}")
        line = "  ".join(
            [
                *([self._label] if self._label else []),
                *parts,
                *([numbers] if numbers else []),
            ]
        )
        if before:  # a line that wraps cannot be redrawn in place
            line = line[: shutil.get_terminal_size().columns - 1]
        self._file.write(before + line + after)
        self._file.flush()

    def _numbers(self, wait: bool) -> str:
        """Write the newest numbers that no device is still computing."""
        for numbers in self._newest:
            if wait or all(_ready(value) for value in numbers.values()):
                return "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        return ""


def _ready(value: Any) -> bool:
    return not isinstance(value, jax.Array) or value.is_ready()  # pyright: ignore[reportAttributeAccessIssue]


def _short(value: Any) -> str:
    array = np.asarray(value)
    if array.size != 1:
        return f"({', '.join(f'{v:.3g}' for v in array.ravel()[:4])}{', ...' if array.size > 4 else ''})"
    return f"{array.item():.4g}" if array.dtype.kind == "f" else str(array.item())
