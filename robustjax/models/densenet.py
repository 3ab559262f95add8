"""Densely connected networks with bottlenecks and compression, DenseNet-BC.

Feature taps: stage0 is the first convolution, stage1 and stage2 the outputs of the transitions, stage3 the
final BatchNorm and ReLU, which the linear layer reads: 24, 108, 150, 342 channels at depth 100 and growth 12.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import avg_pool
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model


class DenseLayer(nn.Module):
    """BatchNorm-ReLU-1x1 to 4 times the growth, BatchNorm-ReLU-3x3 to the growth, joined to the input."""

    growth: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w o"]:
        he, dtype = layers.he_fan_out, self.dtype
        y = nn.relu(layers.batch_norm(x, train=train, dtype=dtype, name="norm1"))
        y = layers.conv(y, 4 * self.growth, 1, init=he, dtype=dtype, name="conv1")
        y = nn.relu(layers.batch_norm(y, train=train, dtype=dtype, name="norm2"))
        y = layers.conv(y, self.growth, 3, init=he, dtype=dtype, name="conv2")
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """Three blocks of dense layers with halving transitions between, then BatchNorm, pooling, linear."""

    depth: int
    growth: int
    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        he, dtype = layers.he_fan_out, self.dtype
        x = layers.conv(x, 2 * self.growth, 3, init=he, dtype=dtype, name="conv1")
        self.sow("features", "stage0", x)
        for i in range(3):
            for j in range((self.depth - 4) // 6):
                x = DenseLayer(self.growth, dtype, name=f"stage{i + 1}_layer{j}")(x, train)
            x = nn.relu(layers.batch_norm(x, train=train, dtype=dtype, name=f"norm{i + 1}"))
            if i < 2:
                x = layers.conv(x, x.shape[-1] // 2, 1, init=he, dtype=dtype, name=f"transition{i + 1}")
                x = avg_pool(x, 2)
            self.sow("features", f"stage{i + 1}", x)
        zeros = nn.initializers.zeros_init()
        return layers.linear(x.mean(axis=(1, 2)), self.classes, bias_init=zeros, dtype=dtype, name="head")


def densenet(
    *,
    depth: int = 100,
    growth: int = 12,
    classes: int = 10,
    shape: tuple[int, ...] = (32, 32, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a DenseNet-BC; depth 100 has 769,162 parameters, depth 40 176,122, depth 22 71,686.

    Args:
      depth: 6 n + 4 for n bottleneck layers in each of three blocks.
      growth: channels that a layer adds.
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
    Raises:
      ValueError: for a depth that is not 6 n + 4, or a growth below 1.

    Reference: Huang et al. 2017, arXiv:1608.06993; compression 0.5, no dropout, He initial values (fan out).
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"densenet: depth is {depth}, must be 6 n + 4 with n at least 1")
    if growth < 1:
        raise ValueError(f"densenet: growth is {growth}, must be at least 1")
    return from_flax(DenseNet(depth, growth, classes, dtype), shape=shape, mean=mean, std=std)
