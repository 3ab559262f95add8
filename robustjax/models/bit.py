"""BiT: pre-activation bottlenecks with group normalisation and standardised kernels, for enlarged small images.

Feature taps: stage0 is the stem after pooling, stage1 to stage4 the groups of blocks, stage5 the normalised and
activated last group, whose mean over pixels the linear layer reads.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve
from robustjax.models.layers import DType
from robustjax.models.resampling import resize
from robustjax.models.resnet_imagenet import max_pooled
from robustjax.types import Images, Logits, Model

GROUPS = 32
HALF = (0.5, 0.5, 0.5)


class StandardisedConvolution(nn.Module):
    """Convolve with a kernel whose mean is 0 and whose variance is 1 for each output channel."""

    features: int
    kernel: int
    stride: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", layers.he_fan_out, shape, jnp.float32)
        centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
        kernel = centred / jnp.sqrt((centred**2).mean(axis=(0, 1, 2), keepdims=True) + 1e-10)
        stride, pad = (self.stride, self.stride), (self.kernel // 2, self.kernel // 2)
        return convolve(x.astype(self.dtype), kernel, stride, (pad, pad))


class BitBlock(nn.Module):
    """Normalisation and ReLU before a 1x1, a 3x3 and a 1x1 convolution to 4 times `features` channels, and added."""

    features: int
    stride: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        wide = 4 * self.features
        y = activated(x, "norm1", self.dtype)
        if self.stride != 1 or x.shape[-1] != wide:
            x = StandardisedConvolution(wide, 1, self.stride, self.dtype, name="shortcut_conv")(y)
        y = StandardisedConvolution(self.features, 1, 1, self.dtype, name="conv1")(y)
        y = activated(y, "norm2", self.dtype)
        y = StandardisedConvolution(self.features, 3, self.stride, self.dtype, name="conv2")(y)
        y = activated(y, "norm3", self.dtype)
        return x + StandardisedConvolution(wide, 1, 1, self.dtype, name="conv3")(y)


def activated(x: Float[Array, "b h w c"], name: str, dtype: DType) -> Float[Array, "b h w c"]:
    """Normalise groups of channels over all pixels, in float32 whatever `dtype` is, and apply ReLU."""
    norm = nn.GroupNorm(num_groups=GROUPS, epsilon=1e-5, use_fast_variance=False, name=name)
    return nn.relu(norm(x.astype(jnp.float32))).astype(dtype)


class BitResNet(nn.Module):
    """Images enlarged to `side`, a 7x7 stem, pooling, groups of blocks at strides 1, 2, 2, 2, pooling, linear."""

    depths: tuple[int, ...]
    width: int
    side: int
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(BitBlock, self.remat)
        x = resize(x, (self.side, self.side))
        x = StandardisedConvolution(64 * self.width, 7, 2, self.dtype, name="conv1")(x)
        x = max_pooled(x)  # the border counts as 0, also below it
        self.sow("features", "stage0", x)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                block = kind(64 * self.width * 2**i, stride, self.dtype, name=f"stage{i + 1}_block{j}")
                x = block(x, train)
            self.sow("features", f"stage{i + 1}", x)
        x = activated(x, "norm", self.dtype)
        self.sow("features", f"stage{len(self.depths) + 1}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def bit_resnet(
    *,
    depths: tuple[int, ...] = (3, 8, 36, 3),
    width: int = 2,
    side: int = 128,
    classes: int = 10,
    shape: tuple[int, ...] = (32, 32, 3),
    mean: Sequence[float] | None = HALF,
    std: Sequence[float] | None = HALF,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a BiT ResNet; the default is R152x2.

    Args:
      depths: blocks of each group.
      width: factor on the 64, 128, 256 and 512 channels inside the blocks of each group.
      side: pixels that images are enlarged to, linearly.
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel, one half by default.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: for a width or side below 1.

    Reference: Kolesnikov et al. 2020, arXiv:1912.11370, at the size of Bai et al. 2023, arXiv:2301.12554.
    """
    if width < 1 or side < 1:
        raise ValueError(f"bit_resnet: width and side are {width} and {side}, must be at least 1")
    return from_flax(BitResNet(depths, width, side, classes, dtype, remat), shape=shape, mean=mean, std=std)
