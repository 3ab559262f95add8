"""One line that says how far a loop is: tqdm's bar on a terminal, a line every ten seconds in a log."""

import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TextIO, TypeVar

import jax
import numpy as np
from tqdm import tqdm

Item = TypeVar("Item")
SECONDS = {True: 0.2, False: 10.0}  # between two lines on a terminal, in a log
BAR = {True: " {bar:12} ", False: "  "}
FORMAT = "{{desc}}{{percentage:3.0f}}%{bar}{{n_fmt}}/{{total_fmt}}  {{speed}}{time}{{numbers}}"
RUNNING, LAST = "{elapsed} gone, {remaining} left", "took {elapsed}"


def say(line: str, *, file: TextIO | io.TextIOBase | None = None) -> None:
    """Write one line to stderr, from process 0 only, over a progress bar if there is one."""
    out = file or sys.stderr
    if jax.process_index() == 0:
        out.write(("\r\x1b[K" if out.isatty() else "") + line + "\n")
        out.flush()


class progress(Generic[Item]):
    """Number the items from `start` up to `total` while showing how far they are.

    Iterates as `(step, item)`, like `enumerate`, and never takes more than `total - start` items, so the
    iterable may be endless. `show(metrics)` sets the numbers at the end of the line; arrays that a device
    still computes are shown when they are ready, the loop never waits for them. Silent but in process 0.

    Args:
      items: what to iterate over.
      total: the step at which the loop is complete.
      start: the first step, for a run that resumes.
      label: the first word of the line.
      batch_size: examples per step; shows img/s instead of steps/s.
      file: where to write; stderr by default.
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
        file: TextIO | io.TextIOBase | None = None,
    ) -> None:
        if not 0 <= start <= total:
            raise ValueError(f"progress: start is {start} and total {total}, must be 0 <= start <= total")
        self._items, self._total, self._start = items, total, start
        self._label, self._batch_size, self._file = label, batch_size, file or sys.stderr
        self._newest: list[dict[str, Any]] = []  # the last two shown: one of them is likely to be ready

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Show these numbers at the end of the line from now on."""
        self._newest = [dict(metrics), *self._newest[:1]]

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        terminal = self._file.isatty()
        bar = _Bar(
            total=self._total,
            initial=self._start,
            desc=f"{self._label} " if self._label else "",
            file=self._file if terminal else _Lines(self._file),
            disable=jax.process_index() != 0,
            mininterval=SECONDS[terminal],
            miniters=1,
            delay=1e-3,  # no line before the first step, but the last one in any case
            # A line that wraps cannot be redrawn in place.
            ncols=shutil.get_terminal_size().columns - 1 if terminal else None,
            ascii="╌━",
            bar_format=FORMAT.format(bar=BAR[terminal], time=RUNNING),
        )
        bar.of(self)
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
                    bar.steps(step)
        finally:
            self._numbers(wait=True)  # how long it took includes what the devices still do
            bar.bar_format = FORMAT.format(bar=BAR[terminal], time=LAST)
            bar.close()

    def _numbers(self, *, wait: bool = False) -> str:
        """Write the newest numbers that no device is still computing."""
        for numbers in self._newest:
            if wait or all(_ready(value) for value in numbers.values()):
                return "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        return ""


class _Bar(tqdm):
    """tqdm with images per second, and numbers that are looked at only when they are shown."""

    def of(self, owner: progress[Any]) -> None:
        self._owner = owner
        self.delay = 0.0
        # How long after the start the first step, which compiles, was over.
        self._second: tuple[float, int] | None = None

    def steps(self, step: int) -> None:
        if self.disable:
            return
        if self._second is None:
            self._second = super().format_dict["elapsed"], step
        if step < self.total:
            self.update(step - self.n)
        else:
            self.n = step  # the last line is written when the loop is left

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = dict(super().format_dict)
        speed, first = "", getattr(self, "_second", None)
        if first is not None and self.n > first[1] and (seconds := shown["elapsed"] - first[0]) > 0:
            shown["rate"] = (self.n - first[1]) / seconds
            size = self._owner._batch_size
            rate = shown["rate"] * (size or 1)
            speed = f"{rate:.0f} " if rate >= 100 else f"{rate:.3g} "
            speed += "img/s  " if size else "steps/s  "
        numbers = self._owner._numbers() if hasattr(self, "_owner") else ""
        return shown | {"speed": speed, "numbers": f"  {numbers}" if numbers else ""}


class _Lines:
    """A file for tqdm in which every redrawn line is a line of its own."""

    def __init__(self, file: TextIO | io.TextIOBase) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._file.write(line + "\n")

    def flush(self) -> None:
        self._file.flush()


def _ready(value: Any) -> bool:
    return not isinstance(value, jax.Array) or value.is_ready()  # pyright: ignore[reportAttributeAccessIssue]


def _short(value: Any) -> str:
    array = np.asarray(value)
    if array.size != 1:
        return f"({', '.join(f'{v:.3g}' for v in array.ravel()[:4])}{', ...' if array.size > 4 else ''})"
    return f"{array.item():.4g}" if array.dtype.kind == "f" else str(array.item())
