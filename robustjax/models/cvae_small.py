"""Small conditional autoencoders: fully connected ones, and the convolutional one for MNIST."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.cpu import max_pool
from robustjax.models.cvae import CVAE, from_modules, squashed
from robustjax.models.small import MNIST
from robustjax.types import Images


class DenseEncoder(nn.Module):
    """Flatten, hidden layers with ReLU, and one head each for mean and log-variance."""

    widths: tuple[int, ...]
    latents: int
    bounded: bool

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> tuple[Array, Array]:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.relu(layers.linear(x, width, name=f"linear{i}"))
        raw = layers.linear(x, self.latents, name="log_variance")
        return layers.linear(x, self.latents, name="mean"), squashed(raw) if self.bounded else raw


class DenseDecoder(nn.Module):
    """Image and latents side by side, hidden layers with ReLU, and a layer of pixels."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Images:
        inner = jnp.concatenate([x.reshape(x.shape[0], -1), z], axis=-1)
        for i, width in enumerate(self.widths):
            inner = nn.relu(layers.linear(inner, width, name=f"linear{i}"))
        return layers.linear(inner, x[0].size, name="pixels").reshape(x.shape)


class ConvEncoder(nn.Module):
    """Two convolutions (32, 64), each with 2x2 max pooling, and convolutional heads of 128 channels."""

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> tuple[Array, Array]:
        for i, features in enumerate((32, 64)):
            # ReLU and maximum commute.
            x = nn.relu(max_pool(layers.conv(x, features, 3, bias=True, name=f"conv{i}"), 2))
        heads = [layers.conv(x, 128, 3, bias=True, name=name) for name in ("mean", "log_variance")]
        return heads[0], heads[1]


class ConvDecoder(nn.Module):
    """From a quarter of the side up, the image joining at every scale."""

    @nn.compact
    def __call__(self, x: Images, z: Float[Array, "b k"], train: bool = False) -> Images:
        b, h, w, _ = x.shape
        inner = z.reshape(b, h // 4, w // 4, -1)
        for i, (stride, features) in enumerate(((4, 64), (2, 32))):
            seen = layers.conv(x, 1, 1, stride=stride, bias=True, name=f"seen{i}")
            inner = jnp.concatenate([seen, inner], axis=-1)
            inner = nn.relu(layers.conv(inner, features, 3, bias=True, name=f"conv{i}"))
            inner = inner.repeat(2, axis=1).repeat(2, axis=2)
        return layers.conv(jnp.concatenate([x, inner], axis=-1), x.shape[-1], 3, bias=True, name="pixels")


def dense(
    *,
    shape: tuple[int, ...] = MNIST,
    latents: int = 16,
    encoder: Sequence[int] = (128, 128),
    decoder: Sequence[int] = (256, 256),
) -> CVAE:
    """Build fully connected encoders and decoder, with log-variances kept between ln 1e-3 and ln 10.

    Args:
      shape: of one image, (h, w, c).
      latents: how many.
      encoder, decoder: widths of the hidden layers.
    """
    prior, posterior = (DenseEncoder(tuple(encoder), latents, True) for _ in range(2))
    return from_modules(prior, posterior, DenseDecoder(tuple(decoder)), dimension=latents, shape=shape)


def mnist_dense() -> CVAE:
    """Build the fully connected autoencoder of 784 latents for 28 x 28 images.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: 6,152,832 parameters.
    """
    prior, posterior = (DenseEncoder((784,), 784, False) for _ in range(2))
    return from_modules(prior, posterior, DenseDecoder((784,)), dimension=784, shape=MNIST)


def mnist_conv() -> CVAE:
    """Build the convolutional autoencoder of 7 x 7 x 128 latents for 28 x 28 images.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: 426,766 parameters.
    """
    return from_modules(ConvEncoder(), ConvEncoder(), ConvDecoder(), dimension=7 * 7 * 128, shape=MNIST)
