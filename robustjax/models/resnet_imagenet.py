"""Residual networks for large images: ResNet-18, -50 and a wide ResNet-50, with a strided 7x7 stem and pooling.

Feature taps: stage0 is the stem after pooling, stage1 to stage4 the groups of blocks; the linear layer reads
stage4.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.models.resnet import BasicBlock, Bottleneck
from robustjax.types import Images, Logits, Model

SHAPE = (224, 224, 3)


class LargeResNet(nn.Module):
    """A 7x7 stem of 64 channels at stride 2, max pooling, four groups at strides 1, 2, 2, 2, pooling, linear."""

    block: Callable[..., nn.Module]
    depths: tuple[int, ...]
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(self.block, self.remat)
        x = layers.conv(x, 64, 7, stride=2, dtype=self.dtype, name="conv1")
        x = max_pooled(nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1")))
        self.sow("features", "stage0", x)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                x = kind(64 * 2**i, stride, self.dtype, name=f"stage{i + 1}_block{j}")(x, train)
            self.sow("features", f"stage{i + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def max_pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Take the maximum of 3x3 windows at stride 2, padded by 1; after a ReLU zeros pad like -inf.

    Rows first, then columns, of slices: the gradient of a window reduction is slow, see `pooling`.
    """
    for axis in (1, 2):
        count = (x.shape[axis] + 1) // 2
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        padded = jnp.pad(x, pad)
        slices = [padded[(slice(None),) * axis + (slice(i, i + 2 * count - 1, 2),)] for i in range(3)]
        x = reduce(jnp.maximum, slices)
    return x


def resnet50_imagenet(
    *,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-50 for large images: bottlenecks 3, 4, 6, 3; 25,557,032 parameters.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c); any size serves, as the last pooling is over all that is left.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.

    Reference: He et al. 2016, arXiv:1512.03385; the stride is in the 3x3 convolution of a bottleneck ("v1.5"),
      as in torchvision, PyTorch's default initial values.
    """
    network = LargeResNet(Bottleneck, (3, 4, 6, 3), classes, dtype, remat)
    return from_flax(network, shape=shape, mean=mean, std=std)


def resnet18_imagenet(
    *,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-18 for large images: 11,689,512 parameters; settings as in `resnet50_imagenet`."""
    network = LargeResNet(BasicBlock, (2, 2, 2, 2), classes, dtype, remat)
    return from_flax(network, shape=shape, mean=mean, std=std)


def wideresnet50_2_imagenet(
    *,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-50 with twice the channels inside its blocks: 68,883,240 parameters; as `resnet50_imagenet`.

    Reference: Zagoruyko and Komodakis 2016, arXiv:1605.07146, as torchvision's wide_resnet50_2.
    """
    network = LargeResNet(partial(Bottleneck, inner=2), (3, 4, 6, 3), classes, dtype, remat)
    return from_flax(network, shape=shape, mean=mean, std=std)
