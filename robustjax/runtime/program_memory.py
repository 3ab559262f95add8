"""Letting compiled programs go before the operating system refuses the next one."""

import pathlib

import jax

LARGEST = pathlib.Path("/proc/sys/vm/max_map_count")
USED = pathlib.Path("/proc/self/maps")


def release_programs(*, share: float = 0.5) -> bool:
    """Drop JAX's caches if this process holds more than a share of the memory maps that Linux allows it.

    On CPUs every compiled program maps a few pieces of memory. A process that compiles thousands of them, as long
    comparisons do, otherwise ends in "LLVM ERROR: Unable to allocate section memory" at the 65,530th piece. What is
    needed again is compiled again, or read from the persistent cache.

    Args:
      share: of the allowed maps, in (0, 1).
    Returns:
      Whether anything was dropped; never where the operating system does not tell.
    """
    try:
        allowed = int(LARGEST.read_text())
        with USED.open() as lines:
            held = sum(1 for _ in lines)
    except (OSError, ValueError):
        return False
    if held <= share * allowed:
        return False
    jax.clear_caches()
    return True
