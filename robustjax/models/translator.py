"""Translators: networks from images to images in [0, 1], to bring OOD images back to ID ones.

The generator of pix2pix for sizes from 8 to 256 pixels, and a denoising autoencoder without skip connections.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve
from robustjax.models.layers import Doubling
from robustjax.types import Images, Model

narrow = nn.initializers.normal(0.02)  # weights of the pix2pix family: N(0, 0.02)


def around_one(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Array:
    """Draw scales of BatchNorm from N(1, 0.02)."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def halving(x: Array, features: int, *, bias: bool, name: str) -> Array:
    """Convolve: kernel 4, stride 2, padding 1, weights from N(0, 0.02)."""
    return nn.Conv(
        features, (4, 4), strides=(2, 2), padding=((1, 1), (1, 1)), use_bias=bias, kernel_init=narrow,
        conv_general_dilated=convolve, name=name,
    )(x)  # fmt: skip


def normed(x: Array, *, train: bool, name: str) -> Array:
    """Normalise by the batch (train) or by running statistics, scales drawn around 1."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, scale_init=around_one, name=name
    )(x)


class UNet(nn.Module):
    """Halve `depth` times and double as often, joined at every size; from [-1, 1] to [0, 1]."""

    width: int
    depth: int
    residual: bool
    outer_skip: bool
    dropout: bool

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        widths = [self.width * min(2**i, 8) for i in range(self.depth)]
        size, channels = x.shape[1:3], x.shape[3]
        x = inner = _padded(x, 2**self.depth)
        skips = []
        for i, width in enumerate(widths):
            inner = halving(
                inner if i == 0 else nn.leaky_relu(inner, 0.2), width, bias=False, name=f"down{i}"
            )
            if 0 < i < self.depth - 1:
                inner = normed(inner, train=train, name=f"down_norm{i}")
            skips.append(inner)
        for i in reversed(range(self.depth)):
            out = channels if i == 0 else widths[i - 1]
            inner = Doubling(out, 4, bias=i == 0, kernel_init=narrow, name=f"up{i}")(nn.relu(inner))
            if i > 0:
                inner = normed(inner, train=train, name=f"up_norm{i}")
                if self.dropout and 4 <= i < self.depth - 1:
                    inner = nn.Dropout(0.5, deterministic=not train)(inner)
                if i > 1 or self.outer_skip:
                    inner = jnp.concatenate([skips[i - 1], inner], axis=-1)
        inner = jnp.tanh(inner)
        inner = 0.5 * (inner + 1.0) if not self.residual else jnp.clip(0.5 * (x + 1.0) + inner, 0.0, 1.0)
        return _cropped(inner, size)


class Autoencoder(nn.Module):
    """Halve, double back through few channels, from [-1, 1] to [0, 1]; nothing goes around the middle."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        size, channels = x.shape[1:3], x.shape[3]
        x = _padded(x, 2 ** len(self.widths))
        for i, width in enumerate(self.widths):
            x = nn.relu(
                normed(halving(x, width, bias=False, name=f"down{i}"), train=train, name=f"down_norm{i}")
            )
        for i in reversed(range(len(self.widths))):
            out = channels if i == 0 else self.widths[i - 1]
            x = Doubling(out, 4, bias=i == 0, kernel_init=narrow, name=f"up{i}")(x)
            if i > 0:
                x = nn.relu(normed(x, train=train, name=f"up_norm{i}"))
        return _cropped(nn.sigmoid(x), size)


def unet_translator(
    *,
    shape: tuple[int, ...],
    width: int = 64,
    depth: int | None = None,
    residual: bool = False,
    outer_skip: bool = True,
    dropout: bool = True,
) -> Model:
    """Build the generator of pix2pix: T(x) = (tanh(net(2 x - 1)) + 1) / 2, deterministic in evaluation.

    Images are padded by black to a multiple of 2^depth pixels, 28 to 32 at depth 5, and cut back.

    Args:
      shape: of one image, (h, w, c).
      width: channels after the first convolution, ngf; they double up to 8 width.
      depth: halvings; as many as lead to 1 pixel by default: 8 for 256 pixels, 5 for 32 and 28, 3 for 8.
      residual: add the tanh to the image and clip, instead of painting the image anew.
      outer_skip: join the features of half size, too. Without, no path of high resolution carries pixels over.
      dropout: in training, half of what the inner blocks give, those of index 4 to depth - 2. At depths up to 5 there
        are none.
    Returns:
      A Model from images to images, with running statistics of BatchNorm.
    Raises:
      ValueError: if the depth is less than 2, or a side would shrink below one pixel.

    Reference: Isola et al. 2017, arXiv:1611.07004, as the authors' PyTorch code has it: 54,413,955 parameters for
      256 pixels. In evaluation there is neither dropout nor a statistic of the batch, both of which pix2pix keeps.
    """
    longest = max(shape[:2])
    depth = max(longest - 1, 1).bit_length() if depth is None else depth
    if depth < 2 or 2 ** (depth - 1) >= longest:
        raise ValueError(
            f"unet_translator: depth is {depth}, must be at least 2 and leave a pixel of {longest}"
        )
    return _translating(UNet(width, depth, residual, outer_skip, dropout), shape)


def autoencoder(*, shape: tuple[int, ...], widths: Sequence[int] = (32, 64)) -> Model:
    """Build a denoising autoencoder: what it gives comes through (h / 2^n, w / 2^n, widths[-1]) numbers only.

    Args:
      shape: of one image, (h, w, c).
      widths: channels after every halving.
    Raises:
      ValueError: if there are no widths.
    """
    if not widths:
        raise ValueError("autoencoder: widths is empty, must hold at least one")
    return _translating(Autoencoder(tuple(widths)), shape)


def _translating(module: nn.Module, shape: tuple[int, ...]) -> Model:
    half = [0.5] * shape[-1]
    return from_flax(module, shape=shape, mean=half, std=half)


def _padded(x: Array, multiple: int) -> Array:
    """Surround images in [-1, 1] by black up to a multiple of some number of pixels."""
    missing = [-side % multiple for side in x.shape[1:3]]
    pads = [(m // 2, m - m // 2) for m in missing]
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-1.0)


def _cropped(x: Array, size: tuple[int, ...]) -> Array:
    top, left = ((have - keep) // 2 for have, keep in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]
