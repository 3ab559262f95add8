"""RaWRN-101-2: bottlenecks with squeeze and excitation, a convolution of two groups and SiLU, for large images.

Feature taps: stage0 is the stem, stage1 to stage4 the groups of blocks; the linear layer reads stage4.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.types import Images, Logits, Model

GROUPS = 2


class RaBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions by way of a quarter of the channels; the first without BatchNorm."""

    features: int
    stride: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        inner, before, settings = self.features // 4, x.shape[-1], {"train": train, "dtype": self.dtype}
        y = nn.silu(layers.conv(x, inner, 1, dtype=self.dtype, name="conv1"))
        y = layers.conv(y, inner, 3, stride=self.stride, groups=GROUPS, dtype=self.dtype, name="conv2")
        y = nn.silu(layers.batch_norm(y, name="norm2", **settings))
        # A quarter of the block's input, not of what is squeezed.
        y = layers.excited(y, round(before / 4), name="excite", dtype=self.dtype)
        y = layers.conv(y, self.features, 1, dtype=self.dtype, name="conv3")
        y = layers.batch_norm(y, name="norm3", **settings)
        if self.stride != 1 or before != self.features:
            x = layers.conv(x, self.features, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")
            x = layers.batch_norm(x, name="shortcut_norm", **settings)
        return nn.silu(x + y)


class LargeRaNet(nn.Module):
    """A 7x7 stem at stride 2, four groups of blocks at stride 2 each, pooling, linear."""

    stem_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(RaBlock, self.remat)
        x = layers.conv(x, self.stem_width, 7, stride=2, dtype=self.dtype, name="conv1")
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype, name="norm1"))
        self.sow("features", "stage0", x)
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            for j in range(depth):
                x = kind(width, 1 if j else 2, self.dtype, name=f"stage{i}_block{j}")(x, train)
            self.sow("features", f"stage{i}", x)
        return layers.linear(x.mean(axis=(1, 2)), self.classes, dtype=self.dtype, name="head")


def rawideresnet_imagenet(
    *,
    stem_width: int = 96,
    widths: tuple[int, ...] = (512, 1024, 2016, 4032),
    depths: tuple[int, ...] = (7, 11, 18, 1),
    classes: int = 1000,
    shape: tuple[int, ...] = (224, 224, 3),
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build RaWRN-101-2.

    Args:
      stem_width: channels of the stem.
      widths, depths: channels, multiples of 8, and blocks of each group.
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if depths and widths are not as many, or a width is no multiple of 8.

    Reference: Peng et al. 2023, arXiv:2308.16258.
    """
    if len(widths) != len(depths) or any(width % 8 for width in widths):
        raise ValueError(
            f"rawideresnet_imagenet: widths are {widths} and depths {depths}, must be as many, and "
            "widths multiples of 8"
        )
    net = LargeRaNet(stem_width, widths, depths, classes, dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
