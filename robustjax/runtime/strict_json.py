"""Write JSON that every reader takes: no bare NaN or Infinity, which the standard does not know."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.runtime.files import write_whole


def text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Turn plain data into JSON; a number that is not finite becomes null.

    Args:
      value: mappings, sequences, strings, numbers; NumPy's numbers count as numbers.
      indent, sort_keys: as `json.dumps` has them.
    Raises:
      TypeError: for anything else.
    """
    return json.dumps(finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def write(path: str | Path, value: Any, *, indent: int = 1) -> None:
    """Write plain data to a file, whole or not at all."""
    write_whole(Path(path), text(value, indent=indent) + "\n")


def append(path: str | Path, value: Any) -> None:
    """Append one line of JSON to a file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text(value) + "\n")


def finite(value: Any) -> Any:
    """Replace every number that is not finite by None, however deep it lies."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def named(value: Any) -> Any:
    """Replace every number that is not finite by its name, "inf", "-inf" or "nan": settings are read back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [named(item) for item in value]
    return value


def number(value: Any) -> Any:
    """Turn a number or an array into JSON: float32 with the digits it has, and by name where it is not finite."""
    array = np.asarray(value)
    if array.ndim:
        return [number(item) for item in array]
    return (
        named(float(str(array[()]))) if array.dtype.kind in "fV" else array.item()
    )  # V: bfloat16 and its kin
