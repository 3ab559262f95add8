"""Where a result comes from: its config as plain data, the versions, the devices, the commit, the command."""

import dataclasses
import datetime
import enum
import hashlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

PACKAGES = ("robustjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def plain(value: Any) -> Any:
    """Turn a config into nested JSON: dataclasses, mappings, sequences, paths, enums, arrays, functions."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and (names := getattr(value, "_fields", None)):  # a NamedTuple
        return plain(dict(zip(names, value, strict=True)))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Name every field of a plain config by its dotted path."""
    if not isinstance(config, dict):
        return {prefix: config}
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= flat(value, f"{prefix}.{name}" if prefix else name)
    return fields


def binding(config: Any, may_differ: Collection[str]) -> dict[str, Any]:
    """The flat config without the fields, or groups of fields, that may differ."""
    return {
        name: value
        for name, value in flat(config).items()
        if not any(name == free or name.startswith(f"{free}.") for free in may_differ)
    }


def differences(before: Any, now: Any, may_differ: Collection[str]) -> list[str]:
    """Say which fields of two plain configs differ: "attack.eps: 0.1 there, 0.2 now"."""
    # Through JSON, where 1e-3 and 0.001 are the same number and a NaN equals itself.
    old, new = (binding(config, may_differ) for config in (before, now))
    texts = [{name: json.dumps(value) for name, value in side.items()} for side in (old, new)]
    return [
        f"{name}: {texts[0].get(name, 'absent')} there, {texts[1].get(name, 'absent')} now"
        for name in dict.fromkeys([*texts[0], *texts[1]])
        if texts[0].get(name) != texts[1].get(name)
    ]


def digest(config: Any, may_differ: Collection[str] = ()) -> str:
    """Hash a plain config, in any order of its fields, to 16 hexadecimal digits."""
    text = json.dumps(binding(config, may_differ), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path | None = None) -> dict[str, Any] | None:
    """The git commit of a folder of tracked files, this package's by default; None outside of git."""
    folder = folder or Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # An installed package may lie in a folder that belongs to someone else's repository.
        if not git("ls-files", "."):
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def command() -> str:
    """Give the command line as one would type it again: a module by its name, a script by its path."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None:
        return shlex.join(["python", *sys.argv])
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])


def made_with() -> dict[str, Any]:
    """What is running now: date, command, versions, commit, devices and processes."""
    kinds = [device.device_kind for device in jax.devices()]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "versions": versions(),
        "git": commit(),
        "platform": jax.default_backend(),
        "devices": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "processes": jax.process_count(),
    }
