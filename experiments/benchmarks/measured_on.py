"""What a benchmark was measured on, and the line of JSON that keeps its results."""

import dataclasses
import datetime
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jax

from robustjax.runtime import strict_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def chip() -> str:
    """Name the device and the host's cores."""
    device = jax.devices()[0]
    cores = f"{os.cpu_count()} cores {platform.machine()}"
    return cores if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}, {cores}"


def versions(*packages: str) -> dict[str, str]:
    """Look up the versions of those packages that are installed."""
    return {name: version(name) for name in packages if find_spec(name)}


def append(out: str | None, cfg: "DataclassInstance", packages: dict[str, str], **results: Any) -> None:
    """Append one line of JSON to a file, if there is one: date, device, versions, settings and results."""
    if out is None:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"date": now, "chip": chip(), "versions": packages, "config": dataclasses.asdict(cfg), **results}
    strict_json.append(out, line)
