"""Perturbation sets learned from pairs: a ball of latents around the prior mean, in units of its deviation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.models.cvae import CVAE, Latents
from robustjax.numerics import fold, keys_for
from robustjax.perturbations.sets import PerturbationSet
from robustjax.perturbations.truncated import truncated_normal
from robustjax.threats import Threat
from robustjax.types import Images, Keys, Params, PerExample, Radius, State

Perturb = Callable[[Keys, Images], Images]


class Prepared(NamedTuple):
    """What the decoder needs of an image: itself, and mean and deviation of its prior."""

    x: Images
    mean: Latents
    std: Latents


class Encoding(NamedTuple):
    """The posterior of a pair in the coordinates of the ball, where the prior is N(0, I): mean, deviation."""

    mean: Latents
    std: Latents

    @property
    def norm(self) -> PerExample:
        """Measure the distance from the centre of the ball to the mean."""
        return jnp.linalg.norm(self.mean, axis=1)

    def kl(self) -> Float[Array, "b k"]:
        """Measure KL(posterior || prior) of each latent, in nats; the coordinates do not change it."""
        square = jnp.square(self.std)
        return 0.5 * (square - 1.0 - jnp.log(square) + jnp.square(self.mean))


def learned(model: CVAE, params: Params, state: State, *, radius: Radius) -> PerturbationSet:
    """Take decode(x, u) = g(mean(x) + u std(x), x) for |u| <= radius in l2, mean and deviation being the prior's.

    Any solver searches it by `sets.attack_through` and its siblings; u = 0 is near x, not x itself. The networks run in
    evaluation mode and no gradient flows to their parameters.

    Args:
      model: the autoencoder.
      params, state: of it, trained.
      radius: of the ball, such as the largest encoding of validation pairs; may be traced, or one per example.
    Returns:
      A set whose `prepare` runs the prior, so that a search runs it once.

    Reference: Wong and Kolter 2020, arXiv:2007.08450.
    """
    params, state = jax.lax.stop_gradient((params, state))

    def prepare(x: Images) -> Prepared:
        checks.floats("learned", x, lower=-jnp.inf, upper=jnp.inf)
        prior, _ = model.prior(params, state, x)
        return Prepared(x, prior.mean, prior.std)

    def decode(key: Keys, ready: Prepared, u: Array) -> Images:
        del key
        raw, _ = model.decode(params, state, ready.x, ready.mean + u * ready.std)
        return model.link(raw)

    return PerturbationSet(decode, Threat("l2", radius, -jnp.inf, jnp.inf), model.dimension, prepare)


def encoder(model: CVAE, params: Params, state: State) -> Callable[[Images, Images], Encoding]:
    """Build (x, perturbed) -> Encoding: where in the ball around x a perturbation of it lies.

    Reference: Wong and Kolter 2020, arXiv:2007.08450. Distances are divided by the prior's standard deviation;
      the published metrics code divides by its log-variance.
    """

    def encode(x: Images, perturbed: Images) -> Encoding:
        for images in (x, perturbed):
            checks.floats("encoder", images, lower=-jnp.inf, upper=jnp.inf)
        prior, _ = model.prior(params, state, x)
        posterior, _ = model.posterior(params, state, x, perturbed)
        return Encoding((posterior.mean - prior.mean) / prior.std, posterior.std / prior.std)

    return encode


def perturbed(space: PerturbationSet) -> Perturb:
    """Build `perturb(key, x)`: a perturbation by latents drawn from N(0, I) within the ball of a learned set.

    One line of augmentation for any training; the key is one key, or one per image. `space.sample` draws
    uniformly in the ball instead, which for many latents means near its surface.
    """

    def perturb(key: Keys, x: Images) -> Images:
        keys = keys_for(key, x.shape[0])
        u = truncated_normal(fold(keys, 1), x.shape[0], space.dimension, space.threat.eps)
        return space.decode(fold(keys, 0), space.prepare(x), u)

    return perturb


def noisy(space: PerturbationSet, sigma: float | Array) -> Perturb:
    """Build `perturb(key, x)` with latents from N(0, sigma^2 I), not cut off: to train for smoothing in latents."""

    def perturb(key: Keys, x: Images) -> Images:
        keys = keys_for(key, x.shape[0])
        u = sigma * jax.vmap(lambda k: jax.random.normal(k, (space.dimension,)))(fold(keys, 1))
        return space.decode(fold(keys, 0), space.prepare(x), u)

    return perturb
