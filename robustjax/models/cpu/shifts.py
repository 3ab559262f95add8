"""Gradients of convolution kernels on a CPU, as products of shifted columns with shifted rows, a few images at a time.

The gradient of an entry (i, j, c, o) sums x, shifted by i rows and j columns in channel c, times the cotangent in
channel o over all pixels. As a convolution it has a window as large as an image and few results, which no routine of
XLA:CPU is made for: at 32 x 32 pixels and 64 channels it takes five to seven times as long as this form. Here x is
repeated once for each shift of columns, the cotangent once for each shift of rows, and one matrix product has all
pairs, of as many images as stay in the cache; with few channels the products of all images are one operation.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
# Measured, as is the choice of 3x3 kernels: of larger ones the gradient is as fast as a convolution.
PIXELS = 1024  # of a product; twice as many or half are as fast
FEW = 32  # channels on either side, up to which no loop is worth while


def suits(shape: tuple[int, ...], strides: tuple[int, int]) -> bool:
    """Say whether the gradient of a kernel of this shape (i, j, c, o) is one for `along_kernel`."""
    return strides == (1, 1) and shape[:2] == (3, 3) and min(shape[2:]) >= 8


def along_kernel(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "i j c o"],
    pads: Pads,
    precision: lax.PrecisionLike = None,
    *,
    devices: int = 1,
) -> Float[Array, "b p q o"]:
    """Convolve with stride 1 in a form whose transpose, the gradient of the kernel, is fast.

    Args:
      x: images.
      kernel: of one type with x.
      pads: of rows and columns.
      precision: of the products.
      devices: over which the images are spread in equal parts; each sums over its own before they are added up.
    """
    rows, columns, narrow, wide = kernel.shape
    count, high, long, _ = x.shape
    across = long + sum(pads[1]) - columns + 1
    down = high + sum(pads[0]) - rows + 1
    parts = devices if count % devices == 0 else 1
    own = count // parts
    turns = -(-own // max(1, PIXELS // (high * across)))
    taken = -(-own // turns)
    zero = jnp.zeros((), x.dtype)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(columns * narrow, rows * wide)

    def some(images: Array) -> Array:
        """Convolve groups of images (g, n, h, w, c), each group by a product of its own."""
        groups = len(images)
        padded = lax.pad(images, zero, ((0, 0, 0), (0, 0, 0), (0, 0, 0), (*pads[1], 0), (0, 0, 0)))
        shifted = jnp.concatenate([padded[..., j : j + across, :] for j in range(columns)], axis=-1)
        flat = shifted.reshape(groups, -1, columns * narrow)
        # A matrix for each group, so that what is summed within a loop stays on its device.
        each = jnp.broadcast_to(matrix, (groups, *matrix.shape))
        out = lax.dot_general(flat, each, (((2,), (1,)), ((0,), (0,))), precision)
        out = out.reshape(groups, taken, high, across, rows * wide)
        out = lax.pad(out, zero, ((0, 0, 0), (0, 0, 0), (*pads[0], 0), (0, 0, 0), (0, 0, 0)))
        return reduce(jnp.add, [out[:, :, i : i + down, :, i * wide : (i + 1) * wide] for i in range(rows)])

    images = x.reshape(parts, own, high, long, narrow)
    images = lax.pad(images, zero, ((0, 0, 0), (0, turns * taken - own, 0), *((0, 0, 0),) * 3))
    if turns == 1 or max(narrow, wide) <= FEW:
        found = some(images.reshape(parts * turns, taken, high, long, narrow))
    else:
        inside = images.reshape(parts, turns, taken, high, long, narrow)
        found = jnp.moveaxis(jax.lax.map(some, jnp.moveaxis(inside, 1, 0)), 0, 1)
    found = found.reshape(parts, turns * taken, down, across, wide)
    return found[:, :own].reshape(count, down, across, wide)
