"""Where the time of a compiled program goes: milliseconds of each operation, by the layer that asked for it."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

REST = "all else: steps, projections, losses, optimiser"


class Share(NamedTuple):
    """Time spent on one kind of operation of one layer, in one pass."""

    what: str
    milliseconds: float
    calls: int


def profile(turn: Callable[[], None], program: str) -> list[Share]:
    """Run a turn under JAX's profiler and add up its operations, the longest first.

    Args:
      turn: runs the program, and has run before.
      program: its text after compilation, which says where each operation comes from.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            turn()
        files = pathlib.Path(folder).rglob("*.xplane.pb")
        traces = [jax.profiler.ProfileData.from_file(str(file)) for file in files]
    return shares([event for trace in traces for event in operations(trace)], sources(program))


def operations(trace: Any) -> list[tuple[float, float, str]]:
    """List (start, duration, name of the operation), nanoseconds, of everything a compiled program did."""
    found = []
    for plane in trace.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    found.append((event.start_ns, event.duration_ns, str(name)))
    return sorted(found)


def shares(events: list[tuple[float, float, str]], source: dict[str, str]) -> list[Share]:
    """Add up events by their source; each lasts until the next one begins.

    A CPU hands a convolution to threads of its own and calls that done, so that durations say nothing there.
    """
    spent: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.defaultdict(int)
    later = [start for start, _, _ in events[1:]] + [sum(events[-1][:2])] if events else []
    for (start, _, name), end in zip(events, later, strict=True):
        spent[source.get(name, REST)] += (end - start) / 1e6
        calls[source.get(name, REST)] += 1
    return sorted((Share(what, spent[what], calls[what]) for what in spent), key=lambda it: -it.milliseconds)


def sources(program: str) -> dict[str, str]:
    """Read off a program which pass, layer and function each of its operations comes from."""
    found = {}
    for name, origin in re.findall(r'%?([\w.-]+) = [^\n]*op_name="([^"]*)"', program):
        parts = origin.split("/")
        # The network's class, as jvp(ConvNet) or transpose(jvp(ConvNet)); its layers follow, then the function.
        inside = [i for i, part in enumerate(parts) if re.fullmatch(r"(transpose\()?jvp\([A-Z]\w*\)+", part)]
        if inside and inside[0] + 2 < len(parts):
            layers = parts[inside[0] + 1 : -1]
            within = [i for i, part in enumerate(layers) if "(" in part]  # transformations within a layer
            where = "/".join(layers[: within[0]] if within else layers)
            way = "backward" if parts[inside[0]].startswith("transpose") else "forward"
            found[name] = f"{where:24s} {way:8s} {parts[-1]}"
    return found
