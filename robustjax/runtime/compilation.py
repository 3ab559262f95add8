"""Keeping compiled programs between runs."""

import os
from pathlib import Path

import jax


def cache_compiled(enabled: bool = True, folder: str | Path | None = None) -> Path | None:
    """Keep programs that took over a second to compile on disk, so that the next run need not compile them.

    On a CPU only where a folder is given, here or by $JAX_COMPILATION_CACHE_DIR: XLA compiles for the
    processor it runs on, and a folder shared between machines may bring a program that another cannot run.

    Args:
      enabled: False turns the cache off; so does JAX_ENABLE_COMPILATION_CACHE=false.
      folder: $JAX_COMPILATION_CACHE_DIR or ~/.cache/robustjax by default.
    Returns:
      The folder in use, or None.
    """
    given = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not enabled or (given is None and jax.default_backend() == "cpu"):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    path = Path(given or "~/.cache/robustjax").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(path))
    on = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    return path if on else None
