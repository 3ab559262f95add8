"""A variance-preserving diffusion of images, and a small U-Net that predicts the noise in them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.models import layers
from robustjax.models.cpu import avg_pool
from robustjax.types import Images, Params, PerExample

Times = Float[Array, "b"]


@runtime_checkable
class Predict(Protocol):
    """Predict the noise in images at their times."""

    def __call__(self, params: Params, x: Images, t: Times) -> Images: ...


class Denoiser(NamedTuple):
    """A network over noisy images in [-1, 1] and times in [0, 1], without running statistics."""

    init: Callable[[PRNGKeyArray], Params]
    predict: Predict


class Process(NamedTuple):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with beta linear in t: x_t = sqrt(a) x_0 + sqrt(1 - a) noise.

    Attributes:
      low, high: beta at t = 0 and at t = 1.

    Reference: Song et al. 2021, arXiv:2011.13456 (VP-SDE); 0.1 and 20 there.
    """

    low: float = 0.1
    high: float = 20.0

    def beta(self, t: Array) -> Array:
        """Give the rate at which images become noise."""
        return self.low + t * (self.high - self.low)

    def kept(self, t: Array) -> Array:
        """Give a(t) = exp(-integral of beta up to t), the share of variance that is still the image's."""
        return jnp.exp(-(self.low * t + 0.5 * (self.high - self.low) * jnp.square(t)))

    def spread(self, t: Array) -> Array:
        """Give sqrt(1 - a(t)), the standard deviation of the noise in x_t."""
        return jnp.sqrt(-jnp.expm1(-(self.low * t + 0.5 * (self.high - self.low) * jnp.square(t))))

    def noisy(self, x: Images, t: PerExample, noise: Images) -> Images:
        """Move images in [-1, 1] forward to their times."""
        spread = (x.shape[0],) + (1,) * (x.ndim - 1)
        return jnp.sqrt(self.kept(t)).reshape(spread) * x + self.spread(t).reshape(spread) * noise


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, moved by what the time says."""

    width: int

    @nn.compact
    def __call__(self, x: Array, time: Float[Array, "b d"]) -> Array:
        inner = layers.conv(nn.silu(_grouped(x, "norm0")), self.width, 3, bias=True, name="conv0")
        inner = inner + layers.linear(time, self.width, name="time")[:, None, None]
        inner = layers.conv(
            nn.silu(_grouped(inner, "norm1")),
            self.width,
            3,
            bias=True,
            init=nn.initializers.zeros,
            name="conv1",
        )
        if x.shape[-1] != self.width:
            x = layers.conv(x, self.width, 1, name="shortcut")
        return x + inner


class Small(nn.Module):
    """A block at every size on the way down and up, joined, without attention."""

    widths: tuple[int, ...]
    channels: int

    @nn.compact
    def __call__(self, x: Images, t: Times) -> Images:
        size = x.shape[1:3]
        multiple = 2 ** (len(self.widths) - 1)
        pads = [(0, -side % multiple) for side in size]
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="edge")
        time = nn.silu(layers.linear(waves(t, 2 * self.widths[0]), 4 * self.widths[0], name="time"))
        x = layers.conv(x, self.widths[0], 3, bias=True, name="stem")
        skips = []
        for i, width in enumerate(self.widths):
            x = Block(width, name=f"down{i}")(x if i == 0 else avg_pool(x, 2), time)
            skips.append(x)
        for i in reversed(range(len(self.widths) - 1)):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = Block(self.widths[i], name=f"up{i}")(jnp.concatenate([skips[i], x], axis=-1), time)
        x = layers.conv(
            nn.silu(_grouped(x, "norm")), self.channels, 3, bias=True, init=nn.initializers.zeros, name="last"
        )
        return x[:, : size[0], : size[1]]


def small_denoiser(*, shape: tuple[int, ...], widths: Sequence[int] = (32, 64, 64)) -> Denoiser:
    """Build a small U-Net with group normalisation, for images of any size.

    Args:
      shape: of one image at initialisation, (h, w, c).
      widths: channels at full size, half size, and so on; multiples of 8.
    Raises:
      ValueError: if there are no widths, or one is not a multiple of 8.
    """
    if not widths or any(width % 8 for width in widths):
        raise ValueError(f"small_denoiser: widths is {tuple(widths)}, must hold multiples of 8")
    module = Small(tuple(widths), shape[-1])

    def init(key: PRNGKeyArray) -> Params:
        variables: Any = module.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)))
        return variables["params"]

    def predict(params: Params, x: Images, t: Times) -> Images:
        out: Any = module.apply({"params": params}, x, t)
        return out

    return Denoiser(init, predict)


def waves(t: Times, count: int) -> Float[Array, "b n"]:
    """Write times as sines and cosines of `count` / 2 frequencies, from 1 to 1000 turns, evenly on a log scale."""
    turns = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), count // 2))
    angles = t[:, None] * turns[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _grouped(x: Array, name: str) -> Array:
    return nn.GroupNorm(num_groups=8, name=name)(x)
