"""Wide residual networks, WRN-depth-width.

Feature taps: stage0 is the stem, stage1 to stage3 the groups of blocks before the final BatchNorm, stage4 the
final activation, which the linear layer reads.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model


class WideBlock(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions.

    Where the width changes, a 1x1 shortcut shares the first activation; elsewhere the shortcut is the input.
    """

    features: int
    stride: int
    activation: Callable[[Array], Array]
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        he, dtype = layers.he_fan_out, self.dtype
        y = self.activation(layers.batch_norm(x, train=train, dtype=dtype, name="norm1"))
        if x.shape[-1] != self.features:
            x = layers.conv(
                y, self.features, 1, stride=self.stride, init=he, dtype=dtype, name="shortcut_conv"
            )
        y = layers.conv(y, self.features, 3, stride=self.stride, init=he, dtype=dtype, name="conv1")
        y = self.activation(layers.batch_norm(y, train=train, dtype=dtype, name="norm2"))
        return x + layers.conv(y, self.features, 3, init=he, dtype=dtype, name="conv2")


class WideResNet(nn.Module):
    """A 3x3 stem of 16 channels, three groups at strides 1, 2, 2, BatchNorm, activation, pooling, linear."""

    depth: int
    width: int
    classes: int
    activation: Callable[[Array], Array] = nn.relu
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(WideBlock, self.remat)
        x = layers.conv(x, 16, 3, init=layers.he_fan_out, dtype=self.dtype, name="conv1")
        self.sow("features", "stage0", x)
        for i in range(3):
            for j in range((self.depth - 4) // 6):
                stride = 2 if i > 0 and j == 0 else 1
                block = kind(
                    16 * 2**i * self.width, stride, self.activation, self.dtype, name=f"stage{i + 1}_block{j}"
                )
                x = block(x, train)
            self.sow("features", f"stage{i + 1}", x)
        x = self.activation(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm"))
        self.sow("features", "stage4", x)
        zeros = nn.initializers.zeros_init()
        return layers.linear(
            x.mean(axis=(1, 2)), self.classes, bias_init=zeros, dtype=self.dtype, name="head"
        )


def wideresnet(
    *,
    depth: int = 28,
    width: int = 10,
    classes: int = 10,
    shape: tuple[int, ...] = (32, 32, 3),
    activation: Callable[[Array], Array] = nn.relu,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a WideResNet; WRN-28-10 has 36,479,194 parameters, WRN-34-10 46,160,474.

    Args:
      depth: 6 n + 4 for n blocks in each of three groups.
      width: factor on the 16, 32 and 64 channels of the groups.
      classes: number of logits.
      shape: of one image, (h, w, c).
      activation: elementwise, such as `jax.nn.relu` or `jax.nn.swish`.
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: for a depth that is not 6 n + 4, or a width below 1.

    Reference: Zagoruyko and Komodakis 2016, arXiv:1605.07146; without dropout, He initial values (fan out).
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"wideresnet: depth is {depth}, must be 6 n + 4 with n at least 1")
    if width < 1:
        raise ValueError(f"wideresnet: width is {width}, must be at least 1")
    network = WideResNet(depth, width, classes, activation, dtype, remat)
    return from_flax(network, shape=shape, mean=mean, std=std)
