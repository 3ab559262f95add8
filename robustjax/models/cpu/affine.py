"""The matrix product of an affine layer, in jax's form on all platforms."""

from dataclasses import dataclass
from typing import Any

from jax import lax
from jaxtyping import Array, Float

from robustjax.models.cpu.by_platform import multiply


def multiplied(x: Float[Array, "b *space c"], kernel: Float[Array, "c o"]) -> Float[Array, "b *space o"]:
    """Multiply the last dimension of x by a kernel, which may be of a wider type: its gradient is summed in that."""
    return Affine().plain(x, kernel) if x.dtype == kernel.dtype else multiply(Affine(), x, kernel)


@dataclass(frozen=True)
class Affine:
    """The only form of the product."""

    precision: Any = None

    def plain(self, x: Array, kernel: Array) -> Array:
        """Leave it to jax."""
        return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=self.precision)

    product = along_x = along_kernel = plain
