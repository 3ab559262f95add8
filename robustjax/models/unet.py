"""U-Nets for images of any size: a segmenter, and the conditional autoencoder of scenes under many lights."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import max_pool
from robustjax.models.cvae import CVAE, from_modules, squashed
from robustjax.models.layers import DType
from robustjax.models.resampling import adaptive_average, resize, stretch
from robustjax.types import Images, Model

WIDTHS = (64, 128, 256, 512, 512)
LATENTS = (128, 64, 32, 16, 16)
GRIDS = ((125, 187), (62, 93), (31, 46), (15, 23), (7, 11))  # the scales of 125 x 187 pixels


class DoubleConv(nn.Module):
    """Twice: a 3x3 convolution, BatchNorm, ReLU."""

    middle: int
    out: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, width in enumerate((self.middle, self.out)):
            x = layers.conv(x, width, 3, bias=True, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(layers.batch_norm(x, train=train, name=f"norm{i}", dtype=self.dtype))
        return x


class Down(nn.Module):
    """Features at every scale, the first at full resolution, each next at half."""

    widths: tuple[int, ...]
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> list[Array]:
        if min(x.shape[1:3]) < 2 ** (len(self.widths) - 1):
            smallest = 2 ** (len(self.widths) - 1)
            raise ValueError(
                f"unet: images have {x.shape[1:3]} pixels, must have {smallest} a side for {len(self.widths)} scales"
            )
        found = []
        for i, width in enumerate(self.widths):
            x = DoubleConv(width, width, self.dtype, name=f"scale{i}")(x if i == 0 else max_pool(x, 2), train)
            found.append(x)
        return found


class Up(nn.Module):
    """From the coarsest features back to full resolution, joined by those of every scale, to `out` channels."""

    widths: tuple[int, ...]
    out: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Array], train: bool = False) -> Array:
        x, scales = features[-1], len(features)
        for i in range(scales - 2, -1, -1):
            skip = features[i]
            x = stretch(x, (2 * x.shape[1], 2 * x.shape[2]))
            high, wide = skip.shape[1] - x.shape[1], skip.shape[2] - x.shape[2]
            x = jnp.pad(x, ((0, 0), (high // 2, high - high // 2), (wide // 2, wide - wide // 2), (0, 0)))
            x = jnp.concatenate([skip, x], axis=-1)
            out = self.widths[max(i - 1, 0)]
            x = DoubleConv(x.shape[-1] // 2, out, self.dtype, name=f"scale{i}")(x, train)
        return layers.conv(x, self.out, 1, bias=True, dtype=self.dtype, name="last")


class Segmenter(nn.Module):
    """Logits of every pixel."""

    classes: int
    widths: tuple[int, ...]
    dtype: DType

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Array:
        features = Down(self.widths, self.dtype, name="down")(x, train)
        return Up(self.widths, self.classes, self.dtype, name="up")(features, train)


class Encoder(nn.Module):
    """Latents of every scale, read off features pooled to a fixed grid."""

    widths: tuple[int, ...]
    latents: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> tuple[Array, Array]:
        means, raws = [], []
        for i, features in enumerate(Down(self.widths, name="down")(x, train)):
            inner = nn.relu(layers.conv(features, 16, 1, bias=True, name=f"narrow{i}"))
            inner = adaptive_average(inner, self.grids[i]).reshape(x.shape[0], -1)
            means.append(layers.linear(inner, self.latents[i], name=f"mean{i}"))
            raws.append(layers.linear(inner, self.latents[i], name=f"log_variance{i}"))
        return jnp.concatenate(means, axis=-1), squashed(jnp.concatenate(raws, axis=-1))


class Decoder(nn.Module):
    """A U-Net over the image with one channel of latents at every scale."""

    widths: tuple[int, ...]
    latents: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Images:
        joined, first = [], 0
        for i, features in enumerate(Down(self.widths, name="down")(x, train)):
            part, first = z[:, first : first + self.latents[i]], first + self.latents[i]
            height, width = self.grids[i]
            drawn = layers.linear(part, height * width, name=f"map{i}").reshape(-1, height, width, 1)
            joined.append(jnp.concatenate([features, resize(drawn, features.shape[1:3])], axis=-1))
        return Up(self.widths, x.shape[-1], name="up")(joined, train)


def segmenter(
    *,
    classes: int,
    shape: tuple[int, ...],
    widths: Sequence[int] = WIDTHS,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a U-Net whose logits are (b, h, w, classes); it runs at any size of at least 2^(scales - 1) pixels.

    Args:
      classes: logits per pixel.
      shape: of one image at initialisation, (h, w, c).
      widths: channels of every scale, from fine to coarse.
      mean, std: normalisation per channel.
      dtype: what the network computes in; parameters and logits are float32.

    Reference: Ronneberger et al. 2015, arXiv:1505.04597, in the bilinear variant with padding of Wong and Kolter
      2020, arXiv:2007.08450: 17,269,668 parameters for 3 channels and 36 classes.
    """
    return from_flax(Segmenter(classes, tuple(widths), dtype), shape=shape, mean=mean, std=std)


def scenes(
    *,
    shape: tuple[int, ...] = (125, 187, 3),
    widths: Sequence[int] = WIDTHS,
    latents: Sequence[int] = LATENTS,
    grids: Sequence[tuple[int, int]] = GRIDS,
) -> CVAE:
    """Build the U-Net autoencoder of scenes under many lights, with latents at every scale.

    The same parameters serve images of any size: features are pooled to `grids` before latents are read off them.

    Args:
      shape: of one image at initialisation, (h, w, c).
      widths: channels of every scale, from fine to coarse.
      latents: how many of each scale.
      grids: to which each scale is pooled, (rows, columns).
    Raises:
      ValueError: if widths, latents and grids differ in length.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: 258,066,597 parameters and 256 latents with these settings.
    """
    if not len(widths) == len(latents) == len(grids):
        raise ValueError(
            f"scenes: {len(widths)} widths, {len(latents)} latents and {len(grids)} grids, must be one each per scale"
        )
    settings = tuple(widths), tuple(latents), tuple((high, wide) for high, wide in grids)
    prior, posterior = (Encoder(*settings) for _ in range(2))
    return from_modules(prior, posterior, Decoder(*settings), dimension=sum(latents), shape=shape)
