"""The layers that the networks share, with PyTorch's padding, initialisation and BatchNorm.

Each function applies a named flax layer to `x`, to be called inside a `flax.linen.compact` method.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.cpu import convolve, doubled

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
    bias: bool = False,
    init: Initializer = fan_in_uniform,
    dtype: DType = jnp.float32,
) -> Float[Array, "b i j o"]:
    """Convolve with a square kernel, zero-padded by `padding` on all sides (by default half the kernel).

    "SAME" would pad a strided convolution on one side only, which moves the sampling grid against PyTorch's.
    """
    pad = kernel // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        kernel_init=init,
        bias_init=bias_uniform(kernel * kernel * x.shape[-1]),
        conv_general_dilated=convolve,
        dtype=dtype,
        name=name,
    )(x)


class Doubling(nn.Module):
    """A transposed convolution of stride 2 with a 3x3 or 4x4 kernel, to twice the size."""

    features: int
    kernel: int
    bias: bool
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w o"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        x = doubled(x, self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype))
        if not self.bias:
            return x
        return x + self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(x.dtype)


def linear(
    x: Float[Array, "b c"],
    features: int,
    *,
    name: str,
    bias_init: Initializer | None = None,
    dtype: DType = jnp.float32,
) -> Float[Array, "b k"]:
    """Apply an affine map; the bias is drawn as PyTorch does unless `bias_init` is given."""
    bias_init = bias_uniform(x.shape[-1]) if bias_init is None else bias_init
    return nn.Dense(features, kernel_init=fan_in_uniform, bias_init=bias_init, dtype=dtype, name=name)(x)


def recomputed(block: Callable[..., nn.Module], wanted: bool) -> Callable[..., nn.Module]:
    """Build blocks, called as (x, train), that keep their input only and compute the rest anew for their gradient."""
    return nn.remat(block, static_argnums=(2,)) if wanted else block  # pyright: ignore[reportArgumentType]


def batch_norm(x: Array, *, train: bool, name: str, dtype: DType = jnp.float32) -> Array:
    """Normalise by the statistics of the batch (train) or by running ones: momentum 0.9, eps 1e-5.

    PyTorch calls this momentum 0.1.

    Under `jit` with a sharded batch the statistics are those of the global batch; under `shard_map` or `pmap`
    each device has its own. Computed in float32 whatever `dtype` is, which only the result has.
    """
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)
