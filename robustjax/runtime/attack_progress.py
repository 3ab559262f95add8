"""One line that says how many images are still robust under an attack, and how long the rest takes."""

import io
import itertools
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import jax
from tqdm import tqdm

from robustjax.evaluation.runner import Progress
from robustjax.runtime.progress import SECONDS

WINDOW_SECONDS, FEWEST = (
    30.0,
    5,
)  # speed is measured over the most recent seconds, or segments where these are long


def attack_progress(
    *,
    counts: str = "robust",
    file: TextIO | io.TextIOBase | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Progress], None]:
    """Build the `progress` of a suite: a line that is redrawn on a terminal, a new one every ten seconds in a log.

    The time left is an upper bound at the present speed: misclassified images are done early. Speed is the median over
    segments, of which some wait for a program to be compiled, as the first of an attack does.

    Args:
      counts: what is said of the images that no attack has decided.
      file: where to write; standard error by default.
      clock: seconds, increasing.
    """
    out = file or sys.stderr
    began, drawn, attack, running, segments = clock(), -1e9, "", "", 0
    recent: deque[tuple[float, float]] = deque()

    def show(now: Progress) -> None:
        nonlocal drawn, attack, running, segments
        time_ = clock()
        segments = segments + 1 if now.attack == running else 0
        if segments < 2:
            recent.clear()  # steps of another attack cost something else, and its first segment is compiled
        running = now.attack
        recent.append((time_, now.work))
        while len(recent) > FEWEST + 1 and time_ - recent[0][0] > WINDOW_SECONDS:
            recent.popleft()
        if jax.process_index() != 0:
            return
        tty = out.isatty()
        ended = now.share >= 1
        if time_ - drawn < SECONDS[tty] and not (tty and (ended or now.attack != attack)):
            return
        drawn, attack = time_, now.attack
        speeds = [(b[1] - a[1]) / max(b[0] - a[0], 1e-9) for a, b in itertools.pairwise(recent)]
        speed = statistics.median(speeds) if speeds else 0.0
        left = f", at most {tqdm.format_interval(now.work_left / speed)} left" if speed > 0 else ""
        line = (
            f"{now.number}/{now.attacks} {now.attack}  {100 * now.share:3.0f}%  {now.robust} of {now.images} "
            f"{counts}  {tqdm.format_interval(time_ - began)} gone{left}"
        )
        out.write(f"\r\x1b[K{line}" if tty else f"{line}\n")
        if tty and ended:
            out.write("\n")
        out.flush()

    return show
