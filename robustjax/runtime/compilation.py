"""Keeping compiled programs between runs, in a folder of the processor that they were compiled for."""

import dataclasses
import hashlib
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from robustjax.evaluation.ahead import WAITING

HOME = "~/.cache/robustjax"
SECONDS = 0.1  # programs that compile faster are not kept: reading them takes as long
MOST_BYTES = 2**30
LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
DIR, LEAST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


def cache_compiled(enabled: bool = True, folder: str | Path | None = None) -> Path | None:
    """Keep programs on disk from now on, so that the next run need not compile them.

    XLA compiles for the very processor that it runs on, and a program for another may crash. Therefore the default
    folder is one for this processor, below ~/.cache/robustjax; home directories are often shared between machines. It
    is kept below 1 GiB.

    Args:
      enabled: False turns the cache off; so does JAX_ENABLE_COMPILATION_CACHE=false.
      folder: $JAX_COMPILATION_CACHE_DIR or that of this processor by default.
    Returns:
      The folder in use, or None, also where it cannot be written.
    """
    given = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    path = Path(given).expanduser() if given else _of_this_processor()
    if not (enabled and _setting("jax_enable_compilation_cache") and _writable(path)):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if not given:
        _bound(path)
    jax.config.update(DIR, str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update(LEAST, SECONDS)
    return path


@dataclasses.dataclass
class Compilations:
    """What was compiled, or read from disk: how many programs, and how long the calling thread took or waited."""

    programs: int = 0
    seconds: float = 0.0


def duration(seconds: float, compiling: float, programs: int) -> str:
    """Say how long something took, and how much of it went into how many programs."""
    compiled = f", {compiling:.0f} s of it to compile {programs} programs" if programs else ""
    return f"{seconds:.0f} s in all{compiled}"


@contextmanager
def compilations() -> Iterator[Compilations]:
    """Count what is compiled within a block; tracing is not in the seconds."""
    found, caller = Compilations(), threading.get_ident()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        compiled = event == "/jax/core/compile/backend_compile_duration"
        found.programs += compiled
        if threading.get_ident() == caller and (compiled or event in (LOWERING, WAITING)):
            found.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextmanager
def kept_programs() -> Iterator[None]:
    """Keep programs on disk within a block, as `cache_compiled` does, and leave jax's settings as they were after it.

    Where the user has chosen a folder, or turned the cache off, that holds.
    """
    path, least = _of_this_processor(), _setting(LEAST)
    chosen = _setting(DIR) is not None or not _setting("jax_enable_compilation_cache")
    if chosen or not _writable(path):
        yield
        return
    _bound(path)
    jax.config.update(DIR, str(path))
    jax.config.update(LEAST, SECONDS)
    try:
        yield
    finally:
        jax.config.update(DIR, None)
        jax.config.update(LEAST, least)
        compilation_cache.reset_cache()  # else the first folder in use would stay so


def _setting(name: str) -> bool | float | str | None:
    return getattr(jax.config, name)


def _of_this_processor() -> Path:
    """Name a folder by model and instruction sets, where Linux tells them."""
    told = {platform.machine(), platform.processor()}
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        names = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
        told |= {line for line in first.splitlines() if line.startswith(names)}
    except OSError:
        pass
    key = hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:16]
    return Path(HOME).expanduser() / f"processor_{key}"


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK)


def _bound(path: Path) -> None:
    """Remove what was not used for longest, down to the limit; jax's own limit needs another package."""
    found = []
    for file in path.glob("*-cache"):
        try:
            found.append((max((told := file.stat()).st_atime, told.st_mtime), told.st_size, file))
        except OSError:  # removed by another process
            continue
    spare = sum(size for _, size, _ in found) - MOST_BYTES
    for _, size, file in sorted(found, key=lambda one: one[0]):
        if spare <= 0:
            return
        file.unlink(missing_ok=True)
        spare -= size
