"""How good a learned perturbation set is: does it hold the real perturbations, and little else?"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks import compose
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import better
from robustjax.models.cvae import CVAE, Likelihood, error
from robustjax.numerics import constant, fold, keys_for
from robustjax.perturbations.learned import encoder, learned
from robustjax.perturbations.truncated import truncated_normal
from robustjax.threats import Threat
from robustjax.types import Found, Images, Keys, Objective, Params, PerExample, Radius, State


class Quality(NamedTuple):
    """What is measured per pair, (b,) each; errors are means over pixels of squares, or of cross-entropies.

    Attributes:
      encoded: error at the encoding, projected to the ball.
      nearest: smallest error that a search finds in the ball, from the encoding: the approximation error. Small if
        the set holds the perturbation.
      expected: average error over the ball, by samples of a normal cut off at the radius: small if there is little
        else.
      farthest: largest error that a search finds: how far the set reaches.
      reconstruction: error at one sample of the posterior.
      kl: of the posterior from the prior, in nats.
      norm: of the encoding; the pair is inside where it is at most the radius.
    """

    encoded: PerExample
    nearest: PerExample
    expected: PerExample
    farthest: PerExample
    reconstruction: PerExample
    kl: PerExample
    norm: PerExample


Measure = Callable[[Keys, Images, Images], Quality]  # (key, x, perturbed)


def quality(
    model: CVAE,
    params: Params,
    state: State,
    *,
    radius: Radius,
    likelihood: Likelihood = "gaussian",
    steps: int = 50,
    restarts: int = 5,
    samples: int = 5,
) -> Measure:
    """Measure how well the ball of a radius covers pairs; every pair on its own, whatever the batch.

    Args:
      model, params, state: the trained autoencoder.
      radius: of the ball; may be traced.
      likelihood: "gaussian" for squares, "bernoulli" for cross-entropies.
      steps: of each search: for the nearest by falling steps, for the farthest by `apgd`.
      restarts: of the search for the largest error, which has many local maxima even for linear decoders.
      samples: of the ball, for the average.
    Returns:
      (key, x, perturbed) -> Quality.

    Reference: Wong and Kolter 2020, arXiv:2007.08450: encoder, PGD, expected and over-approximation error.
      Deviations: step sizes; truncation to the ball, where the published code draws without; projections
      of rows, not columns.
    """
    space, encode = learned(model, params, state, radius=radius), encoder(model, params, state)
    params, state = jax.lax.stop_gradient((params, state))

    def measure(key: Keys, x: Images, perturbed: Images) -> Quality:
        keys, ready, found = keys_for(key, x.shape[0]), space.prepare(x), encode(x, perturbed)

        def reconstruction_error(u: Array) -> PerExample:
            raw, _ = model.decode(params, state, x, ready.mean + u * ready.std)
            return error(raw, perturbed, likelihood, model.link) / x[0].size

        origin = space.origin(x)
        inside = space.threat.project(found.mean, origin)
        nearest = nearest_from(space.threat, reconstruction_error, origin, inside, steps=steps)
        ascent = apgd(space.threat, steps=steps, start=space.threat.sample)
        repeated = compose.restarts(ascent, restarts, chunk_size=1)
        farthest = repeated(fold(keys, 1), reconstruction_error, origin).value

        def sampled(i: Array) -> PerExample:
            return reconstruction_error(
                truncated_normal(fold(fold(keys, 2), i), x.shape[0], space.dimension, radius)
            )

        own = fold(keys, 3)
        noise = jax.vmap(lambda k: jax.random.normal(k, (space.dimension,)))(own)
        return Quality(
            encoded=reconstruction_error(inside),
            nearest=nearest,
            expected=jax.lax.map(sampled, jnp.arange(samples)).mean(axis=0),
            farthest=farthest,
            reconstruction=reconstruction_error(found.mean + found.std * noise),
            kl=found.kl().sum(axis=1),
            norm=found.norm,
        )

    return measure


def nearest_from(
    threat: Threat, error_of: Objective, origin: Array, start: Array, *, steps: int
) -> PerExample:
    """Find the smallest error in a ball by PGD whose steps fall along a cosine from a fifth of the radius to 0.

    Around the encoding the valley is long and narrow, where steps that fall do better than momentum.

    Args:
      threat: the ball.
      error_of: latents -> error.
      origin: the centre of the ball.
      start: where the search starts, such as the encoding.
      steps: gradients.
    """

    def objective(u: Array) -> PerExample:
        return -error_of(u)

    share = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.arange(steps, dtype=jnp.float32) / steps))
    unused = jax.random.key(0)

    def move(carry: tuple[Found, Array], share: Array) -> tuple[tuple[Found, Array], None]:
        best, last = carry
        length = 0.2 * share * constant(origin, jnp.asarray(threat.eps, jnp.float32))
        step = pgd(threat, steps=1, step_size=length, start=lambda key, o: last, keep="last")
        found = step(unused, objective, origin)
        return (better(best, found), found.x), None

    first = Found(start, objective(start))
    return -jax.lax.scan(move, (first, start), share)[0][0].value


def coverage(values: PerExample | np.ndarray, tolerance: float) -> Array | np.floating:
    """Give the share of pairs whose error, such as `Quality.nearest`, is within a tolerance."""
    return (values <= tolerance).mean()


def conformal_radius(norms: Array, *, alpha: float) -> float:
    """Choose the radius that holds the encoding of a new pair with probability at least 1 - alpha.

    It is the ceil((n + 1)(1 - alpha))-th smallest of n held-out norms. New pairs must come from the same source as
    the held-out ones.

    Raises:
      ValueError: if alpha is outside (0, 1), norms are no vector of finite numbers, or so few that no finite radius
        holds at alpha: the largest of them promises nothing.
    """
    shape = jnp.shape(norms)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"conformal_radius: norms have shape {shape}, must be a vector of at least one")
    checks.finite("conformal_radius", "norms", norms)
    checks.number("conformal_radius", "alpha", alpha, above=0, below=1)
    rank = -int(-(len(norms) + 1) * (1 - alpha) // 1)
    if rank > len(norms):
        raise ValueError(
            f"conformal_radius: {len(norms)} norms allow no finite radius at alpha {alpha:g}, must be at least "
            f"{math.ceil(1 / alpha) - 1}"
        )
    return float(jnp.sort(norms)[rank - 1])


class Norms(NamedTuple):
    """Statistics of the norms of encodings of held-out pairs; radii are chosen from these."""

    quartile: float
    median: float
    upper: float
    percentile_99_9: float
    largest: float
    mean: float
    deviation: float


def norms(values: Array) -> Norms:
    """Summarise norms: quartiles, 99.9th percentile, largest, mean and standard deviation.

    The published radii are the largest, rounded up, for training; the three quartiles and the largest for attacks.
    """
    quartile, median, upper, percentile = (
        float(q) for q in jnp.quantile(values, jnp.asarray([0.25, 0.5, 0.75, 0.999]))
    )
    return Norms(
        quartile, median, upper, percentile, float(values.max()), float(values.mean()), float(values.std())
    )
