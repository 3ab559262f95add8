"""Swin, a transformer whose attention is within windows that are shifted in every second block.

Feature taps: stage0 are the patches, stage1 to stage4 the groups of blocks, stage5 the mean over the normalised pixels,
which the linear layer reads.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.normalisation import IMAGENET
from robustjax.types import Images, Logits, Model

PATCH = 4


class WindowBlock(nn.Module):
    """Self-attention within windows and a hidden layer of 4 times the channels, each normalised before and added."""

    heads: int
    window: int
    shift: int
    eps: float
    sparse: bool
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        height, width, channels = x.shape[1:]
        side, shift, area = self.window, self.shift, self.window**2
        y = layers.layer_norm(x, name="norm1", eps=self.eps, dtype=self.dtype)
        y = jnp.roll(y, (-shift, -shift), (1, 2)) if shift else y
        grid = (-1, height // side, side, width // side, side, channels)
        y = y.reshape(grid).swapaxes(2, 3).reshape(-1, height * width // area, area, channels)
        y = layers.dense(y, 3 * channels, name="qkv", dtype=self.dtype)
        size = channels // self.heads
        query, key, value = jnp.moveaxis(y.reshape(*y.shape[:3], 3, self.heads, size), 3, 0)
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.truncated_normal(0.02),
            (self.heads, (2 * side - 1) ** 2),
        )
        among = jnp.einsum("bwnhc,bwmhc->bwhnm", query, key).astype(jnp.float32) * size**-0.5
        among = (
            among + table[None, None, :, _offsets(side)] + _masks(height, width, side, shift)[None, :, None]
        )
        y = jnp.einsum("bwhnm,bwmhc->bwnhc", jax.nn.softmax(among).astype(value.dtype), value)
        y = layers.dense(y.reshape(-1, area, channels), channels, name="proj", dtype=self.dtype)
        grid = (-1, height // side, width // side, side, side, channels)
        y = y.reshape(grid).swapaxes(2, 3).reshape(-1, height, width, channels)
        x = x + (jnp.roll(y, (shift, shift), (1, 2)) if shift else y)
        x = layers.MeanSparse(name="sparse_attention")(x) if self.sparse else x
        y = layers.layer_norm(x, name="norm2", eps=self.eps, dtype=self.dtype)
        y = layers.gelu_mlp(y, sparse=self.sparse, dtype=self.dtype)
        if not self.sparse:
            return x + y
        return layers.MeanSparse(name="sparse_sum")(x + layers.MeanSparse(name="sparse2")(y))


class Swin(nn.Module):
    """Patches of 4x4 pixels, groups of blocks with joined patches between, normalisation, pooling, linear."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    classes: int
    eps: float = 1e-5
    sparse: bool = False
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind, dtype, eps = layers.recomputed(WindowBlock, self.remat), self.dtype, self.eps
        x = layers.conv(x, self.width, PATCH, stride=PATCH, padding=0, bias=True, dtype=dtype, name="patches")
        x = layers.layer_norm(x, name="patches_norm", eps=eps, dtype=dtype)
        self.sow("features", "stage0", x)
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            if i > 1:
                x = _joined(x)
                x = layers.layer_norm(x, name=f"down{i}_norm", eps=eps, dtype=dtype)
                x = layers.linear(x, x.shape[-1] // 2, bias=False, dtype=dtype, name=f"down{i}_reduction")
            side = min(self.window, *x.shape[1:3])
            shift = side // 2 if min(x.shape[1:3]) > side else 0
            for j in range(depth):
                settings = {"name": f"stage{i}_block{j}"}
                x = kind(heads, side, shift * (j % 2), eps, self.sparse, dtype, **settings)(x, train)
            self.sow("features", f"stage{i}", x)
        x = layers.layer_norm(x, name="norm", eps=eps, dtype=dtype).mean(axis=(1, 2))
        self.sow("features", "stage5", x)
        return layers.dense(x, self.classes, dtype=dtype, name="head")


def _joined(x: Float[Array, "b h w c"]) -> Float[Array, "b i j 4*c"]:
    """Join 2x2 pixels into one, columns before rows."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * c)


def _offsets(side: int) -> np.ndarray:
    """Number the offset between each two pixels of a window: (area, area)."""
    row, column = (place.ravel() for place in np.mgrid[:side, :side])
    down, right = (of[:, None] - of[None] + side - 1 for of in (row, column))
    return down * (2 * side - 1) + right


def _masks(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """Keep pixels apart that only the shift has made neighbours: (windows, area, area), 0 or -100."""
    region = np.zeros((height, width))
    if shift:
        edges = [(slice(0, -side)), (slice(-side, -shift)), (slice(-shift, None))]
        for number, (rows, columns) in enumerate((a, b) for a in edges for b in edges):
            region[rows, columns] = number
    windows = region.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side**2)
    return np.where(windows[:, :, None] != windows[:, None], -100.0, 0.0).astype(np.float32)


def swin(
    *,
    width: int = 128,
    depths: tuple[int, ...] = (2, 2, 18, 2),
    heads: tuple[int, ...] = (4, 8, 16, 32),
    window: int = 7,
    eps: float = 1e-5,
    sparse: bool = False,
    classes: int = 1000,
    shape: tuple[int, ...] = (224, 224, 3),
    mean: Sequence[float] | None = IMAGENET["mean"],
    std: Sequence[float] | None = IMAGENET["std"],
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a Swin transformer; the default, Swin-B, has 87,768,224 parameters.

    Args:
      width: channels of the first group; each further one has twice as many.
      depths, heads: blocks and attention heads of each group.
      window: pixels a side of a window, in groups whose maps are not smaller.
      eps: what normalisations add to a variance; not told by the weights.
      sparse: with a `layers.MeanSparse` before each GELU, after each hidden layer and after each addition.
      classes: number of logits.
      shape: of one image, (h, w, c), whose patches make up whole windows in every group; 224 pixels a side by default.
      mean, std: normalisation per channel, those of ImageNet by default.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if the patches do not make up whole windows, or depths and heads are not as many.

    Reference: Liu et al. 2021, arXiv:2103.14030, as in timm; sparse: Amini et al. 2024, arXiv:2406.05927; with
      windows of 14 and eps 1e-6: Xu et al. 2024, arXiv:2312.04960.
    """
    if len(depths) != len(heads):
        raise ValueError(f"swin: there are {len(depths)} depths and {len(heads)} heads, must be as many")
    multiple = PATCH * 2 ** (len(depths) - 1)
    sides = [[side // (PATCH * 2**i) for side in shape[:2]] for i in range(len(depths))]
    whole = all(side and side % min(window, *of) == 0 for of in sides for side in of)
    if any(side % multiple for side in shape[:2]) or not whole:
        raise ValueError(f"swin: shape is {shape}, must have sides of multiples of {multiple * window}")
    net = Swin(width, depths, heads, window, classes, eps, sparse, dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
