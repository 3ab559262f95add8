"""Compile small programs on another thread while the first ones run: compile time is somebody's time.

A program is compiled by calling it with nothing to do. Whoever needs it waits until that is over, and then finds it.
"""

import time
from collections.abc import Callable, Hashable
from concurrent import futures
from weakref import WeakKeyDictionary

import jax

from robustjax.traced import Steps

WAITING = "/robustjax/waiting_for_compilation"  # an event of `jax.monitoring`

_worker = futures.ThreadPoolExecutor(1, thread_name_prefix="compile_ahead")
_begun: WeakKeyDictionary[Steps, dict[Hashable, futures.Future[None]]] = WeakKeyDictionary()


def compile_ahead(network: Steps, program: Hashable, call: Callable[[], object]) -> None:
    """Call a program of a network once in this process, after what was asked for before.

    Args:
      network: small, since what the call allocates is allocated beside everything else.
      program: equal where the same is compiled.
      call: calls it. The network is traced already: somebody's modules need not be ready for threads. If it fails, so
        will the call in earnest, where the error can be told.
    """

    def quietly() -> None:
        try:
            call()
        except Exception:  # told where the program is needed
            return

    programs = _begun.setdefault(network, {})
    if program not in programs:
        programs[program] = _worker.submit(quietly)


def wait(network: Steps, program: Hashable) -> None:
    """Wait for a program that is being compiled ahead, if it is."""
    begun = _begun.get(network, {}).get(program)
    if begun is not None:
        since = time.perf_counter()
        futures.wait([begun])  # done or cancelled, whichever comes first
        jax.monitoring.record_event_duration_secs(WAITING, time.perf_counter() - since)


def cancel(network: Steps) -> None:
    """Leave out what was asked for and not begun yet, since nobody needed it."""
    programs = _begun.get(network, {})
    for program, begun in list(programs.items()):
        if begun.cancel():
            del programs[program]
