"""XCiT, a transformer whose attention is between channels.

Feature taps: stage0 are the patches with their positions, stage1 to stage3 the tokens after each third of the blocks,
stage4 the class token after the last normalisation, which the linear layer reads.
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
from robustjax.types import Images, Logits, Model

HIDDEN = 32  # sines and cosines of each coordinate


class CovarianceBlock(nn.Module):
    """Attention between channels, 3x3 convolutions of each channel, a hidden layer; each normalised, scaled, added."""

    heads: int
    side: tuple[int, int]
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        count, channels = x.shape[1:]
        y = layers.layer_norm(x, name="norm1", dtype=self.dtype)
        y = layers.dense(y, 3 * channels, name="qkv", dtype=self.dtype)
        query, key, value = jnp.moveaxis(y.reshape(-1, count, 3, self.heads, channels // self.heads), 2, 0)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads, 1, 1))
        among = jnp.einsum("bnhc,bnhd->bhcd", _unit(query), _unit(key)) * temperature[None]
        among = jax.nn.softmax(among).astype(value.dtype)
        y = jnp.einsum("bhcd,bnhd->bnhc", among, value).reshape(-1, count, channels)
        x = x + _scaled(self, "gamma1", layers.dense(y, channels, name="proj", dtype=self.dtype))

        settings = {"groups": channels, "bias": True, "dtype": self.dtype}
        y = layers.layer_norm(x, name="norm3", dtype=self.dtype).reshape(-1, *self.side, channels)
        y = nn.gelu(layers.conv(y, channels, 3, name="conv1", **settings), approximate=False)
        y = layers.batch_norm(y, train=train, dtype=self.dtype, name="bn")
        y = layers.conv(y, channels, 3, name="conv2", **settings).reshape(-1, count, channels)
        x = x + _scaled(self, "gamma3", y)

        y = layers.gelu_mlp(layers.layer_norm(x, name="norm2", dtype=self.dtype), dtype=self.dtype)
        return x + _scaled(self, "gamma2", y)


class ClassBlock(nn.Module):
    """Attention of the class token to all tokens, and a hidden layer for it alone; all tokens are normalised."""

    heads: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        channels = x.shape[-1]
        y = layers.layer_norm(x, name="norm1", dtype=self.dtype)
        query, key, value = (
            layers.dense(of, channels, name=name, dtype=self.dtype).reshape(
                -1, of.shape[1], self.heads, channels // self.heads
            )
            for name, of in (("q", y[:, :1]), ("k", y), ("v", y))
        )
        seen = layers.attention(query, key, value).reshape(-1, 1, channels)
        seen = layers.dense(seen, channels, name="proj", dtype=self.dtype)
        x = x + _scaled(self, "gamma1", jnp.concatenate([seen, y[:, 1:]], axis=1))
        x = layers.layer_norm(x, name="norm2", dtype=self.dtype)
        token = _scaled(self, "gamma2", layers.gelu_mlp(x[:, :1], dtype=self.dtype))
        return x + jnp.concatenate([token, x[:, 1:]], axis=1)


class XCiT(nn.Module):
    """Convolutions to patches, sines and cosines of their places, blocks, class token, normalisation, linear."""

    width: int
    depth: int
    heads: int
    strides: tuple[int, int, int, int]
    classes: int
    dtype: DType = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Logits:
        kind = layers.recomputed(CovarianceBlock, self.remat)
        for i, stride in enumerate(self.strides):
            x = nn.gelu(x, approximate=False) if i else x
            x = layers.conv(
                x, self.width * 2**i // 8, 3, stride=stride, dtype=self.dtype, name=f"stem_conv{i}"
            )
            x = layers.batch_norm(x, train=train, dtype=self.dtype, name=f"stem_norm{i}")
        side = (x.shape[1], x.shape[2])
        place = layers.dense(_waves(*side), self.width, name="place", dtype=self.dtype)
        x = (x + place[None]).reshape(len(x), -1, self.width)
        self.sow("features", "stage0", x)
        for j in range(self.depth):
            x = kind(self.heads, side, self.dtype, name=f"block{j}")(x, train)
            if (j + 1) * 3 % self.depth == 0:
                self.sow("features", f"stage{(j + 1) * 3 // self.depth}", x)
        token = self.param("cls_token", nn.initializers.truncated_normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)).astype(x.dtype), x], axis=1)
        for j in range(2):
            x = ClassBlock(self.heads, self.dtype, name=f"class{j}")(x)
        x = layers.layer_norm(x[:, 0], name="norm", dtype=self.dtype)
        self.sow("features", "stage4", x)
        return layers.dense(x, self.classes, dtype=self.dtype, name="head")


def _scaled(module: nn.Module, name: str, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
    return x * module.param(name, nn.initializers.ones, (x.shape[-1],)).astype(x.dtype)[None, None]


def _unit(x: Float[Array, "b n h c"]) -> Float[Array, "b n h c"]:
    """Scale each channel to length 1 over the tokens, in float32."""
    x = x.astype(jnp.float32)
    # The root of a maximum has slope 0 at 0, where that of a norm is not a number.
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(axis=1, keepdims=True), 1e-24))


def _waves(height: int, width: int) -> Float[Array, "h w 64"]:
    """Describe places by sines and cosines: coordinates run up to 2 pi, frequencies from 1 down to 1 / 10000."""
    frequency = 10000.0 ** (-2.0 * np.arange(HIDDEN // 2) / HIDDEN)

    def wave(count: int) -> np.ndarray:
        angle = np.arange(1, count + 1)[:, None] / (count + 1e-6) * 2 * np.pi * frequency
        return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(count, HIDDEN)

    rows = np.broadcast_to(wave(height)[:, None], (height, width, HIDDEN))
    columns = np.broadcast_to(wave(width)[None], (height, width, HIDDEN))
    return jnp.asarray(np.concatenate([rows, columns], axis=-1), jnp.float32)


def xcit(
    *,
    width: int = 384,
    depth: int = 12,
    heads: int = 8,
    patch: int = 16,
    classes: int = 1000,
    shape: tuple[int, ...] = (224, 224, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build an XCiT whose class blocks normalise all tokens; the default, XCiT-S12, has 26,254,312 parameters.

    Args:
      width: channels of a token.
      depth: blocks, a multiple of 3.
      heads: of attention.
      patch: pixels a side of a patch: 16, or 4 for small images. Weights do not tell it.
      classes: number of logits.
      shape: of one image, (h, w, c), with sides of multiples of a patch.
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, normalisation and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: if the heads do not divide the width, the depth is no multiple of 3, or the patch is not 4 or 16.

    Reference: El-Nouby et al. 2021, arXiv:2106.09681, as Debenedetti et al. 2023, arXiv:2209.07399, train it; with
      patches of 4 pixels the first two convolutions are not strided.
    """
    if width % heads or width % 8:
        raise ValueError(f"xcit: width is {width}, must be a multiple of the {heads} heads, and of 8")
    if depth < 3 or depth % 3:
        raise ValueError(f"xcit: depth is {depth}, must be a multiple of 3")
    strides = {4: (1, 1, 2, 2), 16: (2, 2, 2, 2)}.get(patch)
    if strides is None:
        raise ValueError(f"xcit: patch is {patch}, must be 4 or 16")
    net = XCiT(width, depth, heads, strides, classes, dtype, remat)
    return from_flax(net, shape=shape, mean=mean, std=std)
