"""The pre-activation ResNet-18 for small images.

Feature taps: stage0 is the stem, stage1 to stage4 the groups of blocks; the linear layer reads stage4.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions; a 1x1 shortcut reads the first activation."""

    features: int
    stride: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        y = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1"))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = layers.conv(y, self.features, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")
        y = layers.conv(y, self.features, 3, stride=self.stride, dtype=self.dtype, name="conv1")
        y = nn.relu(layers.batch_norm(y, train=train, dtype=self.dtype, name="norm2"))
        return x + layers.conv(y, self.features, 3, dtype=self.dtype, name="conv2")


class PreActResNet(nn.Module):
    """A bare 3x3 stem of 64 channels, four groups of blocks at strides 1, 2, 2, 2, pooling, linear."""

    depths: tuple[int, ...]
    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        x = layers.conv(x, 64, 3, dtype=self.dtype, name="conv1")
        self.sow("features", "stage0", x)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                x = PreActBlock(64 * 2**i, stride, self.dtype, name=f"stage{i + 1}_block{j}")(x, train)
            self.sow("features", f"stage{i + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def preact_resnet18(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (32, 32, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a PreActResNet-18 of 11,171,146 parameters; settings as in `resnet.resnet18`.

    Reference: He et al. 2016, arXiv:1603.05027, in the variant common for CIFAR: no BatchNorm after the last
      block (a variant with one has 1,024 parameters more), PyTorch's default initial values.
    """
    return from_flax(PreActResNet((2, 2, 2, 2), classes, dtype), shape=shape, mean=mean, std=std)
