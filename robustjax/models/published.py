"""Networks as published checkpoints compute them, where weights do not tell them from ours.

Of a pre-activation ResNet-18 there are three: a shortcut that changes shape reads the activation (`preact`), or
the input of the block; and a BatchNorm and activation follow the last block, or not. Of a wide ResNet there are
two: strided convolutions pad all sides (`wideresnet`), or only the lower and right ones. Loaded into the wrong
one, a checkpoint loses some accuracy, and nothing warns.

Feature taps: stage0 is the stem, stage1, ... the groups of blocks; with a final BatchNorm and activation one
more, which the linear layer reads.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model

CIFAR = (32, 32, 3)


class Block(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions, the first of which may be strided.

    Where the shape changes, a 1x1 shortcut reads the first activation, or, with `early`, the block's input.
    With `lower_right` the strided convolution pads these sides only, as "SAME" does for images of even size.
    """

    features: int
    stride: int
    early: bool
    lower_right: bool
    activation: Callable[[Array], Array]
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        dtype = self.dtype
        y = self.activation(layers.batch_norm(x, train=train, dtype=dtype, name="norm1"))
        if self.stride != 1 or x.shape[-1] != self.features:
            source = x.astype(dtype) if self.early else y
            x = layers.conv(source, self.features, 1, stride=self.stride, dtype=dtype, name="shortcut_conv")
        shifted = self.lower_right and self.stride == 2
        y = jnp.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0))) if shifted else y
        pad = 0 if shifted else 1
        y = layers.conv(y, self.features, 3, stride=self.stride, padding=pad, dtype=dtype, name="conv1")
        y = self.activation(layers.batch_norm(y, train=train, dtype=dtype, name="norm2"))
        return x + layers.conv(y, self.features, 3, dtype=dtype, name="conv2")


class Published(nn.Module):
    """A bare 3x3 stem, groups of blocks of which all but the first halve the image, pooling, linear."""

    stem: str
    widths: tuple[int, ...]
    depth: int
    classes: int
    early: bool = False
    lower_right: bool = False
    last_norm: bool = True
    activation: Callable[[Array], Array] = nn.relu
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        x = layers.conv(x, self.widths[0], 3, dtype=self.dtype, name=self.stem)
        self.sow("features", "stage0", x)
        for i, width in enumerate(self.widths[1:], start=1):
            for j in range(self.depth):
                stride = 2 if i > 1 and j == 0 else 1
                settings = (self.early, self.lower_right, self.activation, self.dtype)
                x = Block(width, stride, *settings, name=f"stage{i}_block{j}")(x, train)
            self.sow("features", f"stage{i}", x)
        if self.last_norm:
            x = self.activation(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm"))
            self.sow("features", f"stage{len(self.widths)}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def preact_resnet18_wong(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the PreActResNet-18 whose shortcuts read the input of a block; settings as in `resnet.resnet18`.

    Reference: Wong et al. 2020, arXiv:2001.03994, and Andriushchenko and Flammarion 2020, arXiv:2007.02617, as
      RobustBench computes them; 11,171,146 parameters.
    """
    net = Published("conv1", (64, 64, 128, 256, 512), 2, classes, early=True, last_norm=False, dtype=dtype)
    return from_flax(net, shape=shape, mean=mean, std=std)


def preact_resnet18_rice(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the PreActResNet-18 with a last BatchNorm and ReLU; settings as in `resnet.resnet18`.

    Reference: Rice et al. 2020, arXiv:2002.11569, as RobustBench computes it; 11,172,170 parameters.
    """
    net = Published("conv1", (64, 64, 128, 256, 512), 2, classes, dtype=dtype)
    return from_flax(net, shape=shape, mean=mean, std=std)


def wideresnet_gowal(
    *,
    depth: int = 28,
    width: int = 10,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    activation: Callable[[Array], Array] = nn.swish,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the wide ResNet whose strided convolutions pad below and to the right only, with swish.

    Its stem is named init_conv, so that weights of the other wide ResNet do not fit by accident.

    Args:
      depth: 6 n + 4 for n blocks in each of three groups.
      width: factor on the 16, 32 and 64 channels of the groups.
      classes: number of logits.
      shape: of one image, (h, w, c).
      activation: elementwise; not told by the weights either.
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
    Raises:
      ValueError: for a depth that is not 6 n + 4, or a width below 1.

    Reference: Gowal et al. 2020, arXiv:2010.03593; also of Rebuffi et al. 2021, arXiv:2103.01946, Gowal et al.
      2021, arXiv:2110.09468, and Wang et al. 2023, arXiv:2302.04638.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"wideresnet_gowal: depth is {depth}, must be 6 n + 4 with n at least 1")
    if width < 1:
        raise ValueError(f"wideresnet_gowal: width is {width}, must be at least 1")
    widths = (16, 16 * width, 32 * width, 64 * width)
    net = Published(
        "init_conv", widths, (depth - 4) // 6, classes, lower_right=True, activation=activation, dtype=dtype
    )
    return from_flax(net, shape=shape, mean=mean, std=std)
