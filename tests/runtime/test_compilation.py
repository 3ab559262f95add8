"""The compilation cache is for accelerators, or for whoever names a folder."""

import os
import subprocess
import sys

SCRIPT = """
import sys
import jax, jax.numpy as jnp
from robustjax.runtime import cache_compiled
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(cache_compiled(folder=sys.argv[1] or None))
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((20, 20))).sum())
"""


def run(home, folder="", **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    clean |= {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], env=clean, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_cpu_caches_only_where_it_is_told(tmp_path):
    assert run(tmp_path)[0] == "None" and not list(tmp_path.rglob("*"))
    folder = tmp_path / "given"
    first = run(tmp_path, str(folder))
    assert first[0] == str(folder) and list(folder.iterdir())
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(folder)) == first
