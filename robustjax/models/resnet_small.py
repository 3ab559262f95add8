"""ResNet-8 for small images on a CPU: a fortieth of the products of a ResNet-18.

Every 2x2 block of pixels becomes one of four times the channels before the first convolution, so that the largest maps
have a quarter of the pixels. Feature taps: stage0 is the stem, stage1 to stage3 the groups of blocks; the linear layer
reads stage3.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.resnet import CIFAR, BasicBlock
from robustjax.types import Images, Logits, Model


class ResNet8(nn.Module):
    """A stem over 2x2 blocks of pixels, three groups of blocks at strides 1, 2, 2, average pooling, linear."""

    width: int
    depth: int
    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        x = layers.conv(
            layers.blocks_of_pixels(x, 2),
            self.width,
            3,
            dtype=self.dtype,
            init=layers.he_fan_out,
            name="conv1",
        )
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1"))
        self.sow("features", "stage0", x)
        for i in range(3):
            for j in range(self.depth):
                stride = 2 if i > 0 and j == 0 else 1
                kind = BasicBlock(
                    self.width * 2**i, stride, self.dtype, layers.he_fan_out, name=f"stage{i + 1}_block{j}"
                )
                x = kind(x, train)
            self.sow("features", f"stage{i + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def resnet8(
    *,
    width: int = 32,
    depth: int = 1,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a ResNet-8 over 2x2 blocks of pixels: 311,242 parameters and 13 million products an image at width 32.

    Args:
      width: channels of the stem and the first group; each further group has twice as many.
      depth: blocks of each of the three groups; n of them make 6 n + 2 layers.
      classes: number of logits.
      shape: of one image, (h, w, c); h and w are even.
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
    Raises:
      ValueError: for a width or depth below 1, or sides that are odd.

    Reference: He et al. 2016, arXiv:1512.03385, section 4.2 (6 n + 2 layers). Deviations: the stem reads blocks of
      pixels, as sub-pixel convolution (arXiv:1609.05158) undoes them; shortcuts are 1x1 convolutions; twice the width.
    """
    for name, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise ValueError(f"resnet8: {name} is {value}, must be at least 1")
    if shape[0] % 2 or shape[1] % 2:
        raise ValueError(f"resnet8: images are {shape[0]} x {shape[1]}, must have even sides")
    return from_flax(ResNet8(width, depth, classes, dtype), shape=shape, mean=mean, std=std)
