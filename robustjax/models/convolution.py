"""A convolution whose gradients stay fast inside loops on the CPU.

XLA:CPU hands a convolution to a fast routine only if it is in NHWC / HWIO / NHWC order. It rewrites others
into that order, but not inside the body of a loop (jax issue 12868), and jax's own gradients are others: the
input gradient reads the kernel as HWOI, the weight gradient swaps batch and channels. An attack is a loop over
input gradients, so it falls off that cliff. Here both are in the fast order by construction, and small kernels
are kept away from a routine that would run them on one core.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robustjax.models import narrow

FAST = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolution() -> Callable[..., Array]:
    """Choose the convolution for JAX's default backend, to be called while tracing.

    Returns:
      `convolve` on a CPU, `jax.lax.conv_general_dilated` elsewhere: accelerators have their own kernels for
      gradients. Both fit `flax.linen.Conv(conv_general_dilated=...)`.
    """
    return convolve if jax.default_backend() == "cpu" else lax.conv_general_dilated


def convolve(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j c o"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = FAST,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Compute `jax.lax.conv_general_dilated`, with derivatives that are fast in CPU loops.

    Values and derivatives of every order and mode are those of jax up to rounding. Convolutions that are not
    two-dimensional, not NHWC / HWIO / NHWC, grouped, dilated or transposed are passed to jax as they are.
    """
    plain = (
        not (_dilates(lhs_dilation) or _dilates(rhs_dilation))
        and feature_group_count == batch_group_count == 1
    )
    if not (plain and lhs.ndim == 4 and _order(lhs, rhs, dimension_numbers) == _order(lhs, rhs, FAST)):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
        )
    strides = (int(window_strides[0]), int(window_strides[1]))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    top, left = padding
    pads = (int(top[0]), int(top[1])), (int(left[0]), int(left[1]))
    if rhs.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        # A matrix product is fast both ways, and no routine for small kernels gets in between.
        picked = lhs[:, :: strides[0], :: strides[1]]
        return lax.dot_general(picked, rhs[0, 0], (((3,), (0,)), ((), ())), precision, preferred_element_type)
    settings = Settings(strides, pads, precision, preferred_element_type)
    if _gives_one_pixel(settings, lhs.shape, rhs.shape):
        return _multiply_all(settings, lhs, rhs)
    if strides == (1, 1) and narrow.both_narrow(rhs.shape) and preferred_element_type is None:
        return narrow.over_planes(lhs, rhs, pads, precision)
    if _is_small_and_strided(settings, rhs.shape):
        return _multiply_blocks(settings, lhs, rhs)
    return _convolve(settings, lhs, rhs)


def _dilates(dilation: Sequence[int] | None) -> bool:
    return dilation is not None and any(d != 1 for d in dilation)


def _order(lhs: Array, rhs: Array, dimension_numbers: Any) -> lax.ConvDimensionNumbers:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)


class Settings(NamedTuple):
    """What is static in a convolution."""

    strides: tuple[int, int]
    pads: Pads
    precision: Any
    dtype: Any

    def run(self, x: Array, kernel: Array, order: Any, pads: Pads | None = None) -> Array:
        """Convolve in the given order of dimensions."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.pads if pads is None else pads,
            dimension_numbers=order,
            precision=self.precision,
            preferred_element_type=self.dtype,
        )


def _gives_one_pixel(settings: Settings, x: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    inside = all(min(pads) >= 0 for pads in settings.pads)
    reach = zip(x[1:3], kernel[:2], settings.strides, settings.pads, strict=True)
    return inside and all(0 <= size + sum(pads) - side < step for size, side, step, pads in reach)


def _multiply_all(settings: Settings, x: Array, kernel: Array) -> Array:
    """Convolve to a single pixel: a matrix product with the taps that meet pixels.

    XLA would take images for kernels and kernels for images wherever padding makes a kernel the larger of the two.
    """
    (top, _), (left, _) = settings.pads
    kernel = kernel[top : top + x.shape[1], left : left + x.shape[2]]
    x = x[:, : kernel.shape[0], : kernel.shape[1]]
    flat = x.reshape(x.shape[0], -1), kernel.reshape(-1, kernel.shape[3])
    return lax.dot_general(*flat, (((1,), (0,)), ((), ())), settings.precision, settings.dtype)[:, None, None]


def _is_small_and_strided(settings: Settings, shape: tuple[int, ...]) -> bool:
    rows, columns, narrow, wide = shape
    stride, other = settings.strides
    fits = stride == other > 1 and rows % stride == columns % stride == 0
    return fits and rows * columns * narrow * wide <= 2**14


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _multiply_blocks(settings: Settings, x: Array, kernel: Array) -> Array:
    """Convolve fast where nothing is differentiated, too.

    With a device for each core YNNPACK's routine, which would use one, is the fastest, unless channels are few.
    """
    if jax.local_device_count() > 1 and kernel.shape[2] >= 8:
        return settings.run(x, kernel, FAST)
    return _blocks(settings, x, kernel)


def _blocks_tangent(settings: Settings, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    parts = [] if _is_zero(dx) else [_blocks(settings, dx, kernel)]
    parts += [] if _is_zero(dkernel) else [_blocks(settings, x, dkernel)]
    return _blocks(settings, x, kernel), sum(parts[1:], start=parts[0])


_multiply_blocks.defjvp(_blocks_tangent, symbolic_zeros=True)


def _blocks(settings: Settings, x: Array, kernel: Array) -> Array:
    """Convolve by one matrix product over patches, assembled from blocks as large as the stride.

    A kernel of a few blocks repeats each pixel only as often, so that patches are cheap, and so is their
    transpose; the routine for dilated convolutions, which the input gradient would be, is several times slower.
    """
    stride, (rows, columns, _, wide) = settings.strides[0], kernel.shape
    deep, broad = rows // stride, columns // stride
    (top, bottom), (left, right) = settings.pads
    high = (x.shape[1] + top + bottom - rows) // stride + 1
    across = (x.shape[2] + left + right - columns) // stride + 1
    tall, long = high + deep - 1, across + broad - 1
    edges = ((top, tall * stride - top - x.shape[1], 0), (left, long * stride - left - x.shape[2], 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    x = x.reshape(x.shape[0], tall, stride, long, stride * x.shape[3])
    parts = [
        x[:, i : i + high, inner, j : j + across]
        for i in range(deep)
        for inner in range(stride)
        for j in range(broad)
    ]
    patches, flat = jnp.concatenate(parts, axis=-1), kernel.reshape(-1, wide)
    return lax.dot_general(patches, flat, (((3,), (0,)), ((), ())), settings.precision, settings.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve(settings: Settings, x: Array, kernel: Array) -> Array:
    if not _runs_on_one_core(settings, kernel.shape):
        return settings.run(x, kernel, FAST)
    (top, (left, right)) = settings.pads
    return settings.run(x, kernel, FAST, (top, (left, right + 1)))[:, :, :-1]


def _runs_on_one_core(settings: Settings, shape: tuple[int, ...]) -> bool:
    """Say whether to make the result one column wider than its input.

    XLA:CPU has two routines. YNNPACK's splits its work over output channels only, so that few of them leave all
    but one core idle; it declines results larger than their input, and Eigen's splits over pixels. With hardly
    any channels YNNPACK's is faster all the same.
    """
    side, _, narrow, wide = shape
    same = settings.strides == (1, 1) and sum(settings.pads[1]) == shape[1] - 1
    return same and min(narrow, wide) >= 8 and (wide < 128 or side * shape[1] * narrow * wide < 2**17)


def _tangent(settings: Settings, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Write each tangent in the order that jax's transposition turns into the fast one.

    Transposing a convolution swaps the two channel dimensions of the kernel, or, for the gradient of the
    kernel, batch and channels everywhere. Swapping them here beforehand, by hand, undoes that.
    """
    x, kernel = primals
    dx, dkernel = tangents
    out = _convolve(settings, x, kernel)
    parts = []
    if not _is_zero(dx):
        parts.append(_along_input(settings, dx, kernel))
    if not _is_zero(dkernel) and settings.strides == (1, 1) and narrow.one_narrow(kernel.shape):
        along = narrow.along_kernel(x, dkernel, settings.pads, settings.precision)
        parts.append(along.astype(out.dtype))
    elif not _is_zero(dkernel) and settings.strides == (1, 1) and max(kernel.shape[:2]) <= 2:
        # The fast order is no help with kernels of two taps: their gradient would take many times this product.
        parts.append(_blocks(settings, x, dkernel))
    elif not _is_zero(dkernel):
        turned = settings.run(
            x.transpose(3, 1, 2, 0), dkernel.transpose(2, 0, 1, 3), ("CHWN", "IHWO", "HWNC")
        )
        parts.append(turned.transpose(2, 0, 1, 3))
    return out, sum(parts[1:], start=parts[0])


def _along_input(settings: Settings, dx: Array, kernel: Array) -> Array:
    shape = kernel.shape
    if shape[2] == 1 and settings.strides == (1, 1):
        return _along_one_channel(settings, dx, kernel)
    pads = settings.pads
    if _runs_on_one_core(settings, (*shape[:2], shape[3], shape[2])):
        # The transpose of one more input column is one more column of the gradient.
        dx = jnp.pad(dx, ((0, 0), (0, 0), (0, 1), (0, 0)))
        pads = (pads[0], (pads[1][0], pads[1][1] - 1))
    # The barrier lets XLA move the flip out of a loop, where it costs a copy of the kernel in every turn; the
    # second flip meets the one of the transposition, and both disappear.
    flipped = lax.optimization_barrier(lax.rev(kernel.swapaxes(2, 3), (0, 1)))
    return settings.run(dx, lax.rev(flipped, (0, 1)), ("NHWC", "HWOI", "NHWC"), pads)


def _along_one_channel(settings: Settings, dx: Array, kernel: Array) -> Array:
    """Multiply shifted images with the kernel's taps: one product and a sum of shifts, when transposed."""
    rows, columns = kernel.shape[:2]
    (top, bottom), (left, right) = settings.pads
    zero = jnp.zeros((), dx.dtype)
    taps = [
        lax.pad(
            dx[..., 0],
            zero,
            ((0, 0, 0), (top - i, bottom + 1 + i - rows, 0), (left - j, right + 1 + j - columns, 0)),
        )
        for i in range(rows)
        for j in range(columns)
    ]
    stacked, flat = jnp.stack(taps), kernel.reshape(rows * columns, -1)
    return lax.dot_general(stacked, flat, (((0,), (0,)), ((), ())), settings.precision, settings.dtype)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


_convolve.defjvp(_tangent, symbolic_zeros=True)
