"""Residual networks for small images: ResNet-18, -34 and -50 with activations after the addition.

Feature taps: stage0 is the stem, stage1 to stage4 the groups of blocks; the linear layer reads stage4.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType, Initializer
from robustjax.types import Images, Logits, Model

CIFAR = (32, 32, 3)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, with kernels drawn by `kernel_init`."""

    features: int
    stride: int
    dtype: DType
    kernel_init: Initializer = layers.fan_in_uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        init, dtype = self.kernel_init, self.dtype
        y = layers.conv(x, self.features, 3, stride=self.stride, init=init, dtype=dtype, name="conv1")
        y = nn.relu(layers.batch_norm(y, train=train, dtype=dtype, name="norm1"))
        y = layers.conv(y, self.features, 3, init=init, dtype=dtype, name="conv2")
        y = layers.batch_norm(y, train=train, dtype=dtype, name="norm2")
        return nn.relu(y + _shortcut(x, self.features, self.stride, train, dtype, init))


class Bottleneck(nn.Module):
    """1x1, strided 3x3 and 1x1 convolutions around a shortcut; the output has 4 times `features` channels.

    The convolutions inside have `inner` times `features` channels, the 3x3 one in so many `groups`.
    """

    features: int
    stride: int
    dtype: DType
    inner: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        inner, settings = self.inner * self.features, {"groups": self.groups, "dtype": self.dtype}
        y = layers.conv(x, inner, 1, dtype=self.dtype, name="conv1")
        y = nn.relu(layers.batch_norm(y, train=train, dtype=self.dtype, name="norm1"))
        y = layers.conv(y, inner, 3, stride=self.stride, name="conv2", **settings)
        y = nn.relu(layers.batch_norm(y, train=train, dtype=self.dtype, name="norm2"))
        y = layers.conv(y, 4 * self.features, 1, dtype=self.dtype, name="conv3")
        y = layers.batch_norm(y, train=train, dtype=self.dtype, name="norm3")
        return nn.relu(y + _shortcut(x, 4 * self.features, self.stride, train, self.dtype))


def _shortcut(
    x: Array, features: int, stride: int, train: bool, dtype: DType, init: Initializer = layers.fan_in_uniform
) -> Array:
    if stride == 1 and x.shape[-1] == features:
        return x.astype(dtype)
    x = layers.conv(x, features, 1, stride=stride, init=init, dtype=dtype, name="shortcut_conv")
    return layers.batch_norm(x, train=train, dtype=dtype, name="shortcut_norm")


class ResNet(nn.Module):
    """A 3x3 stem, four groups of blocks at strides 1, 2, 2, 2, average pooling, linear; `width` is of the stem."""

    block: Callable[..., nn.Module]
    depths: tuple[int, ...]
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False
    width: int = 64

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(self.block, self.remat)
        x = layers.conv(x, self.width, 3, dtype=self.dtype, name="conv1")
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1"))
        self.sow("features", "stage0", x)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                x = kind(self.width * 2**i, stride, self.dtype, name=f"stage{i + 1}_block{j}")(x, train)
            self.sow("features", f"stage{i + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def resnet18(
    *,
    width: int = 64,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-18: basic blocks 2, 2, 2, 2; 11,173,962 parameters.

    Args:
      width: channels of the stem and the first group; each further group has twice as many.
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: for a width below 1.

    Reference: He et al. 2016, arXiv:1512.03385; 3x3 stem without pooling, 1x1 convolution and BatchNorm where
      a shortcut changes shape, PyTorch's default initial values: the variant common for CIFAR.
    """
    if width < 1:
        raise ValueError(f"resnet18: width is {width}, must be at least 1")
    net = ResNet(BasicBlock, (2, 2, 2, 2), classes, dtype, remat, width)
    return from_flax(net, shape=shape, mean=mean, std=std)


def resnet34(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-34: basic blocks 3, 4, 6, 3; 21,282,122 parameters; settings as in `resnet18`."""
    return from_flax(ResNet(BasicBlock, (3, 4, 6, 3), classes, dtype, remat), shape=shape, mean=mean, std=std)


def resnet50(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ResNet-50: bottlenecks 3, 4, 6, 3; 23,520,842 parameters; settings as in `resnet18`."""
    return from_flax(ResNet(Bottleneck, (3, 4, 6, 3), classes, dtype, remat), shape=shape, mean=mean, std=std)
