"""A convolution whose gradients stay fast inside loops on the CPU.

XLA:CPU hands a convolution to its fast routine only if it is in NHWC / HWIO / NHWC order. It rewrites
others into that order, but not inside the body of a loop (jax issue 12868), and jax's own gradients are
others: the input gradient reads the kernel as HWOI, the weight gradient swaps batch and channels. An attack
is a loop over input gradients, so it falls off that cliff: measured on two cores, 3 to 10 times slower for
the input gradient, 50 to 100 times for the weight gradient. Here both are in the fast order by construction.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

FAST = ("NHWC", "HWIO", "NHWC")


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
    two-dimensional, not NHWC / HWIO / NHWC, grouped or transposed are passed to jax as they are.
    """
    settings = dict(precision=precision, preferred_element_type=preferred_element_type)
    ordinary = lhs.ndim == 4 and feature_group_count == batch_group_count == 1 and not _dilates(lhs_dilation)
    if ordinary and _order(lhs, rhs, dimension_numbers) == _order(lhs, rhs, FAST):
        if not isinstance(padding, str):
            padding = tuple((int(low), int(high)) for low, high in padding)
        dilation = None if rhs_dilation is None else tuple(rhs_dilation)
        settings = dict(
            window_strides=tuple(window_strides), padding=padding, rhs_dilation=dilation, **settings
        )
        return _convolve(tuple(settings.items()), lhs, rhs)
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
        **settings,
    )


def _dilates(dilation: Sequence[int] | None) -> bool:
    return dilation is not None and any(d != 1 for d in dilation)


def _order(lhs: Array, rhs: Array, dimension_numbers: Any) -> lax.ConvDimensionNumbers:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve(settings: tuple[tuple[str, Any], ...], x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=FAST, **dict(settings))


def _tangent(settings: tuple[tuple[str, Any], ...], primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Write each tangent in the order that jax's transposition turns into the fast one.

    Transposing a convolution swaps the two channel dimensions of the kernel, or, for the gradient of the
    kernel, batch and channels everywhere. Swapping them here beforehand, by hand, undoes that.
    """
    x, kernel = primals
    dx, dkernel = tangents
    out = _convolve(settings, x, kernel)
    parts = []
    if not _is_zero(dx):
        swapped = kernel.swapaxes(2, 3)
        parts.append(
            lax.conv_general_dilated(
                dx, swapped, dimension_numbers=("NHWC", "HWOI", "NHWC"), **dict(settings)
            )
        )
    if not _is_zero(dkernel):
        order = ("CHWN", "IHWO", "HWNC")
        turned = x.transpose(3, 1, 2, 0), dkernel.transpose(2, 0, 1, 3)
        parts.append(
            lax.conv_general_dilated(*turned, dimension_numbers=order, **dict(settings)).transpose(2, 0, 1, 3)
        )
    return out, sum(parts[1:], start=parts[0])


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


_convolve.defjvp(_tangent, symbolic_zeros=True)
