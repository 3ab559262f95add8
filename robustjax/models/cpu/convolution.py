"""A convolution whose gradients stay fast inside loops on the CPU.

XLA:CPU hands a convolution to a fast routine only if it is in NHWC / HWIO / NHWC order. It rewrites others
into that order, but not inside the body of a loop (jax issue 12868), and jax's own gradients are others: the
input gradient reads the kernel as HWOI, the weight gradient swaps batch and channels. An attack is a loop over
input gradients, so it falls off that cliff. Here both are in the fast order by construction, and small kernels
are kept away from a routine that would run them on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robustjax.models.cpu import planes, shifts
from robustjax.models.cpu.by_platform import multiply

FAST = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    lhs: Float[Array, "b *space c"],
    rhs: Float[Array, "*kernel d o"],
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
    """Compute `jax.lax.conv_general_dilated`; when compiled for a CPU, with derivatives that are fast in loops.

    Values and derivatives of every order and mode are those of jax up to rounding. Convolutions that are not
    two-dimensional, not NHWC / HWIO / NHWC, grouped, dilated or transposed are passed to jax as they are.

    The kernel may be of a wider type than what it is applied to; its gradient is then summed in its own type.
    """
    plain = (
        not (_dilates(lhs_dilation) or _dilates(rhs_dilation))
        and feature_group_count == batch_group_count == 1
    )
    if not (plain and lhs.ndim == 4 and _order(lhs, rhs, dimension_numbers) == _order(lhs, rhs, FAST)):
        settings = (
            tuple(window_strides),
            padding if isinstance(padding, str) else tuple((low, high) for low, high in padding),
            lhs_dilation if lhs_dilation is None else tuple(lhs_dilation),
            rhs_dilation if rhs_dilation is None else tuple(rhs_dilation),
            dimension_numbers,
            feature_group_count,
            batch_group_count,
        )
        other = Other(settings, precision, preferred_element_type)
        return other.plain(lhs, rhs) if lhs.dtype == rhs.dtype else multiply(other, lhs, rhs)
    strides = (int(window_strides[0]), int(window_strides[1]))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    top, left = padding
    pads = (int(top[0]), int(top[1])), (int(left[0]), int(left[1]))
    return multiply(Convolution(strides, pads, precision, preferred_element_type), lhs, rhs)


def _dilates(dilation: Sequence[int] | None) -> bool:
    return dilation is not None and any(d != 1 for d in dilation)


def _order(lhs: Array, rhs: Array, dimension_numbers: Any) -> lax.ConvDimensionNumbers:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)


@dataclass(frozen=True)
class Other:
    """A convolution that jax computes on all platforms."""

    settings: tuple[Any, ...]  # of `jax.lax.conv_general_dilated`, those between the kernel and the precision
    precision: Any = None
    dtype: Any = None

    def plain(self, x: Array, kernel: Array) -> Array:
        """Leave it to jax."""
        return lax.conv_general_dilated(
            x, kernel, *self.settings, precision=self.precision, preferred_element_type=self.dtype
        )

    product = along_x = along_kernel = plain


@dataclass(frozen=True)
class Convolution:
    """A convolution of NHWC by HWIO: what is static in it, and its forms."""

    strides: tuple[int, int]
    pads: Pads
    precision: Any = None
    dtype: Any = None

    def plain(self, x: Array, kernel: Array) -> Array:
        """Leave it to jax."""
        return self.run(x, kernel, FAST)

    def product(self, x: Array, kernel: Array) -> Array:
        """Convolve fast where nothing is differentiated."""
        if (found := self._as_product(x, kernel)) is not None:
            return found
        if self._is_small_and_strided(kernel.shape):
            # With a device for each core YNNPACK's routine, which would use one, is the fastest, unless channels are
            # few.
            many = _cpus() > 1 and kernel.shape[2] >= 8
            return self.run(x, kernel, FAST) if many else blocks(self, x, kernel)
        if not self._runs_on_one_core(kernel.shape):
            return self.run(x, kernel, FAST)
        (top, (left, right)) = self.pads
        return self.run(x, kernel, FAST, (top, (left, right + 1)))[:, :, :-1]

    def along_x(self, x: Array, kernel: Array) -> Array:
        """Convolve in a form whose transpose, the gradient of the input, is in the fast order.

        Transposing a convolution swaps the two channel dimensions of the kernel. Swapping them here beforehand, by
        hand, undoes that.
        """
        if (found := self._as_product(x, kernel)) is not None:
            return found
        shape = kernel.shape
        if self._is_small_and_strided(shape):
            return blocks(self, x, kernel)
        if shape[2] == 1 and self.strides == (1, 1):
            return self._along_one_channel(x, kernel)
        pads = self.pads
        if self._runs_on_one_core((*shape[:2], shape[3], shape[2])):
            # The transpose of one more input column is one more column of the gradient.
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))
            pads = (pads[0], (pads[1][0], pads[1][1] - 1))
        # The barrier lets XLA move the flip out of a loop, where it costs a copy of the kernel in every turn; the
        # second flip meets the one of the transposition, and both disappear.
        flipped = lax.optimization_barrier(lax.rev(kernel.swapaxes(2, 3), (0, 1)))
        return self.run(x, lax.rev(flipped, (0, 1)), ("NHWC", "HWOI", "NHWC"), pads)

    def along_kernel(self, x: Array, kernel: Array) -> Array:
        """Convolve in a form whose transpose, the gradient of the kernel, is in the fast order.

        Transposing a convolution for its kernel swaps batch and channels everywhere: swapped here, too.
        """
        if (found := self._as_product(x, kernel)) is not None:
            return found
        if self._is_small_and_strided(kernel.shape):
            return blocks(self, x, kernel)
        if self.strides == (1, 1) and planes.one_narrow(kernel.shape):
            out = planes.along_kernel(x, kernel, self.pads, self.precision)
            return out if self.dtype is None else out.astype(self.dtype)
        if self.strides == (1, 1) and max(kernel.shape[:2]) <= 2:
            # The fast order is no help with kernels of two taps: their gradient would take many times this product.
            return blocks(self, x, kernel)
        if shifts.suits(kernel.shape, self.strides):
            out = shifts.along_kernel(x, kernel, self.pads, self.precision, devices=_all_cpus())
            return out if self.dtype is None else out.astype(self.dtype)
        return self._in_fast_order(x, kernel)

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

    def _in_fast_order(self, x: Array, kernel: Array) -> Array:
        turned = self.run(x.transpose(3, 1, 2, 0), kernel.transpose(2, 0, 1, 3), ("CHWN", "IHWO", "HWNC"))
        return turned.transpose(2, 0, 1, 3)

    def _as_product(self, x: Array, kernel: Array) -> Array | None:
        """Convolve by a form that is fast in all its gradients, where there is one."""
        if kernel.shape[:2] == (1, 1) and self.pads == ((0, 0), (0, 0)):
            # A matrix product is fast both ways, and no routine for small kernels gets in between.
            picked = x[:, :: self.strides[0], :: self.strides[1]]
            return lax.dot_general(picked, kernel[0, 0], (((3,), (0,)), ((), ())), self.precision, self.dtype)
        if self._gives_one_pixel(x.shape, kernel.shape):
            return self._multiply_all(x, kernel)
        if self.strides == (1, 1) and planes.both_narrow(kernel.shape) and self.dtype is None:
            return planes.over_planes(x, kernel, self.pads, self.precision)
        return None

    def _gives_one_pixel(self, x: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
        inside = all(min(pads) >= 0 for pads in self.pads)
        reach = zip(x[1:3], kernel[:2], self.strides, self.pads, strict=True)
        return inside and all(0 <= size + sum(pads) - side < step for size, side, step, pads in reach)

    def _multiply_all(self, x: Array, kernel: Array) -> Array:
        """Convolve to a single pixel: a matrix product with the taps that meet pixels.

        XLA would take images for kernels and kernels for images wherever padding makes a kernel the larger of the two.
        """
        (top, _), (left, _) = self.pads
        kernel = kernel[top : top + x.shape[1], left : left + x.shape[2]]
        x = x[:, : kernel.shape[0], : kernel.shape[1]]
        flat = x.reshape(x.shape[0], -1), kernel.reshape(-1, kernel.shape[3])
        return lax.dot_general(*flat, (((1,), (0,)), ((), ())), self.precision, self.dtype)[:, None, None]

    def _is_small_and_strided(self, shape: tuple[int, ...]) -> bool:
        rows, columns, narrow, wide = shape
        stride, other = self.strides
        fits = stride == other > 1 and rows % stride == columns % stride == 0
        return fits and rows * columns * narrow * wide <= 2**14

    def _runs_on_one_core(self, shape: tuple[int, ...]) -> bool:
        """Say whether to make the result one column wider than its input.

        XLA:CPU has two routines. YNNPACK's splits its work over output channels only, so that few of them leave all
        but one core idle; it declines results larger than their input, and Eigen's splits over pixels. With hardly
        any channels YNNPACK's is faster all the same.
        """
        side, _, narrow, wide = shape
        same = self.strides == (1, 1) and sum(self.pads[1]) == shape[1] - 1
        return same and min(narrow, wide) >= 8 and (wide < 128 or side * shape[1] * narrow * wide < 2**17)

    def _along_one_channel(self, x: Array, kernel: Array) -> Array:
        """Multiply shifted images with the kernel's taps: one product and a sum of shifts, when transposed."""
        rows, columns = kernel.shape[:2]
        (top, bottom), (left, right) = self.pads
        zero = jnp.zeros((), x.dtype)
        taps = [
            lax.pad(
                x[..., 0],
                zero,
                ((0, 0, 0), (top - i, bottom + 1 + i - rows, 0), (left - j, right + 1 + j - columns, 0)),
            )
            for i in range(rows)
            for j in range(columns)
        ]
        stacked, flat = jnp.stack(taps), kernel.reshape(rows * columns, -1)
        return lax.dot_general(stacked, flat, (((0,), (0,)), ((), ())), self.precision, self.dtype)


def _cpus() -> int:
    """Count the CPU devices of this process; 1 where a program for CPUs is lowered without any."""
    try:
        return jax.local_device_count("cpu")
    except RuntimeError:
        return 1


def _all_cpus() -> int:
    """Count the CPU devices of all processes."""
    try:
        return jax.device_count("cpu")
    except RuntimeError:
        return 1


def blocks(settings: Convolution, x: Array, kernel: Array) -> Array:
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
