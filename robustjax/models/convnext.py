"""ConvNeXt, for large images.

Feature taps: stage0 is the stem, stage1 to stage4 the groups of blocks, stage5 the normalised mean over pixels, which
the linear layer reads.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.types import Images, Logits, Model

SHAPE = (224, 224, 3)


class ConvNeXtBlock(nn.Module):
    """A 7x7 convolution of each channel, normalisation, a hidden layer of 4 times the channels, scaled and added."""

    sparse: bool
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        y = layers.conv(x, channels, 7, groups=channels, bias=True, dtype=self.dtype, name="conv_dw")
        y = layers.layer_norm(y, name="norm", dtype=self.dtype)
        y = layers.gelu_mlp(y, sparse=self.sparse, dtype=self.dtype)
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (channels,))
        y = y * gamma.astype(y.dtype)[None, None, None]
        return x + (layers.MeanSparse(name="sparse_path")(y) if self.sparse else y)


class ConvNeXt(nn.Module):
    """A stem to a quarter of the size, four groups of blocks of which all but the first halve it, pooling, linear.

    The stem is a convolution of 4x4 patches, or with `stem` 3x3 convolutions of those widths; `block` builds a block.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int
    stem: tuple[int, ...] = ()
    block: Callable[..., nn.Module] = partial(ConvNeXtBlock, False)
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(self.block, self.remat)
        settings = {"padding": 0, "bias": True, "dtype": self.dtype}
        if self.stem:
            strides = (2, 2) + (1,) * (len(self.stem) - 2)
            x = layers.conv_stem(x, self.stem, strides, self.dtype)
        else:
            x = layers.conv(x, self.widths[0], 4, stride=4, name="stem_conv0", **settings)
            x = layers.layer_norm(x, name="stem_norm0", dtype=self.dtype)
        self.sow("features", "stage0", x)
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            if i > 1:
                x = layers.layer_norm(x, name=f"down{i}_norm", dtype=self.dtype)
                x = layers.conv(x, width, 2, stride=2, name=f"down{i}_conv", **settings)
            for j in range(depth):
                x = kind(dtype=self.dtype, name=f"stage{i}_block{j}")(x, train)
            self.sow("features", f"stage{i}", x)
        x = layers.layer_norm(x.mean(axis=(1, 2)), name="norm", dtype=self.dtype)
        self.sow("features", "stage5", x)
        return layers.dense(x, self.classes, dtype=self.dtype, name="head")


def convnext(
    *,
    widths: tuple[int, ...] = (96, 192, 384, 768),
    depths: tuple[int, ...] = (3, 3, 9, 3),
    stem: tuple[int, ...] = (),
    sparse: bool = False,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ConvNeXt; the default, ConvNeXt-T, has 28,589,128 parameters.

    Args:
      widths, depths: channels and blocks of each group.
      stem: widths of the 3x3 convolutions that replace the patches of the stem, the last one that of the first group.
      sparse: with a `layers.MeanSparse` before each GELU of a block and before each addition.
      classes: number of logits.
      shape: of one image, (h, w, c); multiples of 32.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if the widths of the stem do not end in that of the first group, or depths and widths are not as many.

    Reference: Liu et al. 2022, arXiv:2201.03545, as in timm; stems: Singh et al. 2023, arXiv:2303.01870; sparse: Amini
      et al. 2024, arXiv:2406.05927.
    """
    if stem and (len(stem) < 2 or stem[-1] != widths[0]):
        raise ValueError(f"convnext: stem is {stem}, must be two or more widths that end in {widths[0]}")
    if len(widths) != len(depths):
        raise ValueError(
            f"convnext: there are {len(widths)} widths and {len(depths)} depths, must be as many"
        )
    net = ConvNeXt(widths, depths, classes, stem, partial(ConvNeXtBlock, sparse), dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
