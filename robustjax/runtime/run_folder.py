"""Read run folders: the config that a run was started with, as settings, and its checkpoints."""

import dataclasses
import json
import types
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from robustjax.runtime.checkpoint import Checkpoints

C = TypeVar("C")
Tree = TypeVar("Tree")


class OpenedRun(NamedTuple):
    """A run folder.

    Attributes:
      folder: where it is.
      config: what the run was started with, as plain data.
    """

    folder: Path
    config: dict[str, Any]

    def settings(self, kind: type[C], *, leave_out: Collection[str] = ()) -> C:
        """Rebuild the config as a dataclass; fields in `leave_out` keep their default.

        Raises:
          ValueError: if the folder was made by another script: a field is missing, unknown or of another type.
        """
        plain = {name: value for name, value in self.config.items() if name not in leave_out}
        try:
            return from_plain(kind, plain)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.folder} holds a run of another kind: {error}") from None

    def restore(self, like: Tree, *, best: str | None = None) -> tuple[Tree, int]:
        """Read the newest checkpoint, or the best by a metric, as arrays like `like`; and the updates done.

        Args:
          like: what is wanted of the checkpoint, such as {"params": ..., "state": ...}; shapes suffice.
          best: the metric that the run chose checkpoints by; None for the newest.
        Raises:
          ValueError: if there is no whole checkpoint, or it is of another network.
        """
        place = self.folder / "checkpoints"
        with Checkpoints(place, best=best, read_only=True) as saved:
            found = saved.restore_best(like, others=True) if best else saved.restore(like, others=True)
        if found is None:
            raise ValueError(f"{place} has no whole checkpoint yet")
        tree: Any = found[0]
        return tree, found[1]


def open_run(folder: str | Path, *, made_by: str, needed: Collection[str] = ()) -> OpenedRun:
    """Open a run folder.

    Args:
      folder: of the run.
      made_by: the script whose run it must be, for the error.
      needed: fields that the config of such a run has.
    Raises:
      ValueError: in one line, if the folder holds no such run.
    """
    path = Path(folder)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))["config"]
        if missing := [name for name in needed if name not in config]:
            raise ValueError(f"its config has no {missing[0]}")
    except FileNotFoundError:
        why = "it has no config.json" if path.exists() else "there is no such folder"
        raise ValueError(f"{path} holds no run of {made_by}: {why}") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError(f"{path} holds no run of {made_by}: its config.json is none of a run") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no run of {made_by}: {error}") from None
    return OpenedRun(path, config)


def from_plain(kind: Any, value: Any) -> Any:
    """Turn plain data, as JSON holds it, into what a type says: dataclasses, tuples, literals, numbers.

    Raises:
      TypeError: if the data do not fit the type.
      ValueError: if a dataclass refuses them.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return from_plain(inner[0], value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} is {value!r}, must be a group of settings")
        hints = get_type_hints(kind, include_extras=True)
        if unknown := [name for name in value if name not in hints]:
            raise TypeError(f"{kind.__name__} has no {unknown[0]}")
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    if origin in (Union, types.UnionType):
        for one in inner:
            try:
                return from_plain(one, value)
            except TypeError:
                continue
        raise TypeError(f"{value!r} is not of {kind}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r} is not of {kind}")
        repeated = len(inner) == 2 and inner[1] is Ellipsis
        kinds = inner[:1] * len(value) if repeated else inner
        if len(kinds) != len(value):
            raise TypeError(f"{value!r} is not of {kind}")
        return tuple(from_plain(one, item) for one, item in zip(kinds, value, strict=True))
    if origin is Literal:
        if value not in inner:
            raise TypeError(f"{value!r} is not of {kind}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and value in ("inf", "-inf", "nan"):  # JSON has no such numbers
        return float(value)
    if kind is type(None) and value is None:
        return None
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    if kind is Any:
        return value
    raise TypeError(f"{value!r} is not of {kind}")
