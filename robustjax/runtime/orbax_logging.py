"""Silence for orbax, which logs at length what we say ourselves in one line, or raise."""

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def orbax() -> Iterator[None]:
    """Log nothing while the block runs, nor let Python report errors that nobody awaited."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    hooks = sys.excepthook, sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.excepthook = sys.unraisablehook = lambda *_: None
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def let_reads_end() -> None:
    """Wait for the reads that orbax leaves in flight when one fails, whose complaints python would print."""
    with warnings.catch_warnings(action="ignore"):
        for _ in range(3):
            time.sleep(0.1)
            gc.collect()
