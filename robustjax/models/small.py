"""Small classifiers: linear, multi-layer perceptron, and the two convolutional networks of MNIST robustness.

Feature taps are named stage0, stage1, ... by depth; the last is what the final linear layer reads.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve, max_pool
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model

MNIST = (28, 28, 1)


class MLP(nn.Module):
    """Flatten, then alternate linear layers and ReLU; without hidden widths it is a linear classifier."""

    classes: int
    widths: tuple[int, ...]
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        x = x.reshape(x.shape[0], -1)
        if not self.widths:
            self.sow("features", "stage0", x)
        for i, width in enumerate(self.widths):
            x = nn.relu(layers.linear(x, width, dtype=self.dtype, name=f"linear{i}"))
            self.sow("features", f"stage{i}", x)
        return layers.linear(x, self.classes, dtype=self.dtype, name="head")


class ConvNetSmall(nn.Module):
    """Strided 4x4 convolutions and a hidden layer."""

    classes: int
    widths: tuple[int, ...]
    hidden: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, features in enumerate(self.widths):
            name = f"conv{i}"
            x = nn.relu(
                layers.conv(x, features, 4, stride=2, padding=1, bias=True, dtype=self.dtype, name=name)
            )
            self.sow("features", f"stage{i}", x)
        return _hidden_and_head(self, x, self.hidden, self.classes, self.dtype)


class PooledConv(nn.Module):
    """A 5x5 convolution, 2x2 max pooling and ReLU.

    Bias and ReLU come after the pooling, on a quarter of the values: a maximum commutes with both, exactly.
    """

    features: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        fan_in = 25 * x.shape[-1]
        kernel = self.param("kernel", layers.fan_in_uniform, (5, 5, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", layers.bias_uniform(fan_in), (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        x = convolve(x, kernel, (1, 1), "SAME")
        return nn.relu(max_pool(x, 2) + bias)


class ConvNet(nn.Module):
    """Two 5x5 convolutions (32, 64), each followed by 2x2 max pooling, and a hidden layer of 1024."""

    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, features in enumerate((32, 64)):
            x = PooledConv(features, self.dtype, name=f"conv{i}")(x)
            self.sow("features", f"stage{i}", x)
        return _hidden_and_head(self, x, 1024, self.classes, self.dtype)


def _hidden_and_head(module: nn.Module, x: Array, width: int, classes: int, dtype: DType) -> Logits:
    x = nn.relu(layers.linear(x.reshape(x.shape[0], -1), width, dtype=dtype, name="hidden"))
    module.sow("features", "stage2", x)
    return layers.linear(x, classes, dtype=dtype, name="head")


def linear(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = MNIST,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a linear classifier: the network on which every attack has a closed form.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel.
      dtype: what the network computes in; parameters and logits are float32.
    """
    return from_flax(MLP(classes, (), dtype), shape=shape, mean=mean, std=std)


def mlp(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = MNIST,
    widths: Sequence[int] = (256, 256),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a multi-layer perceptron with hidden layers of `widths`; other settings as in `linear`."""
    return from_flax(MLP(classes, tuple(widths), dtype), shape=shape, mean=mean, std=std)


def convnet_small(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = MNIST,
    widths: Sequence[int] = (16, 32),
    hidden: int = 100,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the small MNIST network of provable and fast adversarial training; other settings as in `linear`.

    Args:
      widths: of its strided convolutions.
      hidden: width of the linear layer behind them.

    Reference: Wong and Kolter 2018, arXiv:1711.00851. With widths (32, 64) and 1024 hidden units it is the MNIST
      classifier of Wong and Kolter 2020, arXiv:2007.08450.
    """
    network = ConvNetSmall(classes, tuple(widths), hidden, dtype)
    return from_flax(network, shape=shape, mean=mean, std=std)


def convnet(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = MNIST,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the MNIST network of adversarial training; settings as in `linear`.

    Reference: Madry et al. 2018, arXiv:1706.06083; initialised as PyTorch does, not by truncated normals.
    """
    return from_flax(ConvNet(classes, dtype), shape=shape, mean=mean, std=std)
