"""Conditional variational autoencoders: perturbations of an image, learned from pairs.

A prior p(z | x), a posterior q(z | x, perturbed x) and a decoder g(z, x), three networks as pure functions.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.types import Images, Params, PerExample, State

Latents = Float[Array, "b k"]
Likelihood = Literal["gaussian", "bernoulli"]  # of the pixels


class Gaussian(NamedTuple):
    """Independent normal latents: mean and log-variance, (b, k) each."""

    mean: Latents
    log_variance: Latents

    @property
    def std(self) -> Latents:
        """Give the standard deviations: exp(log_variance / 2)."""
        return jnp.exp(0.5 * self.log_variance)

    def sample(self, noise: Latents) -> Latents:
        """Turn standard normal noise into a draw: mean + std noise."""
        return self.mean + self.std * noise


@runtime_checkable
class Part(Protocol):
    """Run one of the networks; in train mode the second result is the updated state, else `state` itself."""

    def __call__(
        self, params: Params, state: State, x: Images, *inputs: Array, train: bool = False
    ) -> tuple[Any, State]: ...


class CVAE(NamedTuple):
    """A conditional variational autoencoder as pure functions.

    Attributes:
      init: key -> (params, state).
      prior: (params, state, x) -> (Gaussian, state).
      posterior: (params, state, x, perturbed) -> (Gaussian, state).
      decode: (params, state, x, z) -> (images before `link`, state); z is (b, dimension), as the Gaussians are.
      link: from what `decode` gives to pixels, a sigmoid; for the Bernoulli likelihood it must be one.
      dimension: number of latents.
      shape: of one image, (h, w, c).
    """

    init: Callable[[PRNGKeyArray], tuple[Params, State]]
    prior: Part
    posterior: Part
    decode: Part
    link: Callable[[Array], Array]
    dimension: int
    shape: tuple[int, ...]


def from_modules(
    prior: nn.Module,
    posterior: nn.Module,
    decoder: nn.Module,
    *,
    dimension: int,
    shape: tuple[int, ...],
    link: Callable[[Array], Array] = jax.nn.sigmoid,
) -> CVAE:
    """Bundle three flax modules.

    Args:
      prior, posterior: encoders, called as `module(images, train=...)` -> (mean, log-variance), of any shape that
        flattens to `dimension`; the posterior's images have the perturbed image's channels after those of x.
      decoder: called as `module(x, z, train=...)` -> images before `link`; z comes flat.
      dimension: number of latents.
      shape: of one image, (h, w, c); networks for several sizes may be initialised at any of them.
      link: as in `CVAE`.
    """
    modules = {"prior": prior, "posterior": posterior, "decoder": decoder}

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        x, z = jnp.zeros((1, *shape), jnp.float32), jnp.zeros((1, dimension), jnp.float32)
        inputs = {"prior": (x,), "posterior": (jnp.concatenate([x, x], axis=-1),), "decoder": (x, z)}
        params, state = {}, {}
        for i, (name, module) in enumerate(modules.items()):
            variables: Any = dict(module.init(jax.random.fold_in(key, i), *inputs[name], train=False))
            params[name] = variables.pop("params")
            state[name] = variables
        return params, state

    def run(name: str, params: Any, state: Any, *inputs: Array, train: bool) -> tuple[Any, State]:
        variables = {"params": params[name], **state[name]}
        if not train:
            return modules[name].apply(variables, *inputs, train=False), state
        out, changed = modules[name].apply(variables, *inputs, train=True, mutable=list(state[name]))
        return out, {**state, name: {**state[name], **changed}}

    def prior_of(params: Params, state: State, x: Images, *inputs: Array, train: bool = False):
        del inputs
        out, state = run("prior", params, state, x, train=train)
        return _flat(out), state

    def posterior_of(params: Params, state: State, x: Images, *inputs: Array, train: bool = False):
        out, state = run("posterior", params, state, jnp.concatenate([x, *inputs], axis=-1), train=train)
        return _flat(out), state

    def decoded(params: Params, state: State, x: Images, *inputs: Array, train: bool = False):
        return run("decoder", params, state, x, *inputs, train=train)

    return CVAE(init, prior_of, posterior_of, decoded, link, dimension, shape)


LOW, HIGH = math.log(1e-3), math.log(10.0)


def squashed(raw: Array) -> Array:
    """Keep a log-variance between those of variances 1e-3 and 10, by a tanh; 0 becomes their middle, -2.3026.

    Reference: Wong and Kolter 2020, arXiv:2007.08450, for CIFAR-10 and larger images.
    """
    return 0.5 * (LOW + HIGH) + 0.5 * (HIGH - LOW) * jnp.tanh(raw)


def _flat(out: tuple[Array, Array]) -> Gaussian:
    mean, log_variance = (a.reshape(a.shape[0], -1) for a in out)
    return Gaussian(mean, log_variance)


def error(raw: Images, target: Images, likelihood: Likelihood, link: Callable[[Array], Array]) -> PerExample:
    """Sum over pixels what a reconstruction misses: squares, or the cross-entropy of pixels as probabilities.

    Args:
      raw: what a decoder gives, before `link`; logits for "bernoulli", whatever the link.
      target: images in [0, 1].
      likelihood: "gaussian" for squares, without constants, or "bernoulli".
      link: from raw to pixels.
    """
    squares = likelihood == "gaussian"
    each = jnp.square(link(raw) - target) if squares else jax.nn.softplus(raw) - target * raw
    return each.reshape(each.shape[0], -1).sum(axis=1)
