"""Critics of pairs: which patches of a translated image look real beside the image that it was made from.

A critic is a Model over pairs of images, side by side in their channels. It gives, for every scale, the feature maps
of all its layers; the last one holds a logit for every patch.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve
from robustjax.models.translator import narrow, normed
from robustjax.types import Images, Model

CriticMaps = tuple[tuple[Array, ...], ...]  # of every scale, the maps of every layer, logits last


class Patches(nn.Module):
    """4x4 convolutions: `layers` of stride 2 and two of stride 1, the last to one logit per patch."""

    width: int
    layers: int
    padding: int
    instance: bool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, ...]:
        maps = []
        for i in range(self.layers + 2):
            last = i == self.layers + 1
            stride = 2 if i < self.layers else 1
            plain = i == 0 or last
            x = nn.Conv(
                1 if last else self.width * min(2**i, 8), (4, 4), strides=(stride, stride),
                padding=((self.padding, self.padding),) * 2, use_bias=plain or self.instance,
                kernel_init=narrow, conv_general_dilated=convolve, name=f"conv{i}",
            )(x)  # fmt: skip
            if not plain:
                x = instance_norm(x) if self.instance else normed(x, train=train, name=f"norm{i}")
            x = x if last else nn.leaky_relu(x, 0.2)
            maps.append(x)
        return tuple(maps)


class Scales(nn.Module):
    """The same critic, with weights of its own, at full size, half size, and so on."""

    count: int
    width: int
    layers: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> CriticMaps:
        found = []
        for i in range(self.count):
            found.append(Patches(self.width, self.layers, 2, True, name=f"scale{i}")(x, train))
            x = halved(x)
        return tuple(found)


class One(nn.Module):
    """A single critic, as a list of one scale."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> CriticMaps:
        return (Patches(self.width, self.layers, 1, False, name="scale0")(x, train),)


def instance_norm(x: Array) -> Array:
    """Normalise every map of every example on its own, without parameters; a map of one pixel becomes 0."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    variance = jnp.square(x - mean).mean(axis=(1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def halved(x: Array) -> Array:
    """Average over 3x3 windows at stride 2; pixels beyond the border do not count."""
    pads: Any = ((1, 1), (1, 1))
    return nn.avg_pool(x, (3, 3), (2, 2), pads, count_include_pad=False)


def patch_critic(*, shape: tuple[int, ...], width: int = 64, layers: int = 3) -> Model:
    """Build the critic of pix2pix, whose logits see patches of 16, 34, 70, 142 pixels for 1, 2, 3, 4 layers.

    70 pixels are more than small images have: take one or two layers there.

    Args:
      shape: of one image, (h, w, c); the critic reads pairs (h, w, 2 c).
      width: channels after the first convolution, ndf; they double up to 8 width.
      layers: convolutions of stride 2.
    Raises:
      ValueError: if there are no layers, or the image is too small for them.

    Reference: Isola et al. 2017, arXiv:1611.07004, with BatchNorm: 2,768,705 parameters for two images of 3 channels.
    """
    _check("patch_critic", shape, layers, smallest=2 ** (layers + 1) + 2**layers if layers > 1 else 6)
    return _of_pairs(One(width, layers), shape)


def multiscale_critic(*, shape: tuple[int, ...], width: int = 64, layers: int = 3, scales: int = 2) -> Model:
    """Build the critics of pix2pixHD, the same at full size, half size and so on, with instance normalisation.

    Args:
      shape, width, layers: as in `patch_critic`.
      scales: how many critics.
    Raises:
      ValueError: if there are no layers or no scales.

    Reference: Wang et al. 2018, arXiv:1711.11585; padding 2 and two scales as in the authors' code: 2,767,809
      parameters each for two images of 3 channels.
    """
    _check("multiscale_critic", shape, layers, smallest=1)
    if scales < 1:
        raise ValueError(f"multiscale_critic: scales is {scales}, must be at least 1")
    return _of_pairs(Scales(scales, width, layers), shape)


def together(first: Images, second: Images) -> Array:
    """Lay pairs of images side by side in their channels."""
    return jnp.concatenate([first, second], axis=-1)


def _of_pairs(module: nn.Module, shape: tuple[int, ...]) -> Model:
    channels = 2 * shape[-1]
    return from_flax(module, shape=(*shape[:2], channels), mean=[0.5] * channels, std=[0.5] * channels)


def _check(who: str, shape: tuple[int, ...], layers: int, *, smallest: int) -> None:
    if layers < 1:
        raise ValueError(f"{who}: layers is {layers}, must be at least 1")
    if min(shape[:2]) < smallest:
        raise ValueError(f"{who}: images have {shape[:2]} pixels, must have {smallest} for {layers} layers")
