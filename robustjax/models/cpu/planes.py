"""Convolutions of few channels on a CPU, as matrix products whose long side is the pixels.

XLA:CPU's routines vectorise over channels. With a handful of them, on one side or on both, most lanes stay empty, most
of all in the gradient of the kernel. Laid out as planes, one for each channel and shift, the pixels fill the lanes.
"""

from functools import reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
Kernel = Float[Array, "i j c o"]
FEW = 50  # planes that both sides may have together; measured, as is the next
FEW_TAPS = 32  # planes that one side may have, whatever the other


def both_narrow(shape: tuple[int, ...]) -> bool:
    """Say whether a kernel of this shape (i, j, c, o) is one for `over_planes`."""
    rows, columns, narrow, wide = shape
    return columns * narrow + rows * wide <= FEW


def one_narrow(shape: tuple[int, ...]) -> bool:
    """Say whether a kernel of this shape (i, j, c, o) is one for `along_kernel`."""
    rows, columns, narrow, wide = shape
    return rows * columns * min(narrow, wide) <= FEW_TAPS


def over_planes(
    x: Float[Array, "b h w c"], kernel: Kernel, pads: Pads, precision: lax.PrecisionLike = None
) -> Float[Array, "b p q o"]:
    """Convolve with stride 1: shifts along rows before one matrix product, shifts along columns after it.

    Each side is repeated once per row or column of the kernel, not once per tap. The gradients, transposed, are of the
    same form.
    """
    rows, columns, narrow, wide = kernel.shape
    planes = _padded(x, pads, (3, 0, 1, 2))
    _, b, high, long = planes.shape
    across = long - columns + 1
    shifted = jnp.concatenate([planes[..., j : j + across] for j in range(columns)])
    flat = kernel.transpose(0, 3, 1, 2).reshape(rows * wide, columns * narrow)
    product = lax.dot_general(
        flat, shifted.reshape(columns * narrow, -1), (((1,), (0,)), ((), ())), precision
    )
    by_row = lax.split(product.reshape(rows, wide, b, high, across), (1,) * rows)
    down = high - rows + 1
    moved = [part[0, :, :, i : i + down] for i, part in enumerate(by_row)]
    return reduce(jnp.add, moved).transpose(1, 2, 3, 0)


def along_kernel(
    x: Float[Array, "b h w c"], kernel: Kernel, pads: Pads, precision: lax.PrecisionLike = None
) -> Float[Array, "b p q o"]:
    """Convolve with stride 1 in a form whose transpose, the gradient of the kernel, is fast; the form itself is not.

    The narrower side is repeated once per tap, image by image.
    """
    rows, columns, narrow, wide = kernel.shape
    b, high, long = x.shape[0], x.shape[1] + sum(pads[0]), x.shape[2] + sum(pads[1])
    down, across = high - rows + 1, long - columns + 1
    taps = [(slice(i, i + down), slice(j, j + across)) for i in range(rows) for j in range(columns)]
    if narrow <= wide:
        planes = _padded(x, pads, (0, 3, 1, 2))
        shifted = jnp.concatenate([planes[:, :, i, j] for i, j in taps], axis=1).reshape(b, -1, down * across)
        # One product per image: a single one over all pixels would be cut by its small sides only.
        each = jnp.broadcast_to(kernel.reshape(-1, wide), (b, len(taps) * narrow, wide))
        out = lax.dot_general(shifted, each, (((1,), (1,)), ((0,), (0,))), precision)
        return out.reshape(b, down, across, wide)
    pixels = _padded(x, pads, (0, 1, 2, 3)).reshape(b, -1, narrow)
    flat = kernel.transpose(0, 1, 3, 2).reshape(-1, narrow)
    each = jnp.broadcast_to(flat, (b, *flat.shape))
    out = lax.dot_general(each, pixels, (((2,), (2,)), ((0,), (0,))), precision)
    by_tap = lax.split(out.reshape(b, len(taps), wide, high, long), (1,) * len(taps), axis=1)
    moved = [part[:, 0, :, i, j] for part, (i, j) in zip(by_tap, taps, strict=True)]
    return reduce(jnp.add, moved).transpose(0, 2, 3, 1)


def _padded(x: Array, pads: Pads, order: tuple[int, ...]) -> Array:
    """Pad height and width, of images (b, h, w, c), by zeros, and reorder the dimensions."""
    edges = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), edges).transpose(order)
