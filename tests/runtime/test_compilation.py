"""Compiled programs are kept in a folder of the processor, or in that which somebody names."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from robustjax.runtime import cache_compiled, compilation

SCRIPT = """
import sys
import jax, jax.numpy as jnp
from robustjax.runtime import cache_compiled, compilation
compilation.SECONDS = 0.0
program = lambda: print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((20, 20))).sum())
before = {name: getattr(jax.config, name) for name in (compilation.DIR, compilation.LEAST)}
if sys.argv[1] == "block":
    with compilation.kept_programs():
        print(jax.config.jax_compilation_cache_dir)
        program()
    assert before == {name: getattr(jax.config, name) for name in before}
else:
    print(cache_compiled(folder=sys.argv[2] or None))
    program()
"""


def run(home, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    clean |= {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env=clean, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def written(folder):
    return sorted(file.name for file in Path(folder).rglob("*-cache"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["block", "on"])
def test_programs_are_kept_for_this_processor(tmp_path, how):
    first = run(tmp_path, how, "")
    assert Path(first[0]).parent == tmp_path / ".cache" / "robustjax" and written(first[0])
    assert run(tmp_path, how, "") == first


@pytest.mark.slow
def test_the_users_choice_holds(tmp_path):
    folder = tmp_path / "given"
    first = run(tmp_path, "on", str(folder))
    assert first[0] == str(folder) and written(folder)
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for how in ("block", "on"):
        named = run(tmp_path, how, "", JAX_COMPILATION_CACHE_DIR=str(tmp_path / how), **least)
        assert named[0] == str(tmp_path / how) and written(tmp_path / how)
        assert run(tmp_path, how, "", JAX_ENABLE_COMPILATION_CACHE="false")[0] == "None"
    assert not (tmp_path / ".cache").exists()


def test_a_folder_that_cannot_be_written_turns_it_off(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compilation, "HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    assert cache_compiled() is None


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "MOST_BYTES", 25)
    for age, name in enumerate(("new", "old", "oldest")):
        file = tmp_path / f"{name}-cache"
        file.write_bytes(bytes(10))
        os.utime(file, (1e9 - age, 1e9 - age))
    compilation._bound(tmp_path)
    assert written(tmp_path) == ["new-cache", "old-cache"]
