"""The layers that the networks share, with PyTorch's padding, initialisation and BatchNorm.

Each function applies a named flax layer to `x`, to be called inside a `flax.linen.compact` method.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.cpu import convolve, doubled, multiplied

Initializer = Callable[..., Array]
DType = Any

# PyTorch's default for kernels: uniform on +-1 / sqrt(fan in), a variance of 1 / (3 fan in).
fan_in_uniform: Initializer = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
# He et al. 2015 for the backward pass, the usual choice of wide and dense networks: variance 2 / fan out.
he_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def bias_uniform(fan_in: int) -> Initializer:
    """Draw biases as PyTorch does: uniform on +-1 / sqrt(fan in)."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    init: Initializer = fan_in_uniform,
    dtype: DType = jnp.float32,
) -> Float[Array, "b i j o"]:
    """Convolve with a square kernel, zero-padded by `padding` on all sides (by default half the kernel).

    With `groups` the channels are split in so many parts that do not see each other.

    "SAME" would pad a strided convolution on one side only, which moves the sampling grid against PyTorch's.
    """
    pad = kernel // 2 if padding is None else padding
    drawn = bias_uniform(kernel * kernel * x.shape[-1] // groups) if bias else None
    return Convolution(features, kernel, stride, pad, groups, init, drawn, dtype, name=name)(x)


class Convolution(nn.Module):
    """`flax.linen.Conv`, with gradients of float32 for its parameters whatever it computes in."""

    features: int
    kernel: int
    stride: int
    pad: int
    groups: int
    kernel_init: Initializer
    bias_init: Initializer | None
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        x = convolve(
            x.astype(self.dtype),
            self.param("kernel", self.kernel_init, shape, jnp.float32),
            (self.stride, self.stride),
            ((self.pad, self.pad), (self.pad, self.pad)),
            feature_group_count=self.groups,
        )
        if self.bias_init is None:
            return x
        return with_bias(x, self.param("bias", self.bias_init, (self.features,), jnp.float32))


class Affine(nn.Module):
    """`flax.linen.Dense`, with gradients of float32 for its parameters whatever it computes in."""

    features: int
    kernel_init: Initializer
    bias_init: Initializer | None
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... k"]:
        shape = (x.shape[-1], self.features)
        x = multiplied(x.astype(self.dtype), self.param("kernel", self.kernel_init, shape, jnp.float32))
        if self.bias_init is None:
            return x
        return with_bias(x, self.param("bias", self.bias_init, (self.features,), jnp.float32))


def with_bias(x: Float[Array, "b ... o"], bias: Float[Array, "o"]) -> Float[Array, "b ... o"]:
    """Add a bias in float32, in which its gradient is then summed; the result has the type of x."""
    bias = bias.reshape((1,) * (x.ndim - 1) + bias.shape)
    return (x.astype(jnp.float32) + bias).astype(x.dtype)


class Doubling(nn.Module):
    """A transposed convolution of stride 2 with a 3x3 or 4x4 kernel, to twice the size."""

    features: int
    kernel: int
    bias: bool
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w o"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        x = doubled(x, self.param("kernel", self.kernel_init, shape, jnp.float32))
        if not self.bias:
            return x
        return with_bias(x, self.param("bias", self.bias_init, (self.features,), jnp.float32))


def linear(
    x: Float[Array, "b ... c"],
    features: int,
    *,
    name: str,
    bias: bool = True,
    bias_init: Initializer | None = None,
    dtype: DType = jnp.float32,
) -> Float[Array, "b ... k"]:
    """Apply an affine map; the bias is drawn as PyTorch does unless `bias_init` is given."""
    drawn = (bias_init or bias_uniform(x.shape[-1])) if bias else None
    return Affine(features, fan_in_uniform, drawn, dtype, name=name)(x)


def recomputed(block: Callable[..., nn.Module], wanted: bool) -> Callable[..., nn.Module]:
    """Build blocks, called as (x, train), that keep their input only and compute the rest anew for their gradient."""
    if isinstance(block, functools.partial):
        return functools.partial(recomputed(block.func, wanted), *block.args, **block.keywords)
    return nn.remat(block, static_argnums=(2,)) if wanted else block  # pyright: ignore[reportArgumentType]


def blocks_of_pixels(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b i j d"]:
    """Turn every side x side block of pixels into one pixel of side^2 times the channels, row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side * c)


def pixels_of_blocks(x: Float[Array, "b i j d"], side: int) -> Float[Array, "b h w c"]:
    """Take apart what `blocks_of_pixels` puts together."""
    b, h, w, d = x.shape
    x = x.reshape(b, h, w, side, side, d // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, d // side**2)


def batch_norm(x: Array, *, train: bool, name: str, affine: bool = True, dtype: DType = jnp.float32) -> Array:
    """Normalise by the statistics of the batch (train) or by running ones: momentum 0.9, eps 1e-5.

    PyTorch calls this momentum 0.1. Without `affine` there is no scale and no bias.

    Under `jit` with a sharded batch the statistics are those of the global batch; under `shard_map` or `pmap`
    each device has its own. Computed in float32 whatever `dtype` is, which only the result has.
    """
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=affine,
        use_bias=affine,
        name=name,
    )
    return norm(x.astype(jnp.float32)).astype(dtype)


def excited(
    x: Float[Array, "b h w c"], squeezed: int, *, name: str, dtype: DType = jnp.float32
) -> Float[Array, "b h w c"]:
    """Scale each channel by a gate in (0, 1) that a hidden layer of `squeezed` units finds from the channels' means.

    Reference: squeeze and excitation, Hu et al. 2018, arXiv:1709.01507.
    """
    hidden = nn.relu(linear(x.mean(axis=(1, 2)), squeezed, name=f"{name}1", dtype=dtype))
    gate = nn.sigmoid(linear(hidden, x.shape[-1], name=f"{name}2", dtype=dtype))
    return x * gate[:, None, None, :]


class MeanSparse(nn.Module):
    """Replace what lies within `threshold` standard deviations of a channel's mean by the mean.

    The statistics are those of the training set, taken after training; gradients are zero where a value is replaced.

    Reference: Amini et al. 2024, arXiv:2406.05927.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        channels = x.shape[-1:]
        mean = self.variable("mean_sparse", "mean", jnp.zeros, channels).value
        var = self.variable("mean_sparse", "var", jnp.zeros, channels).value
        threshold = self.variable("mean_sparse", "threshold", jnp.zeros, ()).value
        mean, var = (kept.reshape(*(1,) * (x.ndim - 1), -1) for kept in (mean, var))
        exact = x.astype(jnp.float32)
        near = jnp.abs(exact - mean) < threshold * jnp.sqrt(var)
        return jnp.where(near, mean, exact).astype(x.dtype)


def attention(
    query: Float[Array, "b n h c"], key: Float[Array, "b m h c"], value: Float[Array, "b m h c"]
) -> Float[Array, "b n h c"]:
    """Average values by softmax(query key / sqrt(c)) of each head, which is taken in float32."""
    scores = jnp.einsum("bnhc,bmhc->bhnm", query, key, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(scores / jnp.float32(query.shape[-1] ** 0.5)).astype(value.dtype)
    return jnp.einsum("bhnm,bmhc->bnhc", shares, value)


def layer_norm(
    x: Float[Array, "b ... c"], *, name: str, eps: float = 1e-6, dtype: DType = jnp.float32
) -> Float[Array, "b ... c"]:
    """Normalise each position over its channels, in float32 whatever `dtype` is; scale and shift."""
    norm = nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


def dense(
    x: Float[Array, "b ... c"], features: int, *, name: str, dtype: DType = jnp.float32
) -> Float[Array, "b ... k"]:
    """Apply an affine map drawn as in transformers: a truncated normal distribution of deviation 0.02, bias 0."""
    return Affine(features, nn.initializers.truncated_normal(0.02), nn.initializers.zeros, dtype, name=name)(
        x
    )


def gelu_mlp(
    x: Float[Array, "b ... c"], *, sparse: bool = False, dtype: DType = jnp.float32
) -> Float[Array, "b ... c"]:
    """Apply a hidden layer of 4 times the channels with GELU (the exact one), after a `MeanSparse` if `sparse`."""
    hidden = dense(x, 4 * x.shape[-1], name="fc1", dtype=dtype)
    hidden = MeanSparse(name="sparse1")(hidden) if sparse else hidden
    return dense(nn.gelu(hidden, approximate=False), x.shape[-1], name="fc2", dtype=dtype)


def conv_stem(
    x: Float[Array, "b h w c"], widths: tuple[int, ...], strides: tuple[int, ...], dtype: DType
) -> Float[Array, "b i j o"]:
    """Apply 3x3 convolutions, each with a normalisation over channels and GELU. Reference: arXiv:2303.01870."""
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        x = conv(x, width, 3, stride=stride, bias=True, dtype=dtype, name=f"stem_conv{i}")
        x = nn.gelu(layer_norm(x, name=f"stem_norm{i}", dtype=dtype), approximate=False)
    return x
