"""Time contenders in turns, and the peak of a device by a product of matrices."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_turns(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Time every contender `repeats` times, taking turns; seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, turn in contenders.items():
            begin = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def peak_flops(side: int, dtype: Any, *, precision: str = "default") -> float:
    """Measure the operations per second of a square matrix product, the best of five."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    jax.block_until_ready(product(a))
    times = in_turns({"product": lambda: jax.block_until_ready(product(a))}, 5)["product"]
    return 2 * side**3 / min(times)
