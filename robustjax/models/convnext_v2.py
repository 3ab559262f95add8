"""ConvNeXt V2, for large images: its blocks compare the responses of their channels.

Feature taps: as of `convnext`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.convnext import SHAPE, ConvNeXt
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.types import Model


class ResponseNorm(nn.Module):
    """Scale each channel by its l2 norm over all pixels, relative to the mean of these norms; x is added.

    Reference: global response normalisation, Woo et al. 2023, arXiv:2301.00808.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        gamma = self.param("gamma", nn.initializers.zeros, x.shape[-1:])[None, None, None]
        beta = self.param("beta", nn.initializers.zeros, x.shape[-1:])[None, None, None]
        exact = x.astype(jnp.float32)
        squares = (exact**2).sum(axis=(1, 2), keepdims=True)
        # The root has no gradient at 0, where all pixels of a channel are 0.
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        share = norms / (norms.mean(axis=-1, keepdims=True) + 1e-6)
        return (gamma * (exact * share) + beta + exact).astype(x.dtype)


class ConvNeXtV2Block(nn.Module):
    """A 7x7 convolution of each channel, normalisation, a hidden layer with a `ResponseNorm`, and added."""

    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        y = layers.conv(x, channels, 7, groups=channels, bias=True, dtype=self.dtype, name="conv_dw")
        y = layers.layer_norm(y, name="norm", dtype=self.dtype)
        y = nn.gelu(layers.dense(y, 4 * channels, name="fc1", dtype=self.dtype), approximate=False)
        return x + layers.dense(ResponseNorm(name="response")(y), channels, name="fc2", dtype=self.dtype)


def convnext_v2(
    *,
    widths: tuple[int, ...] = (192, 384, 768, 1536),
    depths: tuple[int, ...] = (3, 3, 27, 3),
    classes: int = 1000,
    shape: tuple[int, ...] = SHAPE,
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a ConvNeXt V2; the default is ConvNeXtV2-L.

    Args:
      widths, depths: channels and blocks of each group.
      classes: number of logits.
      shape: of one image, (h, w, c); multiples of 32.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if depths and widths are not as many.

    Reference: Woo et al. 2023, arXiv:2301.00808.
    """
    if len(widths) != len(depths):
        raise ValueError(
            f"convnext_v2: there are {len(widths)} widths and {len(depths)} depths, must be as many"
        )
    net = ConvNeXt(widths, depths, classes, block=ConvNeXtV2Block, dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
