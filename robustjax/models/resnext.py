"""ResNeXt for small images: residual networks whose 3x3 convolutions are split into groups.

Feature taps: stage0 is the stem, stage1 to stage3 the groups of blocks; the linear layer reads stage3.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.resnet import Bottleneck
from robustjax.types import Images, Logits, Model


class ResNeXt(nn.Module):
    """A 3x3 stem of 64 channels, three groups of bottlenecks at strides 1, 2, 2, average pooling, linear."""

    depth: int
    cardinality: int
    base_width: int
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        inner = self.cardinality * self.base_width // 64
        kind = layers.recomputed(partial(Bottleneck, inner=inner, groups=self.cardinality), self.remat)
        x = layers.conv(x, 64, 3, dtype=self.dtype, name="conv_1_3x3")
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1"))
        self.sow("features", "stage0", x)
        for i in range(3):
            for j in range((self.depth - 2) // 9):
                stride = 2 if i > 0 and j == 0 else 1
                x = kind(64 * 2**i, stride, self.dtype, name=f"stage{i + 1}_block{j}")(x, train)
            self.sow("features", f"stage{i + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def resnext(
    *,
    depth: int = 29,
    cardinality: int = 4,
    base_width: int = 32,
    classes: int = 10,
    shape: tuple[int, ...] = (32, 32, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNeXt-29 4x32d of 6,807,882 parameters.

    Args:
      depth: 9 n + 2 for n blocks in each of three groups.
      cardinality: parts that a 3x3 convolution is split into.
      base_width: channels of a part in the first group.
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: for a depth that is not 9 n + 2, or parts that do not make up a multiple of 64 channels.

    Reference: Xie et al. 2017, arXiv:1611.05431, as in AugMix, Hendrycks et al. 2020, arXiv:1912.02781.
    """
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"resnext: depth is {depth}, must be 9 n + 2 with n at least 1")
    if min(cardinality, base_width) < 1 or cardinality * base_width % 64:
        raise ValueError(
            f"resnext: cardinality times base_width is {cardinality * base_width}, must be a multiple of 64"
        )
    net = ResNeXt(depth, cardinality, base_width, classes, dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
