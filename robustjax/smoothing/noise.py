"""Samples of an image under Gaussian noise, on its pixels or on the parameters of a perturbation set."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.numerics import Norm, keys_for
from robustjax.perturbations.sets import PerturbationSet
from robustjax.smoothing.normal_samples import noisy
from robustjax.types import Inputs, Keys, Number

Sampler = Callable[[Keys, Array, int], Inputs]  # (key, one image, samples) -> noisy images


class Noise(NamedTuple):
    """How to sample noisy images, and what the certified radius is measured by.

    Attributes:
      sample: (key, one image, samples) -> noisy images.
      sigma: standard deviation, which sets the unit of the radius.
      lower, upper: the box that images without noise lie in; images outside are refused.
      norm: that a radius is measured in; `certify` refuses a `reach` of another.
    """

    sample: Sampler
    sigma: Number
    lower: float = -math.inf
    upper: float = math.inf
    norm: Norm = "l2"


def in_pixels(sigma: Number, *, lower: float = 0.0, upper: float = 1.0) -> Noise:
    """Add N(0, sigma^2) to every feature; nothing is clipped, so the certificate is one for all of space.

    Args:
      sigma: standard deviation in the units of x, before any normalisation inside the network.
      lower, upper: the box that images without noise lie in: sigma is meaningless for images on another scale.
    Raises:
      ValueError: if a known sigma is not positive.

    Reference: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918.
    """
    checks.positive("in_pixels", "sigma", sigma)

    def sample(key: Keys, x: Array, samples: int) -> Inputs:
        return noisy(key, x, samples, sigma)

    return Noise(sample, sigma, lower, upper)


def uniform_in_pixels(half_width: Number, *, lower: float = 0.0, upper: float = 1.0) -> Noise:
    """Add a number from [-half_width, half_width] to every feature; certify with `radii.uniform(half_width)`, in l1.

    Args:
      half_width: of the interval, in the units of x.
      lower, upper: as in `in_pixels`.
    Raises:
      ValueError: if a known half_width is not positive.

    Reference: Yang et al. 2020, arXiv:2002.08118.
    """
    checks.positive("uniform_in_pixels", "half_width", half_width)

    def sample(key: Keys, x: Array, samples: int) -> Inputs:
        unit = jax.random.uniform(key, (samples, *x.shape), x.dtype, minval=-1.0, maxval=1.0)
        return x[None] + half_width * unit

    return Noise(sample, half_width / math.sqrt(3), lower, upper, "l1")


def laplace_in_pixels(scale: Number, *, lower: float = 0.0, upper: float = 1.0) -> Noise:
    """Add Laplace noise of density exp(-|x| / scale) / (2 scale) to every feature; certify with `radii.laplace(scale)`.

    Args:
      scale: in the units of x; the standard deviation is sqrt(2) times that.
      lower, upper: as in `in_pixels`.
    Raises:
      ValueError: if a known scale is not positive.

    Reference: Yang et al. 2020, arXiv:2002.08118.
    """
    checks.positive("laplace_in_pixels", "scale", scale)

    def sample(key: Keys, x: Array, samples: int) -> Inputs:
        return x[None] + scale * jax.random.laplace(key, (samples, *x.shape), x.dtype)

    return Noise(sample, scale * math.sqrt(2), lower, upper, "l1")


def white(sigma: Number) -> Callable[[Keys, Inputs], Inputs]:
    """Build `perturb(key, x)`: one sample of noise for each image, for training (`losses.stability`)."""
    checks.positive("white", "sigma", sigma)

    def perturb(key: Keys, x: Inputs) -> Inputs:
        keys = keys_for(key, x.shape[0])
        return x + sigma * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)

    return perturb


def in_parameters(
    space: PerturbationSet,
    sigma: Number,
    *,
    centre: Callable[[Array], Array] | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Noise:
    """Add N(0, sigma^2) to the parameters u of a perturbation set, and decode.

    The certificate is for decode(x, u) with all u in an l2 ball, around a known x: it says nothing about a
    classifier that receives a perturbed image only. The ball and box of `space.threat` play no part.

    Args:
      space: how parameters become images; decoders with a random part draw it anew for every sample.
      sigma: standard deviation in the units of u.
      centre: one image -> the u to be certified around, (d,); the origin by default.
      lower, upper: the box that images lie in.
    Raises:
      ValueError: if a known sigma is not positive.

    Reference: Wong and Kolter 2020, arXiv:2007.08450.
    """
    checks.positive("in_parameters", "sigma", sigma)

    def sample(key: Keys, x: Array, samples: int) -> Inputs:
        own, inner = jax.random.split(key)
        origin = space.origin(x[None])[0] if centre is None else centre(x)
        u = origin[None] + sigma * jax.random.normal(inner, (samples, space.dimension), origin.dtype)
        # Prepared once: for learned sets that is a pass through the encoder of x.
        ready = jax.tree.map(lambda a: jnp.broadcast_to(a, (samples, *a.shape[1:])), space.prepare(x[None]))
        return space.decode(keys_for(own, samples), ready, u)

    return Noise(sample, sigma, lower, upper)
