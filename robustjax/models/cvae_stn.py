"""A conditional autoencoder that warps: its decoder is five spatial transformers of the image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.cvae import CVAE, from_modules
from robustjax.types import Images

PADDED = (42, 42, 1)  # MNIST with 7 pixels around
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def affine_sample(x: Images, theta: Float[Array, "b 2 3"]) -> Images:
    """Read each image at affinely transformed coordinates, bilinearly, its border continued outwards.

    Coordinates (across, down) run from -1 to 1 between the outer edges: pixel j of w lies at (2j + 1) / w - 1. What
    appears there is read at theta (across, down, 1).
    """
    height, width = x.shape[1:3]
    down, across = ((2.0 * jnp.arange(n, dtype=x.dtype) + 1.0) / n - 1.0 for n in (height, width))
    down, across = jnp.meshgrid(down, across, indexing="ij")
    place = jnp.stack([across, down, jnp.ones_like(across)])
    at = jnp.einsum("bij,jhw->bihw", theta, place, precision=jax.lax.Precision.HIGHEST)
    column = jnp.clip(((at[:, 0] + 1.0) * width - 1.0) / 2.0, 0.0, width - 1.0)
    row = jnp.clip(((at[:, 1] + 1.0) * height - 1.0) / 2.0, 0.0, height - 1.0)
    return jax.vmap(_read)(x, row, column)


def _read(image: Array, row: Array, column: Array) -> Array:
    height, width = image.shape[:2]
    # Never the last pixel: its right neighbour would be outside, and the weight says the same.
    top = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, max(height - 2, 0))
    left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, max(width - 2, 0))
    down, right = (row - top.astype(row.dtype))[..., None], (column - left.astype(column.dtype))[..., None]
    below, beside = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    upper = (1.0 - right) * image[top, left] + right * image[top, beside]
    lower = (1.0 - right) * image[below, left] + right * image[below, beside]
    return (1.0 - down) * upper + down * lower


def _mirrored_conv(x: Array, features: int, *, name: str) -> Array:
    wide = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    return layers.conv(wide, features, 5, padding=0, bias=True, name=name)


class Block(nn.Module):
    """Twice: BatchNorm, ReLU, and a 5x5 convolution over mirrored borders; the number of channels stays."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i in range(2):
            x = nn.relu(layers.batch_norm(x, train=train, name=f"norm{i}"))
            x = _mirrored_conv(x, x.shape[-1], name=f"conv{i}")
        return x


class Encoder(nn.Module):
    """A block, and linear heads on its pixels."""

    latents: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> tuple[Array, Array]:
        x = Block(name="block")(x, train).reshape(x.shape[0], -1)
        heads = [layers.linear(x, self.latents, name=name) for name in ("mean", "log_variance")]
        return heads[0], heads[1]


class Warps(nn.Module):
    """The image under affine maps that are read off a map of the latents, one channel each; at first identities."""

    count: int = 5

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Float[Array, "b h w o"]:
        map_of_z = layers.linear(z, x[0, ..., 0].size, name="map")
        warped = []
        for i in range(self.count):
            inner = map_of_z
            for j, width in enumerate((512, 128)):
                inner = nn.relu(layers.linear(inner, width, name=f"where{i}_{j}"))
            theta = nn.Dense(
                6,
                kernel_init=nn.initializers.zeros,
                bias_init=lambda key, shape, dtype=jnp.float32: jnp.asarray(IDENTITY, dtype),
                name=f"where{i}",
            )(inner)
            warped.append(affine_sample(x, theta.reshape(-1, 2, 3)))
        return jnp.concatenate(warped, axis=-1)


class Decoder(nn.Module):
    """Five warps of the image, a block over them, and one convolution to pixels."""

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Images:
        warped = Warps(name="warps")(x, z)
        return _mirrored_conv(Block(name="block")(warped, train), x.shape[-1], name="pixels")


def mnist_stn(*, shape: tuple[int, ...] = PADDED, latents: int = 128) -> CVAE:
    """Build the autoencoder of spatial transformers for padded digits.

    Args:
      shape: of one image, (h, w, c).
      latents: how many.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: 6,435,084 parameters at 42 x 42 pixels and 128 latents;
      spatial transformers: Jaderberg et al. 2015, arXiv:1506.02025.
    """
    return from_modules(Encoder(latents), Encoder(latents), Decoder(), dimension=latents, shape=shape)
