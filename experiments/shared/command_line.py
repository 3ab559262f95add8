"""Read the command line of a script, validate its config, and end with a line that teaches when something is wrong."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from annotated_types import Ge, Gt, Interval, Le, Lt

from experiments.shared.fields import OfImages

Config = TypeVar("Config")


def script(main: Callable[[Config], int | None], presets: Mapping[str, Config], doc: str | None) -> None:
    """Run a script: `python -m experiments.topic.script [preset] [--field value ...]`, the first preset by default.

    What is wrong with the input ends in one line on stderr and exit code 2, never in a traceback: the bounds in the
    types of the fields are checked, then the config's own `check`, which raises ValueError for what several fields
    say together. (Raised while parsing, it would come in a box of several lines.)
    """
    words = sys.argv[1:]
    name = next(iter(presets))
    if words and not words[0].startswith("-"):
        name = words.pop(0)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else os.path.basename(sys.argv[0])
    if name not in presets:
        fail(f"{program}: preset is {name!r}, must be one of {', '.join(presets)}")
    about = f"{doc}\n\nPresets, to be named first: {', '.join(presets)} (here: {name})."

    def job() -> int | None:
        preset = presets[name]
        config: Any = tyro.cli(type(preset), default=preset, args=words, prog=program, description=about)
        validate(config)
        if isinstance(out := getattr(config, "out", None), str):
            require_writable(out, "--out")
        return main(config)

    guarded(job)


def validate(config: Any, prefix: str = "") -> None:
    """Check a config before any work: the bounds in its fields' types, and its `check`, group by group.

    A group of settings (a dataclass within a dataclass) may have `check(prefix)`, a config `check()`.

    Raises:
      ValueError: for the first field that is out of bounds, as it is written on the command line.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), f"{prefix}{field.name.replace('_', '-')}"
        for bounds, item in _bounded(hints[field.name], value):
            if problem := _problem(bounds, item):
                raise ValueError(f"--{flag} is {_written(value)}, must be {problem}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate(value, f"{flag}.")
    if check := getattr(config, "check", None):
        check(prefix) if prefix else check()


def require_writable(folder: str, flag: str) -> None:
    """Refuse a folder that cannot be written to, before hours of work; NAME.jsonl is a file that grows by lines.

    Raises:
      ValueError: in one line, if it lies in a file, or its nearest folder that is there may not be written to.
    """
    path = pathlib.Path(folder)
    path = path.parent if path.suffix == ".jsonl" and not path.is_dir() else path
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} is {folder}, must be a folder: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} is {folder}, must be a folder that can be written to: {there} cannot")


def _bounded(hint: Any, value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Pair each number in a value with the bounds of its type."""
    if value is None:
        return
    if get_origin(hint) is Annotated:
        inner, *bounds = get_args(hint)
        yield tuple(bounds), value
        yield from _bounded(inner, value)
    elif get_origin(hint) is tuple and isinstance(value, tuple):
        kinds = get_args(hint)
        repeated = len(kinds) == 2 and kinds[1] is Ellipsis
        for kind, item in zip(kinds[:1] * len(value) if repeated else kinds, value, strict=True):
            yield from _bounded(kind, item)
    else:  # a union: of its members only one has bounds
        for kind in get_args(hint):
            if get_origin(kind) in (Annotated, tuple):
                yield from _bounded(kind, value)


def _problem(bounds: tuple[Any, ...], value: Any) -> str | None:
    """Say what a number must be if it is out of bounds. NaN is."""
    limits: dict[str, float] = {}
    for bound in bounds:
        if isinstance(bound, OfImages):
            return bound.problem(value)
        if isinstance(bound, Ge | Gt | Le | Lt | Interval):
            for name in ("ge", "gt", "le", "lt"):
                limit: Any = getattr(bound, name, None)
                if limit is not None:
                    limits[name] = limit
    within = {
        "ge": lambda limit: value >= limit,
        "gt": lambda limit: value > limit,
        "le": lambda limit: value <= limit,
        "lt": lambda limit: value < limit,
    }
    if all(within[name](limit) for name, limit in limits.items()):
        return None
    if len(limits) == 2:
        left, right = "[" if "ge" in limits else "(", "]" if "le" in limits else ")"
        low, high = (
            next(limits[name] for name in pair if name in limits) for pair in (("ge", "gt"), ("le", "lt"))
        )
        return f"in {left}{_written(low)}, {_written(high)}{right}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    ((name, limit),) = limits.items()
    return f"{words[name]} {limit:g}"


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def guarded(job: Callable[[], int | None]) -> None:
    """Do a job and leave with its exit code; a ValueError becomes one line and exit code 2."""
    try:
        sys.exit(job() or 0)
    except ValueError as error:
        if os.environ.get("ROBUSTJAX_TRACEBACK"):
            raise
        fail(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(line: str) -> None:
    """Say what is wrong in one line and leave with exit code 2."""
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(2)
