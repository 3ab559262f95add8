"""Vision transformers, ViT and DeiT.

Feature taps: stage0 are the patches with their positions, stage1 to stage3 the tokens after each third of the blocks,
stage4 the class token after the last normalisation, which the linear layer reads.
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

SHAPE = (224, 224, 3)
PATCH = 16


class TransformerBlock(nn.Module):
    """Self-attention and a hidden layer of 4 times the channels, each after a normalisation and added."""

    heads: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        count, channels = x.shape[1:]
        y = layers.layer_norm(x, name="norm1", dtype=self.dtype)
        y = layers.dense(y, 3 * channels, name="qkv", dtype=self.dtype)
        query, key, value = jnp.moveaxis(y.reshape(-1, count, 3, self.heads, channels // self.heads), 2, 0)
        y = layers.attention(query, key, value).reshape(-1, count, channels)
        x = x + layers.dense(y, channels, name="proj", dtype=self.dtype)
        return x + layers.gelu_mlp(layers.layer_norm(x, name="norm2", dtype=self.dtype), dtype=self.dtype)


class VisionTransformer(nn.Module):
    """Patches of 16x16 pixels and a class token with learned positions, blocks, normalisation, linear.

    With `stem`, four 3x3 convolutions of stride 2 and a 1x1 convolution make the patches.
    """

    width: int
    depth: int
    heads: int
    classes: int
    stem: bool = False
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(TransformerBlock, self.remat)
        if self.stem:
            x = layers.conv_stem(x, (48, 96, 192, 384), (2, 2, 2, 2), self.dtype)
            x = layers.conv(x, self.width, 1, bias=True, dtype=self.dtype, name="stem_conv4")
        else:
            settings = {"padding": 0, "bias": True, "dtype": self.dtype}
            x = layers.conv(x, self.width, PATCH, stride=PATCH, name="patches", **settings)
        x = x.reshape(len(x), -1, self.width)
        small = nn.initializers.truncated_normal(0.02)
        token = self.param("cls_token", small, (1, 1, self.width)).astype(x.dtype)
        place = self.param("pos_embed", small, (1, x.shape[1] + 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1) + place
        self.sow("features", "stage0", x)
        for j in range(self.depth):
            x = kind(self.heads, self.dtype, name=f"block{j}")(x, train)
            if (j + 1) * 3 % self.depth == 0:
                self.sow("features", f"stage{(j + 1) * 3 // self.depth}", x)
        x = layers.layer_norm(x[:, 0], name="norm", dtype=self.dtype)
        self.sow("features", "stage4", x)
        return layers.dense(x, self.classes, dtype=self.dtype, name="head")


def vit(
    *,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    stem: bool = False,
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ViT with patches of 16x16 pixels; the default, ViT-S, has 22,050,664 parameters.

    Args:
      width: channels of a token.
      depth: blocks, a multiple of 3.
      heads: of attention.
      stem: 3x3 convolutions make the patches.
      classes: number of logits.
      shape: of one image, (h, w, c), with sides of multiples of 16; the positions are learned for this size.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if the heads do not divide the width, the depth is no multiple of 3, or the patches not the image.

    Reference: Dosovitskiy et al. 2021, arXiv:2010.11929, and Touvron et al. 2021, arXiv:2012.12877 (DeiT, without
      distillation: the same network), as in timm; stem: Singh et al. 2023, arXiv:2303.01870.
    """
    if width % heads:
        raise ValueError(f"vit: width is {width}, must be a multiple of the {heads} heads")
    if depth < 3 or depth % 3:
        raise ValueError(f"vit: depth is {depth}, must be a multiple of 3")
    if shape[0] % PATCH or shape[1] % PATCH:
        raise ValueError(f"vit: shape is {shape}, must have sides of multiples of {PATCH}")
    net = VisionTransformer(width, depth, heads, classes, stem, dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
