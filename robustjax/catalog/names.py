"""From a name to what it stands for: an entry of a table, or anything of the user's as `module:name`."""

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def named(table: Mapping[str, T], name: str, *, flag: str) -> T:
    """Look a name up in a table; `module:name` is imported, with the working folder on the path.

    Args:
      table: from name to entry.
      name: a key of the table, or `package.module:name`.
      flag: what the name was given to, such as "--loss", for the error.
    Raises:
      ValueError: in one line, if there is no such entry, or nothing to import.
    """
    if name in table:
        return table[name]
    if ":" in name:
        found: Any = imported(name, flag=flag)
        return found
    near = difflib.get_close_matches(name, table, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{flag} is {name!r}, must be one of {', '.join(table)}, or module:name{meant}")


def imported(path: str, *, flag: str) -> Any:
    """Import `package.module:name`, with the working folder on the path.

    Raises:
      ValueError: in one line, if the module or the name is not there, or what it names cannot be called.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{flag} is {path!r}, must be package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag} is {path!r}, which cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"{flag} is {path!r}, a {type(found).__name__}, must be a function")
    return found


def parameters(factory: Callable[..., Any], *, flag: str) -> dict[str, bool]:
    """List the parameters of a factory by name, with whether each must be given."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{flag}: {factory!r} does not say which parameters it has ({error})") from None
    named_ones = (p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return {p.name: p.default is p.empty for p in named_ones}


def built(factory: Callable[..., T], offered: Mapping[str, Any], *, flag: str) -> T:
    """Call a factory with those of the arguments offered that it has parameters for, by name.

    Args:
      factory: of a table, or the user's own.
      offered: from parameter name to value.
      flag: what the factory was named by, for the error.
    Raises:
      ValueError: if it needs something else.
    """
    wanted = parameters(factory, flag=flag)
    if unknown := [name for name, needed in wanted.items() if needed and name not in offered]:
        raise ValueError(
            f"{flag}: the function needs {unknown[0]!r}, may ask for {', '.join(offered)} by these names"
        )
    return factory(**{name: value for name, value in offered.items() if name in wanted})
