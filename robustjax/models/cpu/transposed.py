"""The transposed convolutions that double the size of feature maps, on a CPU as plain ones over their own pixels.

A transposed convolution of stride 2 asks, of every 2x2 block of its output, four plain convolutions with 2x2 kernels.
Computing those is as much work, and stays fast inside loops on a CPU, where dilated convolutions are not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robustjax.models.cpu.by_platform import multiply
from robustjax.models.cpu.convolution import FAST, Convolution

Maps = Float[Array, "b h w c"]
QUARTERS = Convolution((1, 1), ((1, 1), (1, 1)))  # with 2x2 kernels


def doubled(x: Maps, kernel: Float[Array, "k k c o"]) -> Float[Array, "b 2*h 2*w o"]:
    """Convolve, transposed: stride 2 and padding 1; an output padding of 1 if the kernel is 3x3 and none if 4x4.

    Args:
      x: feature maps.
      kernel: 3x3 or 4x4, indexed as PyTorch does: (i, o, h, w) becomes (h, w, i, o) and is not flipped.
    """
    return multiply(Doubled(), x, kernel)


@dataclass(frozen=True)
class Doubled:
    """The forms of a doubling."""

    precision: Any = None

    @property
    def quarters(self) -> Convolution:
        """Say which convolution the forms for CPUs are made of."""
        return replace(QUARTERS, precision=self.precision)

    def plain(self, x: Array, kernel: Array) -> Array:
        """Convolve with a dilated input, as jax does."""
        pad = kernel.shape[0] - 2
        return lax.conv_general_dilated(
            x,
            lax.rev(kernel, (0, 1)),
            (1, 1),
            ((pad, 2), (pad, 2)),
            (2, 2),
            dimension_numbers=FAST,
            precision=self.precision,
        )

    def product(self, x: Array, kernel: Array) -> Array:
        """Convolve four times, fast where nothing is differentiated."""
        return _by_quarters(self.quarters.product, x, kernel)

    def along_x(self, x: Array, kernel: Array) -> Array:
        """Convolve four times, to transpose for the gradient of x."""
        return _by_quarters(self.quarters.along_x, x, kernel)

    def along_kernel(self, x: Array, kernel: Array) -> Array:
        """Convolve four times, to transpose for the gradient of the kernel."""
        return _by_quarters(self.quarters.along_kernel, x, kernel)


def _by_quarters(convolve: Callable[[Array, Array], Array], x: Array, kernel: Array) -> Array:
    side, _, narrow, wide = kernel.shape
    # Output 2m sees inputs m - 1 and m through taps 3 and 1, output 2m + 1 sees m and m + 1 through 2 and 0.
    kernel = jnp.pad(kernel, ((0, 4 - side), (0, 4 - side), (0, 0), (0, 0)))
    taps = jnp.array([[3, 2], [1, 0]])
    parts = kernel[taps[:, None, :, None], taps[None, :, None, :]].transpose(0, 1, 4, 2, 3, 5)
    every = convolve(x, parts.reshape(2, 2, narrow, 4 * wide))
    b, h, w = x.shape[:3]
    every = every.reshape(b, h + 1, w + 1, 2, 2, wide)
    rows = [
        jnp.stack([every[:, d : d + h, e : e + w, d, e] for e in range(2)], axis=3) for d in range(2)
    ]  # of each: (b, h, w, 2, o)
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, wide)
