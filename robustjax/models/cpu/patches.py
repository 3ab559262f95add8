"""A 3x3 convolution of stride 2 whose kernel is mapped over, on a CPU as a matrix product over patches.

With a leading axis of kernels, as `vmap` over seeds gives it, a convolution becomes a grouped one, which is several
times slower on a CPU; a matrix product becomes a batch of them and stays fast, in loops as well.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.cpu.by_platform import multiply
from robustjax.models.cpu.convolution import Convolution

HALVING = Convolution((2, 2), ((1, 1), (1, 1)))


def halved(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c o"]) -> Float[Array, "b i j o"]:
    """Convolve: stride 2, zero-padded by 1; fast with many kernels at once."""
    return multiply(Halved(), x, kernel)


@dataclass(frozen=True)
class Halved:
    """The forms of a halving: on a CPU a single one."""

    precision: Any = None

    def plain(self, x: Array, kernel: Array) -> Array:
        """Leave it to jax."""
        return replace(HALVING, precision=self.precision).plain(x, kernel)

    def product(self, x: Array, kernel: Array) -> Array:
        """Multiply patches by the kernel."""
        high, wide = ((side + 1) // 2 for side in x.shape[1:3])
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [x[:, i : i + 2 * high - 1 : 2, j : j + 2 * wide - 1 : 2] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(taps, axis=-1)
        return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[3]), precision=self.precision)

    along_x = along_kernel = product
