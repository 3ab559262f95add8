"""Leaving a loop cleanly: the first SIGTERM or Ctrl-C asks it to save and go.

A scheduler that takes the machine away sends SIGTERM and, some seconds later, SIGKILL. A script that was
stopped ends with `sys.exit(stop.exit_code)`: 143 after SIGTERM, 130 after Ctrl-C, what a shell reports for
these signals, so that a scheduler sees an unfinished job and starts it again.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stop:
    """Whether to stop.

    Args:
      every: with several processes, how many steps lie between two looks at each other's signals; a look
        makes the host wait for the devices. Choose it so that it comes round well before SIGKILL.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._signal = 0

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._signal != 0

    @property
    def exit_code(self) -> int:
        """0, or 128 + the number of the signal."""
        return 128 + self._signal if self._signal else 0

    def agreed(self, step: int) -> bool:
        """Whether all processes stop at this step, because one was asked to; all must call it at every step.

        With one process it is the same as `requested`.
        """
        if jax.process_count() == 1:
            return self.requested
        if step % self._every:
            return False
        self._signal = int(multihost_utils.process_allgather(np.asarray(self._signal)).max())
        return self.requested

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if not self.requested:
            name = signal.Signals(number).name
            again = "; once more aborts" if number == signal.SIGINT else ""
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{name}: stopping after this step{again}\n".encode())
        self._signal = number


@contextmanager
def stopping(*, every: int = 20) -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a request to stop while the block runs; a second SIGINT interrupts it.

    Outside of the main thread, where Python delivers no signals, nothing is turned.

    Raises:
      ValueError: if every is below 1.
    """
    if every < 1:
        raise ValueError(f"stopping: every is {every}, must be at least 1")
    stop = Stop(every)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop._receive) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
