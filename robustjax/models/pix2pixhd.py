"""The generators of pix2pixHD: a global one, and a local one around it for large images."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve
from robustjax.models.critics import halved, instance_norm
from robustjax.models.layers import Doubling
from robustjax.models.translator import narrow
from robustjax.types import Images, Model


def mirrored(x: Array, features: int, kernel: int, *, name: str) -> Array:
    """Convolve what is continued by its mirror image, without changing the size; the bias as PyTorch draws it."""
    pad = kernel // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    return _conv(x, features, kernel, name=name)


def lit(x: Array) -> Array:
    """Normalise each map on its own, then ReLU."""
    return nn.relu(instance_norm(x))


def halving(x: Array, features: int, *, name: str) -> Array:
    """Convolve at stride 2, normalise, ReLU."""
    return lit(_conv(x, features, 3, stride=2, padding=1, name=name))


def doubling(x: Array, features: int, *, name: str) -> Array:
    """Convolve, transposed, to twice the size, normalise, ReLU."""
    drawn = layers.bias_uniform(9 * features)
    return lit(Doubling(features, 3, bias=True, kernel_init=narrow, bias_init=drawn, name=name)(x))


class Residual(nn.Module):
    """Two mirrored 3x3 convolutions, added to what came in."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inner = lit(mirrored(x, x.shape[-1], 3, name="conv0"))
        return x + instance_norm(mirrored(inner, x.shape[-1], 3, name="conv1"))


class Trunk(nn.Module):
    """The global generator up to its last features, `width` maps of full size."""

    width: int
    halvings: int
    blocks: int

    @nn.compact
    def __call__(self, x: Images) -> Array:
        x = lit(mirrored(x, self.width, 7, name="stem"))
        for i in range(self.halvings):
            x = halving(x, self.width * 2 ** (i + 1), name=f"down{i}")
        for i in range(self.blocks):
            x = Residual(name=f"block{i}")(x)
        for i in reversed(range(self.halvings)):
            x = doubling(x, self.width * 2**i, name=f"up{i}")
        return x


class Global(nn.Module):
    """The global generator; from [-1, 1] to [0, 1]."""

    width: int
    halvings: int
    blocks: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        del train
        _check("global_generator", x.shape[1:], self.halvings)  # at another size than it was built for
        inner = Trunk(self.width, self.halvings, self.blocks, name="trunk")(x)
        return _painted(inner, x.shape[-1])


class Local(nn.Module):
    """A generator of full size that takes over the features of a global one of half the size."""

    width: int
    halvings: int
    blocks: int
    local_blocks: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        del train
        _check("local_generator", x.shape[1:], self.halvings + 1)
        coarse = Trunk(2 * self.width, self.halvings, self.blocks, name="trunk")(halved(x))
        fine = lit(mirrored(x, self.width, 7, name="stem"))
        inner = halving(fine, 2 * self.width, name="down") + coarse
        for i in range(self.local_blocks):
            inner = Residual(name=f"block{i}")(inner)
        return _painted(doubling(inner, self.width, name="up"), x.shape[-1])


def global_generator(*, shape: tuple[int, ...], width: int = 64, halvings: int = 4, blocks: int = 9) -> Model:
    """Build the global generator of pix2pixHD, deterministic and per example: it normalises each image on its own.

    Args:
      shape: of one image, (h, w, c); sides are multiples of 2^halvings.
      width: channels after the first convolution, ngf; they double with every halving.
      halvings: how often. Maps in the middle must keep several pixels, since those of one pixel normalise to 0.
      blocks: residual blocks in the middle.
    Raises:
      ValueError: if a side is not a multiple, or fewer than 4 pixels are left in the middle, here and for images of
        another size that are given to the network.

    Reference: Wang et al. 2018, arXiv:1711.11585: 182,443,267 parameters for 3 channels with these settings.
    """
    _check("global_generator", shape, halvings)
    return _translating(Global(width, halvings, blocks), shape)


def local_generator(
    *,
    shape: tuple[int, ...],
    width: int = 32,
    halvings: int = 3,
    blocks: int = 9,
    local_blocks: int = 3,
) -> Model:
    """Build the local enhancer of pix2pixHD around a global generator of half the size, for 512 pixels and more.

    Args:
      shape: of one image, (h, w, c); sides are multiples of 2^(halvings + 1).
      width: channels of the first convolution at full size; the global generator has twice as many.
      halvings, blocks: of the global generator.
      local_blocks: residual blocks at half size.
    Raises:
      ValueError: as for `global_generator`.

    Reference: Wang et al. 2018, arXiv:1711.11585, with the defaults of their code.
    """
    _check("local_generator", shape, halvings + 1)
    return _translating(Local(width, halvings, blocks, local_blocks), shape)


def _conv(x: Array, features: int, kernel: int, *, name: str, stride: int = 1, padding: int = 0) -> Array:
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        kernel_init=narrow,
        bias_init=layers.bias_uniform(kernel * kernel * x.shape[-1]),
        conv_general_dilated=convolve,
        name=name,
    )(x)


def _painted(x: Array, channels: int) -> Images:
    return 0.5 * (jnp.tanh(mirrored(x, channels, 7, name="last")) + 1.0)


def _translating(module: nn.Module, shape: tuple[int, ...]) -> Model:
    half = [0.5] * shape[-1]
    return from_flax(module, shape=shape, mean=half, std=half)


def _check(who: str, shape: tuple[int, ...], halvings: int) -> None:
    if any(side % 2**halvings for side in shape[:2]):
        raise ValueError(f"{who}: images have {shape[:2]} pixels, must be multiples of {2**halvings}")
    if min(shape[:2]) < 4 * 2**halvings:
        raise ValueError(f"{who}: images have {shape[:2]} pixels, must leave 4 after {halvings} halvings")
