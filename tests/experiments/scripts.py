"""Run a script of experiments/ as a person would: in a process of its own, or quickly in this one."""

import importlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from experiments.shared import command_line

ROOT = pathlib.Path(__file__).parents[2]


class Done(NamedTuple):
    """What is left of a script."""

    returncode: int
    stdout: str
    stderr: str


def environment(devices=1, *, optimised=False):
    """One simulated device unless asked for more; compiled quickly unless as users do; see tests/conftest.py."""
    count = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "XLA_FLAGS": count if optimised else f"{os.environ['XLA_FLAGS']} {count}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
    }


def command(script, *words):
    """Write the command line."""
    return [sys.executable, "-m", f"experiments.{script}", *map(str, words)]


def run(script, *words, devices=1, optimised=False, timeout=600):
    """Run a script in a process of its own."""
    done = subprocess.run(
        command(script, *words),
        cwd=ROOT,
        env=environment(devices, optimised=optimised),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    strictly_json(words, done.returncode)
    return Done(done.returncode, done.stdout, done.stderr)


def strictly_json(words, code):
    """Read every JSON file that a script wrote as other programs do: a bare NaN or Infinity is an error."""

    def refuse(name):
        raise AssertionError(f"bare {name}")

    out = [pathlib.Path(value) for flag, value in itertools.pairwise(words) if flag == "--out"]
    for folder in out if code == 0 else []:
        for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
            texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            for text in texts:
                json.loads(text, parse_constant=refuse)


def call(capsys, monkeypatch, script, *words):
    """Run a script in this process, through the same front door; seconds faster than `run`."""
    module = importlib.import_module(f"experiments.{script}")
    monkeypatch.setattr(sys, "argv", [f"experiments/{script}", *map(str, words)])
    with jax.numpy_dtype_promotion("standard"), pytest.raises(SystemExit) as left:
        command_line.script(module.main, module.PRESETS, module.__doc__)
    said = capsys.readouterr()
    code = left.value.code
    code = code if isinstance(code, int) else int(bool(code))
    strictly_json(words, code)
    return Done(code, said.out, said.err)
