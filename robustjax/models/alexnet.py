"""AlexNet, in torchvision's form, for large images.

Feature taps: stage0 to stage4 are the convolutions after their ReLU, and pooling where it follows; stage5 and stage6
the hidden layers, the last of which the linear layer reads.
"""

from collections.abc import Sequence
from functools import reduce

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.models.resampling import adaptive_average
from robustjax.types import Images, Logits, Model

# Channels, kernel, stride and padding of each convolution, and whether pooling follows.
CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nn.Module):
    """Five convolutions with ReLU, three of them pooled, the mean of 6x6 windows, two hidden layers, linear."""

    hidden: int
    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Logits:
        for i, (width, kernel, stride, pad, pooled) in enumerate(CONVOLUTIONS):
            settings = {"stride": stride, "padding": pad, "bias": True, "dtype": self.dtype}
            x = nn.relu(layers.conv(x, width, kernel, name=f"conv{i}", **settings))
            x = _pooled(x) if pooled else x
            self.sow("features", f"stage{i}", x)
        x = adaptive_average(x, (6, 6)).transpose(0, 3, 1, 2)  # channels first, as its weights are
        x = x.reshape(len(x), -1)
        for i in range(2):
            x = nn.relu(layers.linear(x, self.hidden, dtype=self.dtype, name=f"fc{i}"))
            self.sow("features", f"stage{len(CONVOLUTIONS) + i}", x)
        return layers.linear(x, self.classes, dtype=self.dtype, name="head")


def _pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Take the maximum of 3x3 windows at stride 2, those that lie within the image."""
    for axis in (1, 2):
        count = (x.shape[axis] - 1) // 2
        slices = [x[(slice(None),) * axis + (slice(i, i + 2 * count - 1, 2),)] for i in range(3)]
        x = reduce(jnp.maximum, slices)
    return x


def alexnet(
    *,
    hidden: int = 4096,
    classes: int = 1000,
    shape: tuple[int, ...] = (224, 224, 3),
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
) -> Model:
    """Build an AlexNet: 61,100,840 parameters.

    Args:
      hidden: units of each of the two hidden layers.
      classes: number of logits.
      shape: of one image, (h, w, c), with sides of 63 pixels or more.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters and logits are float32.
    Raises:
      ValueError: for smaller images.

    Reference: Krizhevsky 2014, arXiv:1404.5997, as torchvision's alexnet; without the dropout of its training.
    """
    if min(shape[:2]) < 63:
        raise ValueError(f"alexnet: shape is {shape}, must have sides of at least 63")
    return from_flax(AlexNet(hidden, classes, dtype), shape=shape, mean=mean, std=std)
