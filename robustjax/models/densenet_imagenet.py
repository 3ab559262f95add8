"""DenseNet-BC for large images: a strided 7x7 stem and four blocks of dense layers.

Feature taps: stage0 is the stem after pooling, stage1 to stage3 the transitions before they halve the image, stage4 the
final BatchNorm and ReLU, which the linear layer reads.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import avg_pool
from robustjax.models.densenet import DenseLayer
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.models.resnet_imagenet import SHAPE, max_pooled
from robustjax.types import Images, Logits, Model


class LargeDenseNet(nn.Module):
    """The stem of a large ResNet, blocks of dense layers with halving transitions between, pooling, linear."""

    depths: tuple[int, ...]
    growth: int
    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        he, dtype = layers.he_fan_out, self.dtype
        x = layers.conv(x, 2 * self.growth, 7, stride=2, init=he, dtype=dtype, name="conv1")
        x = max_pooled(nn.relu(layers.batch_norm(x, train=train, dtype=dtype, name="norm_stem")))
        self.sow("features", "stage0", x)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                x = DenseLayer(self.growth, dtype, name=f"stage{i + 1}_layer{j}")(x, train)
            x = nn.relu(layers.batch_norm(x, train=train, dtype=dtype, name=f"norm{i + 1}"))
            if i < len(self.depths) - 1:
                x = layers.conv(x, x.shape[-1] // 2, 1, init=he, dtype=dtype, name=f"transition{i + 1}")
                self.sow("features", f"stage{i + 1}", x)
                x = avg_pool(x, 2)
        self.sow("features", f"stage{len(self.depths)}", x)
        zeros = nn.initializers.zeros_init()
        return layers.linear(x.mean(axis=(1, 2)), self.classes, bias_init=zeros, dtype=dtype, name="head")


def densenet121_imagenet(
    *,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    depths: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
) -> Model:
    """Build a DenseNet-121: 7,978,856 parameters.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c), sides that are multiples of 32.
      depths: layers of each block.
      growth: channels that a layer adds; the stem has twice as many.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
    Raises:
      ValueError: for a growth or depth below 1, or another shape.

    Reference: Huang et al. 2017, arXiv:1608.06993, as torchvision's densenet121, without dropout.
    """
    if growth < 1 or min(depths, default=0) < 1:
        raise ValueError(f"densenet121_imagenet: depths is {depths} and growth {growth}, must be at least 1")
    if shape[0] % 32 or shape[1] % 32:
        raise ValueError(
            f"densenet121_imagenet: images are {list(shape)}, must have sides that are multiples of 32"
        )
    return from_flax(LargeDenseNet(depths, growth, classes, dtype), shape=shape, mean=mean, std=std)
