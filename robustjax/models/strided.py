"""A small network of strided convolutions that is fast with many networks at once, as `vmap` over seeds gives them.

Weights are drawn with variance 1 / fan in. PyTorch's third of that, which the other networks have, is too little
here: adversarial training then often ends in a network that always gives the same answer.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.adapters import from_flax
from robustjax.models.cpu import halved
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model


class Strided(nn.Module):
    """3x3 convolutions of stride 2 with ReLU, a hidden layer and a linear one."""

    classes: int
    widths: tuple[int, ...]
    hidden: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, width in enumerate(self.widths):
            x = nn.relu(Patches(width, self.dtype, name=f"conv{i}")(x))
            self.sow("features", f"stage{i}", x)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x.reshape(x.shape[0], -1)))
        self.sow("features", f"stage{len(self.widths)}", x)
        return nn.Dense(self.classes, dtype=self.dtype, name="head")(x)


class Patches(nn.Module):
    """A 3x3 convolution of stride 2, zero-padded by 1."""

    features: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return halved(x, kernel) + bias


def strided(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (16, 16, 3),
    widths: Sequence[int] = (24, 48, 64),
    hidden: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the network.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c).
      widths: channels of each convolution.
      hidden: width of the layer that the last one reads.
      mean, std: normalisation per channel.
      dtype: what the network computes in; parameters and logits are float32.
    """
    return from_flax(Strided(classes, tuple(widths), hidden, dtype), shape=shape, mean=mean, std=std)
