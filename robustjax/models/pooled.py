"""A small classifier for enlarged digits, 16 x 16 pixels: the one that translation is tried on."""

from collections.abc import Sequence

import flax.linen as nn

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.cpu import max_pool
from robustjax.types import Images, Logits, Model


class Pooled(nn.Module):
    """Two 3x3 convolutions, the second of stride 2, 2x2 max pooling, and a hidden layer."""

    classes: int
    widths: tuple[int, int]
    hidden: int

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        for i, width in enumerate(self.widths):
            x = nn.relu(layers.conv(x, width, 3, stride=1 + i, bias=True, name=f"conv{i}"))
            self.sow("features", f"stage{i}", x)
        x = max_pool(x, 2)
        x = nn.relu(layers.linear(x.reshape(x.shape[0], -1), self.hidden, name="hidden"))
        self.sow("features", "stage2", x)
        return layers.linear(x, self.classes, name="head")


def pooled(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (16, 16, 1),
    widths: tuple[int, int] = (16, 32),
    hidden: int = 128,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Build the network.

    Args:
      classes: number of logits.
      shape: of one image, (h, w, c).
      widths: channels of each convolution.
      hidden: width of the layer that the last one reads.
      mean, std: normalisation per channel.
    """
    return from_flax(Pooled(classes, widths, hidden), shape=shape, mean=mean, std=std)
