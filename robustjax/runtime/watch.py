"""Several processes that live and die together: if one is killed, the others say so in one line and end.

Left alone they hang in their next exchange until JAX's own heartbeats run out, and then abort with a stack of messages.
Here process 0 holds a connection to each of the others. A connection that closes without a word, or is silent for too
long, means a death; whoever notices tells the others and leaves with exit code `LOST`. If it is process 0 that died,
JAX notices as quickly: its message may come before this one and, rarely, its exit code, 134, instead.
"""

import atexit
import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the job, start it again
BEAT_SECONDS = 2.0
SILENT_SECONDS = 30.0
CONNECT_SECONDS = 20.0
ALIVE, LEFT, DIED = (
    0xFF,
    0xFE,
    0xFD,
)  # what is sent: one of these, the last followed by who it was in two bytes
_ADDRESS = 512  # bytes in which process 0 says where it listens


def together(host: str | None = None) -> None:
    """Watch the other processes until this one ends; call it once, in all of them, when they have joined.

    An exception that nobody catches ends this process at once, so that the others learn of it; otherwise it would wait
    for them while they wait for it.

    Args:
      host: a name of the machine of process 0 that the others can reach; what it calls itself by default.
    """
    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return
    links: dict[int, socket.socket] = {}
    if me == 0:
        with socket.create_server(
            ("", 0), family=_family(), dualstack_ipv6=_family() == socket.AF_INET6
        ) as door:
            token = secrets.token_bytes(16)
            _announced(token.hex(), host or socket.gethostname(), door.getsockname()[1])
            links = _accepted(door, token, count - 1)
    else:
        token, name, port = _announced()
        try:
            link = socket.create_connection((name, int(port)), timeout=CONNECT_SECONDS)
            link.sendall(bytes.fromhex(token) + me.to_bytes(2, "big"))
            links[0] = link
        except OSError as error:
            _say(
                f"process {me} cannot reach {name}:{port} to watch process 0 ({error}); JAX's own heartbeats remain"
            )
    _Watch(links, count).start()


def quieten() -> None:
    """Keep JAX from reporting a death in ten lines of its own, and SIGTERM for `stopping`; call it before joining.

    With JAX_LOGGING_LEVEL in the environment it logs as told there.
    """
    with contextlib.suppress(AttributeError):  # not in every version
        jax.config.update("jax_enable_preemption_service", False)
    if "JAX_LOGGING_LEVEL" not in os.environ:
        jax.config.update("jax_logging_level", "CRITICAL")


class _Watch:
    """The threads that listen, the one that speaks, and what happens at the end."""

    def __init__(self, links: dict[int, socket.socket], count: int) -> None:
        self._links, self._count = links, count
        self._ending = threading.Lock()

    def start(self) -> None:
        for who, link in self._links.items():
            link.settimeout(SILENT_SECONDS)
            self._run(lambda who=who, link=link: self._listen(who, link))
        self._run(self._speak)
        atexit.register(self._leave)
        before = sys.excepthook
        sys.excepthook = lambda *error: self._failed(before, *error)

    def _run(self, job: Callable[[], None]) -> None:
        threading.Thread(target=job, daemon=True, name="robustjax-watch").start()

    def _listen(self, who: int, link: socket.socket) -> None:
        while True:
            try:
                word = link.recv(1)
            except TimeoutError:
                return self._lost(who, f"was silent for {SILENT_SECONDS:g} s")
            except OSError:
                word = b""
            if not word:
                return self._lost(who, "ended without finishing")
            if word[0] == LEFT:
                return None
            if word[0] == DIED:
                return self._lost(int.from_bytes(link.recv(2), "big"), "ended without finishing")

    def _speak(self) -> None:
        while True:
            self._send(bytes([ALIVE]))
            time.sleep(BEAT_SECONDS)

    def _send(self, words: bytes) -> None:
        for link in self._links.values():
            try:
                link.sendall(words)
            except OSError:
                continue  # whoever listens on it knows

    def _lost(self, who: int, how: str) -> None:
        if not self._ending.acquire(blocking=False):
            return
        self._send(bytes([DIED]) + who.to_bytes(2, "big"))
        _say(
            f"process {who} of {self._count} {how}; stopping process {jax.process_index()} (exit code {LOST}): "
            "start all of them again and the run goes on from its last checkpoint"
        )
        os._exit(LOST)

    def _leave(self) -> None:
        if self._ending.acquire(blocking=False):
            self._send(bytes([LEFT]))

    def _failed(
        self,
        before: Callable[..., None],
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        # The error may be that another process is gone, which the listeners are about to say better.
        time.sleep(1.0)
        before(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _announced(*words: object) -> list[str]:
    """Give every process the words of process 0."""
    text = " ".join(map(str, words)).encode()
    page = np.zeros(_ADDRESS, np.uint8)
    page[: len(text)] = np.frombuffer(text, np.uint8)
    page = np.asarray(multihost_utils.broadcast_one_to_all(page), np.uint8)
    return bytes(page).rstrip(b"\0").decode().split()


def _accepted(door: socket.socket, token: bytes, count: int) -> dict[int, socket.socket]:
    """Wait for the others, and let in nobody else."""
    links: dict[int, socket.socket] = {}
    until = time.monotonic() + CONNECT_SECONDS
    while len(links) < count and (left := until - time.monotonic()) > 0:
        door.settimeout(left)
        try:
            link, _ = door.accept()
            link.settimeout(left)
            hello = link.recv(len(token) + 2, socket.MSG_WAITALL)
        except OSError:
            continue
        if secrets.compare_digest(hello[: len(token)], token):
            links[int.from_bytes(hello[len(token) :], "big")] = link
        else:
            link.close()
    return links


def _family() -> socket.AddressFamily:
    return socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


def _say(line: str) -> None:
    # Not print, which another thread may be in the middle of; and from every process, not the first alone.
    os.write(2, f"\n{line}\n".encode())
