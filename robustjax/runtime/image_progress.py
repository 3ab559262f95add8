"""One line that says how many images are done, how fast, and how long the rest takes."""

import io
import sys
import time
from collections.abc import Callable
from typing import TextIO

import jax
from tqdm import tqdm

from robustjax.runtime.progress import SECONDS


def image_progress(
    *, file: TextIO | io.TextIOBase | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """Build the `progress` of `evaluation.predictions`: redrawn on a terminal, a line every ten seconds in a log.

    Args:
      file: where to write; standard error by default.
      clock: seconds, increasing.
    """
    out = file or sys.stderr
    began, drawn = clock(), -1e9
    first: tuple[float, int] | None = (
        None  # the first call comes after compiling, and after what was done before
    )

    def show(done: int, count: int) -> None:
        nonlocal drawn, first
        now, tty = clock(), out.isatty()
        first = first or (now, done)
        if jax.process_index() != 0 or (now - drawn < SECONDS[tty] and done < count):
            return
        drawn = now
        speed = (done - first[1]) / max(now - first[0], 1e-9)
        left = f", {tqdm.format_interval((count - done) / speed)} left" if speed > 0 and done < count else ""
        line = (
            f"{100 * done / count:3.0f}%  {done} of {count} images  {speed:.0f} img/s  "
            f"{tqdm.format_interval(now - began)} gone{left}"
        )
        out.write(f"\r\x1b[K{line}" if tty else f"{line}\n")
        if tty and done >= count:
            out.write("\n")
        out.flush()

    return show
