"""One line that says how many images are still robust under an attack, and how long the rest takes."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import jax
from tqdm import tqdm

from robustjax.evaluation.runner import Progress
from robustjax.runtime.progress import SECONDS

WINDOW_SECONDS = 30.0  # speed is measured over the most recent ones


def attack_progress(
    *,
    counts: str = "robust",
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Progress], None]:
    """Build the `progress` of a suite: a line that is redrawn on a terminal, a new one every ten seconds in a log.

    The time left is an upper bound at the present speed: misclassified images are done early.

    Args:
      counts: what is said of the images that no attack has decided.
      file: where to write; standard error by default.
      clock: seconds, increasing.
    """
    out = file or sys.stderr
    began, drawn, attack, running = clock(), -1e9, "", ""
    recent: deque[tuple[float, float]] = deque()

    def show(now: Progress) -> None:
        nonlocal drawn, attack, running
        time_ = clock()
        if recent and now.attack != running:
            recent.clear()  # its steps cost something else, and its first segment compiled
        running = now.attack
        recent.append((time_, now.work))
        while len(recent) > 2 and time_ - recent[0][0] > WINDOW_SECONDS:
            recent.popleft()
        if jax.process_index() != 0:
            return
        tty = out.isatty()
        ended = now.share >= 1
        if time_ - drawn < SECONDS[tty] and not (tty and (ended or now.attack != attack)):
            return
        drawn, attack = time_, now.attack
        speed = (recent[-1][1] - recent[0][1]) / max(recent[-1][0] - recent[0][0], 1e-9)
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
