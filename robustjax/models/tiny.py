"""A convolutional network for images of 8 x 8: the one that small experiments with outliers are made with."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.types import Images, Logits, Model


class Tiny(nn.Module):
    """Two 3x3 convolutions (32, then 64 of stride 2) and a hidden layer of 128, without normalisation."""

    classes: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, (features, stride) in enumerate(((32, 1), (64, 2))):
            x = layers.conv(
                x, features, 3, stride=stride, padding=1, bias=True, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(x)
            self.sow("features", f"stage{i}", x)
        x = nn.relu(layers.linear(x.reshape(x.shape[0], -1), 128, dtype=self.dtype, name="hidden"))
        self.sow("features", "stage2", x)
        return layers.linear(x, self.classes, dtype=self.dtype, name="head")


def tiny(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (8, 8, 1),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the network.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c).
      mean, std: normalisation per channel.
      dtype: what the network computes in; parameters and logits are float32.
    """
    return from_flax(Tiny(classes, dtype), shape=shape, mean=mean, std=std)
