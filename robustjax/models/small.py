"""Small classifiers: linear, multi-layer perceptron, and convolutional networks with a hidden layer.

Feature taps are named stage0, stage1, ... by depth; the last is what the final linear layer reads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import convolve, halved, max_pool
from robustjax.models.layers import DType, Initializer
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


class Initial(NamedTuple):
    """How weights are drawn: kernels, and biases from the number of inputs."""

    kernel: Initializer
    bias: Callable[[int], Initializer]


PYTORCH = Initial(layers.fan_in_uniform, layers.bias_uniform)
LECUN = Initial(nn.initializers.lecun_normal(), lambda fan_in: nn.initializers.zeros)


class Conv(nn.Module):
    """A convolution with bias and ReLU, and max pooling of disjoint windows between them.

    Bias and ReLU come after the pooling, on a quarter of the values: a maximum commutes with both, exactly.
    """

    features: int
    kernel: int
    stride: int = 1
    pool: int = 1
    many: bool = False  # networks at once: for 3x3 kernels of stride 2
    initial: Initial = PYTORCH
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        side, channels = self.kernel, x.shape[-1]
        kernel = self.param("kernel", self.initial.kernel, (side, side, channels, self.features), jnp.float32)
        bias = self.param("bias", self.initial.bias(side * side * channels), (self.features,), jnp.float32)
        x = x.astype(self.dtype)
        if self.many:
            x = halved(x, kernel)
        else:
            pad = (side - 1) // 2
            x = convolve(x, kernel, (self.stride, self.stride), ((pad, pad), (pad, pad)))
        return nn.relu(layers.with_bias(x if self.pool == 1 else max_pool(x, self.pool), bias))


class ConvNet(nn.Module):
    """Convolutions with ReLU, a hidden layer and a linear one."""

    classes: int
    convs: tuple[Callable[..., Conv], ...]
    hidden: int
    pool: int = 1  # windows of which the maximum is taken before the hidden layer
    initial: Initial = PYTORCH
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, conv in enumerate(self.convs):
            x = conv(initial=self.initial, dtype=self.dtype, name=f"conv{i}")(x)
            self.sow("features", f"stage{i}", x)
        x = x if self.pool == 1 else max_pool(x, self.pool)
        x = nn.relu(_dense(x.reshape(x.shape[0], -1), self.hidden, "hidden", self.initial, self.dtype))
        self.sow("features", f"stage{len(self.convs)}", x)
        return _dense(x, self.classes, "head", self.initial, self.dtype)


def _dense(x: Array, features: int, name: str, initial: Initial, dtype: DType) -> Array:
    # Not a method: flax would write its name into the names of operations, by which profiles are read.
    bias = initial.bias(x.shape[-1])
    return layers.Affine(features, initial.kernel, bias, dtype, name=name)(x)


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
    convs = tuple(partial(Conv, width, 4, stride=2) for width in widths)
    return from_flax(ConvNet(classes, convs, hidden, dtype=dtype), shape=shape, mean=mean, std=std)


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
    convs = tuple(partial(Conv, width, 5, pool=2) for width in (32, 64))
    return from_flax(ConvNet(classes, convs, 1024, dtype=dtype), shape=shape, mean=mean, std=std)


def tiny(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (8, 8, 1),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a network for images of 8 x 8: 3x3 convolutions to 32 and, of stride 2, 64 channels; as in `linear`."""
    convs = partial(Conv, 32, 3), partial(Conv, 64, 3, stride=2)
    return from_flax(ConvNet(classes, convs, 128, dtype=dtype), shape=shape, mean=mean, std=std)


def pooled(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (16, 16, 1),
    widths: tuple[int, int] = (16, 32),
    hidden: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a network for images of 16 x 16; settings as in `convnet_small`.

    Two 3x3 convolutions, the second of stride 2, and 2x2 max pooling before the hidden layer.
    """
    convs = partial(Conv, widths[0], 3), partial(Conv, widths[1], 3, stride=2)
    return from_flax(ConvNet(classes, convs, hidden, 2, dtype=dtype), shape=shape, mean=mean, std=std)


def strided(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (16, 16, 3),
    widths: Sequence[int] = (24, 48, 64),
    hidden: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a network of strided 3x3 convolutions, fast with many networks at once, as `vmap` over seeds gives them.

    Weights are drawn with variance 1 / fan in. PyTorch's third of that, which the other networks have, is too little
    here: adversarial training then often ends in a network that always gives the same answer. Settings as in
    `convnet_small`.
    """
    convs = tuple(partial(Conv, width, 3, stride=2, many=True) for width in widths)
    network = ConvNet(classes, convs, hidden, initial=LECUN, dtype=dtype)
    return from_flax(network, shape=shape, mean=mean, std=std)
