"""Residual networks whose blocks normalise and activate before they convolve, in the forms that public code has.

Which form a checkpoint is of, its weights tell in part only; see `published`.

Feature taps: stage0 is the stem, stage1, ... the groups of blocks; with a final BatchNorm and activation one
more, which the linear layer reads.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.layers import DType
from robustjax.types import Images, Logits

Activation = Callable[[Array], Array]


class Form(NamedTuple):
    """What all blocks of a network have in common.

    Attributes:
      activation: elementwise.
      early: a shortcut that changes shape reads the input of the block, not the first activation.
      late: one that changes nothing reads the first activation, not the input of the block.
      shortcut_kernel: side of its kernel.
      shortcut_norm: a BatchNorm follows it.
      lower_right: strided convolutions pad these sides only, as "SAME" does for images of even size.
      affine: BatchNorm scales and shifts.
      excite: units of the squeeze-and-excitation layer before the addition, as a share of the channels; 0 for none.
      sparse: a `layers.MeanSparse` follows each BatchNorm and each addition.
    """

    activation: Activation = nn.relu
    early: bool = False
    late: bool = False
    shortcut_kernel: int = 1
    shortcut_norm: bool = False
    lower_right: bool = False
    affine: bool = True
    excite: float = 0.0
    sparse: bool = False


class Block(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions, the first of which may be strided.

    With a bottleneck, 1x1 convolutions lie around one 3x3 convolution, and the output has 4 times `features` channels.
    """

    features: int
    stride: int
    form: Form
    bottleneck: bool
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j o"]:
        form, wide = self.form, self.features * (4 if self.bottleneck else 1)
        y = activated(x, form, train, self.dtype, "1")
        if self.stride != 1 or x.shape[-1] != wide:
            source = x.astype(self.dtype) if form.early else y
            x = self._conv(source, wide, form.shortcut_kernel, "shortcut_conv", self.stride)
            if form.shortcut_norm:
                settings = dict(train=train, affine=form.affine, dtype=self.dtype)
                x = layers.batch_norm(x, name="shortcut_norm", **settings)
        elif form.late:
            x = y
        if self.bottleneck:
            y = activated(self._conv(y, self.features, 1, "conv1"), form, train, self.dtype, "2")
            y = activated(self._conv(y, self.features, 3, "conv2", self.stride), form, train, self.dtype, "3")
            y = self._conv(y, wide, 1, "conv3")
        else:
            y = activated(self._conv(y, self.features, 3, "conv1", self.stride), form, train, self.dtype, "2")
            y = self._conv(y, self.features, 3, "conv2")
        if form.excite:
            y = layers.excited(y, round(form.excite * wide), name="excite", dtype=self.dtype)
        return layers.MeanSparse(name="sparse_sum")(x + y) if form.sparse else x + y

    def _conv(self, x: Array, features: int, kernel: int, name: str, stride: int = 1) -> Array:
        pad = kernel // 2
        if self.form.lower_right and stride == 2 and kernel == 3:
            x, pad = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), 0
        return layers.conv(x, features, kernel, stride=stride, padding=pad, dtype=self.dtype, name=name)


def activated(x: Array, form: Form, train: bool, dtype: DType, place: str) -> Array:
    """Normalise by BatchNorm, make sparse where the form says so, activate; layers are named by their place."""
    x = layers.batch_norm(x, train=train, affine=form.affine, dtype=dtype, name=f"norm{place}")
    return form.activation(layers.MeanSparse(name=f"sparse{place}")(x) if form.sparse else x)


class Preactivated(nn.Module):
    """A 3x3 stem, groups of blocks of which all but the first halve the image, pooling, linear.

    Attributes:
      stem, stem_width: name and channels of the first convolution; the name tells public layouts apart.
      widths, depths: channels and blocks of each group.
      classes: number of logits.
      form: of the blocks.
      bottleneck: the blocks have three convolutions.
      stem_norm: BatchNorm and activation follow the stem.
      last_norm: BatchNorm and activation follow the last group.
      bias: of the linear layer.
      learned: the activation is `pssilu`, with parameters that all blocks share.
      cosine: features and rows of the linear layer are scaled to length 1.
    """

    stem: str
    stem_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int
    form: Form = Form()
    bottleneck: bool = False
    stem_norm: bool = False
    last_norm: bool = True
    bias: bool = True
    learned: bool = False
    cosine: bool = False
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        form, kind = self.form, layers.recomputed(Block, self.remat)
        if self.learned:
            alpha = self.param("alpha", nn.initializers.ones, (1,))
            beta = self.param("beta", nn.initializers.constant(1e-8), (1,))
            form = form._replace(
                activation=lambda x: pssilu(x, alpha[0].astype(x.dtype), beta[0].astype(x.dtype))
            )
        x = layers.conv(x, self.stem_width, 3, dtype=self.dtype, name=self.stem)
        if self.stem_norm:
            x = activated(x, form, train, self.dtype, "1")
        self.sow("features", "stage0", x)
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                block = kind(width, stride, form, self.bottleneck, self.dtype, name=f"stage{i}_block{j}")
                x = block(x, train)
            self.sow("features", f"stage{i}", x)
        if self.last_norm:
            x = activated(x, form, train, self.dtype, "")
            self.sow("features", f"stage{len(self.widths) + 1}", x)
        x = x.mean(axis=(1, 2))
        if self.cosine:
            return Cosine(self.classes, name="head")(x)
        return layers.linear(x, self.classes, bias=self.bias, dtype=self.dtype, name="head")


class Cosine(nn.Module):
    """Cosines of the angles between features and the rows of a matrix, in float32."""

    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b k"]:
        kernel = self.param("kernel", layers.fan_in_uniform, (x.shape[-1], self.classes))
        x = x.astype(jnp.float32)
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return x @ (kernel / jnp.maximum(jnp.linalg.norm(kernel, axis=0, keepdims=True), 1e-12))


def pssilu(x: Array, alpha: Array, beta: Array) -> Array:
    """Compute x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|). Reference: Dai et al. 2021, arXiv:2110.05626."""
    return x * (nn.sigmoid(jnp.abs(alpha) * x) - jnp.abs(beta)) / (1 - jnp.abs(beta))
