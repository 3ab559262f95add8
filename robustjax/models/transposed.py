"""The transposed convolutions that double the size of feature maps, as plain ones over their own pixels.

A transposed convolution of stride 2 asks, of every 2x2 block of its output, four plain convolutions with 2x2 kernels.
Computing those is as much work, and stays fast inside loops on a CPU, where dilated convolutions are not.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.convolution import FAST, convolution

Maps = Float[Array, "b h w c"]


def doubled(x: Maps, kernel: Float[Array, "k k c o"]) -> Float[Array, "b 2h 2w o"]:
    """Convolve, transposed: stride 2 and padding 1; an output padding of 1 if the kernel is 3x3 and none if 4x4.

    Args:
      x: feature maps.
      kernel: 3x3 or 4x4, indexed as PyTorch does: (i, o, h, w) becomes (h, w, i, o) and is not flipped.
    """
    side, _, narrow, wide = kernel.shape
    # Output 2m sees inputs m - 1 and m through taps 3 and 1, output 2m + 1 sees m and m + 1 through 2 and 0.
    kernel = jnp.pad(kernel, ((0, 4 - side), (0, 4 - side), (0, 0), (0, 0)))
    taps = jnp.array([[3, 2], [1, 0]])
    parts = kernel[taps[:, None, :, None], taps[None, :, None, :]].transpose(0, 1, 4, 2, 3, 5)
    pads = ((1, 1), (1, 1))
    every = convolution()(x, parts.reshape(2, 2, narrow, 4 * wide), (1, 1), pads, dimension_numbers=FAST)
    b, h, w = x.shape[:3]
    every = every.reshape(b, h + 1, w + 1, 2, 2, wide)
    rows = [
        jnp.stack([every[:, d : d + h, e : e + w, d, e] for e in range(2)], axis=3) for d in range(2)
    ]  # of each: (b, h, w, 2, o)
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, wide)


class Doubling(nn.Module):
    """A transposed convolution of stride 2 with a 3x3 or 4x4 kernel, to twice the size."""

    features: int
    kernel: int
    bias: bool
    kernel_init: Callable[..., Array]
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        x = doubled(x, self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype))
        if not self.bias:
            return x
        return x + self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(x.dtype)
