"""Pooling over disjoint windows, with gradients that are fast on a CPU.

XLA:CPU is slow on the gradient of a window reduction, a select-and-scatter, and in loops also on that of the maximum
of a reshaped array; here the gradient is written out.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i j c"]:
    """Take the maximum of disjoint windows, dropping an incomplete last row or column.

    Where several entries of a window are largest, they share the gradient evenly, as jax's maximum has it.
    """
    return reduce(jnp.maximum, _entries(_windows(x, size)))


@max_pool.defjvp
def _tangent(size: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    x, dx = _windows(primals[0], size), _windows(tangents[0], size)
    out = max_pool(primals[0], size)
    # Sums of slices, not reductions over the windows: XLA:CPU vectorises only the former.
    largest = x == out[:, :, None, :, None]
    count = _sum(largest.astype(dx.dtype))
    return out, _sum(jnp.where(largest, dx, jnp.zeros((), dx.dtype))) / count


def avg_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i j c"]:
    """Average disjoint windows, dropping an incomplete last row or column."""
    return _sum(_windows(x, size)) / size**2


def _windows(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i s j s c"]:
    b, h, w, c = x.shape
    rows, columns = h // size, w // size
    return x[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)


def _sum(windows: Float[Array, "b i s j s c"]) -> Float[Array, "b i j c"]:
    return reduce(jnp.add, _entries(windows))


def _entries(windows: Float[Array, "b i s j s c"]) -> list[Float[Array, "b i j c"]]:
    size = windows.shape[2]
    return [windows[:, :, i, :, j] for i in range(size) for j in range(size)]
