"""The conditional autoencoder for CIFAR-10: residual networks at one resolution, of pixels or blocks of them."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.cvae import CVAE, from_modules, squashed
from robustjax.types import Images


class Bottleneck(nn.Module):
    """A pre-activation residual block that is narrow in the middle."""

    wide: int
    narrow: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        inner = x
        for i, width in enumerate((self.narrow, self.wide)):
            inner = nn.relu(layers.batch_norm(inner, train=train, name=f"norm{i}"))
            inner = layers.conv(inner, width, 3, name=f"conv{i}")
        return x + inner


class Trunk(nn.Module):
    """A convolution, residual blocks, and a convolution to `out` channels, all at full resolution."""

    out: int
    wide: int
    narrow: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = layers.conv(x, self.wide, 3, name="stem")
        for i in range(self.blocks):
            x = Bottleneck(self.wide, self.narrow, name=f"block{i}")(x, train)
        x = nn.relu(layers.batch_norm(x, train=train, name="norm"))
        return layers.conv(x, self.out, 3, name="last")


class Encoder(nn.Module):
    """A trunk to a few channels, and linear heads on its pixels."""

    latents: int
    wide: int
    narrow: int
    blocks: int
    side: int = 1

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> tuple[Array, Array]:
        x = layers.blocks_of_pixels(x, self.side)
        x = Trunk(self.narrow, self.wide, self.narrow, self.blocks, name="trunk")(x, train)
        x = nn.relu(layers.batch_norm(x, train=train, name="norm")).reshape(x.shape[0], -1)
        mean = layers.linear(x, self.latents, name="mean")
        return mean, squashed(layers.linear(x, self.latents, name="log_variance"))


class Decoder(nn.Module):
    """The latents as one more channel of the image, and a trunk to pixels."""

    wide: int
    narrow: int
    blocks: int
    side: int = 1

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Images:
        x = layers.blocks_of_pixels(x, self.side)
        drawn = layers.linear(z, x[0, ..., 0].size, name="map").reshape(*x.shape[:3], 1)
        trunk = Trunk(x.shape[-1], self.wide, self.narrow, self.blocks, name="trunk")
        return layers.pixels_of_blocks(trunk(jnp.concatenate([x, drawn], axis=-1), train), self.side)


def rectangle(
    *,
    shape: tuple[int, ...] = (32, 32, 3),
    latents: int = 512,
    wide: int = 64,
    narrow: int = 16,
    blocks: int = 4,
    side: int = 1,
) -> CVAE:
    """Build the autoencoder for CIFAR-10; its log-variances stay between ln 1e-3 and ln 10.

    Args:
      shape: of one image, (h, w, c).
      latents: how many.
      wide, narrow: channels between and inside residual blocks.
      blocks: per network.
      side: of the blocks of pixels that the networks see as one pixel; divides h and w.

    Raises:
      ValueError: if the blocks do not fit the image.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: 34,332,992 parameters with these settings.
    """
    if side < 1 or shape[0] % side or shape[1] % side:
        raise ValueError(f"rectangle: side is {side} and shape {shape}, must divide height and width")
    prior, posterior = (Encoder(latents, wide, narrow, blocks, side) for _ in range(2))
    return from_modules(prior, posterior, Decoder(wide, narrow, blocks, side), dimension=latents, shape=shape)
