"""Encoders whose features are learned without labels: an encoder, and a head that only training sees.

`apply` gives what the head makes of images, as the contrastive losses want it, not yet of unit length; `encoded` gives
the features before the head, as detectors want them.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.resnet import CIFAR, BasicBlock, Bottleneck, ResNet
from robustjax.types import Images, Model, Params, State


class SmallEncoder(nn.Module):
    """3x3 convolutions of stride 2 with BatchNorm, averaged over pixels, and a head of two linear layers."""

    widths: tuple[int, ...]
    projection: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Float[Array, "b p"]:
        for i, width in enumerate(self.widths):
            x = layers.conv(x, width, 3, stride=2, name=f"conv{i}")
            x = nn.relu(layers.batch_norm(x, train=train, name=f"norm{i}"))
            self.sow("features", f"stage{i}", x)
        x = x.mean(axis=(1, 2))
        x = nn.relu(layers.linear(x, x.shape[-1], name="hidden"))
        return layers.linear(x, self.projection, name="head")


class ProjectedResNet(nn.Module):
    """A residual network whose last layer is the first one of the head: linear, ReLU, linear."""

    block: Callable[..., nn.Module]
    depths: tuple[int, ...]
    features: int
    projection: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Float[Array, "b p"]:
        x = ResNet(self.block, self.depths, self.features, name="trunk")(x, train)
        return layers.linear(nn.relu(x), self.projection, name="head")


def small_encoder(
    *,
    shape: tuple[int, ...],
    widths: Sequence[int] = (32, 64, 128),
    projection: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Build a small encoder with BatchNorm, for small grey images: features of widths[-1] numbers.

    Normalisation by running statistics matters: with one that sees a single image, such as GroupNorm without biases,
    a darker image has the features of the bright one.

    Args:
      shape: of one image, (h, w, c).
      widths: channels of each convolution.
      projection: numbers that the head gives.
      mean, std: normalisation per channel.
    """
    return from_flax(SmallEncoder(tuple(widths), projection), shape=shape, mean=mean, std=std)


def resnet18_encoder(
    *,
    shape: tuple[int, ...] = CIFAR,
    projection: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Build a ResNet-18 with a head: 512 features.

    Args:
      shape, mean, std: as in `resnet.resnet18`.
      projection: numbers that the head gives.

    Reference: Sehwag, Chiang and Mittal 2021, arXiv:2103.12051, after Chen et al. 2020, arXiv:2002.05709.
    """
    module = ProjectedResNet(BasicBlock, (2, 2, 2, 2), 512, projection)
    return from_flax(module, shape=shape, mean=mean, std=std)


def resnet50_encoder(
    *,
    shape: tuple[int, ...] = CIFAR,
    projection: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Build a ResNet-50 with a head: 2048 features; settings and reference as in `resnet18_encoder`."""
    module = ProjectedResNet(Bottleneck, (3, 4, 6, 3), 2048, projection)
    return from_flax(module, shape=shape, mean=mean, std=std)


def encoded(model: Model, params: Params, state: State) -> Callable[[Images], Float[Array, "b d"]]:
    """Give the features before the head, or before the last layer of a classifier: images -> (b, d).

    Differentiable, in evaluation mode: one image at a time or a thousand, the features are the same.
    """

    def features(x: Images) -> Float[Array, "b d"]:
        taps = model.features(params, state, x)
        return taps[max(taps)].astype(jnp.float32)

    return features
