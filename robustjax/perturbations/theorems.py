"""Bounds on the quality of a learned set, from the evidence lower bound."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.perturbations.learned import Encoding
from robustjax.types import PerExample, Radius


class Bounds(NamedTuple):
    """A bound for each pair, (b,) each: within `radius` of the centre lies a point of squared error `error`."""

    radius: PerExample
    error: PerExample


def nearest_bound(found: Encoding, expected: PerExample, *, excess: float) -> Bounds:
    """Bound the smallest error in the ball, from the posterior's expected error and its divergence per latent.

    Some u with |u| <= B r + sqrt(sum_i K_i) has |g(u) - perturbed|^2 <= expected / (1 - excess), where K_i is twice
    the divergence of latent i, B^2 the larger root t of t - log t = 1 + max_i K_i, and r holds N(0, I) with
    probability 1 - excess.

    Args:
      found: encodings of pairs.
      expected: E_q |g - perturbed|^2 of each pair, summed over pixels, over its posterior.
      excess: probability that is given up, in (0, 1).

    Reference: in the spirit of theorem 1 of Wong and Kolter 2020, arXiv:2007.08450; an own proof: the ellipsoid
      |(u - m) / s| <= r has posterior mass 1 - excess, lies in the ball, and holds a point at most as bad as
      the average over it.
    """
    twice = jnp.maximum(2.0 * found.kl(), 1e-10)
    widest = twice.max(axis=1)
    root = 1.0 + jnp.sqrt(2.0 * widest) + widest  # above the root, from where Newton's steps only fall
    for _ in range(8):
        root = root - (root - jnp.log(root) - 1.0 - widest) / (1.0 - 1.0 / root)
    reach = chi_quantile(1.0 - excess, found.mean.shape[1])
    return Bounds(jnp.sqrt(root) * reach + jnp.sqrt(twice.sum(axis=1)), expected / (1.0 - excess))


def expected_bound(
    found: Encoding, expected: PerExample, inside: PerExample, *, radius: Radius
) -> PerExample:
    """Bound log E exp(-|g(u) - perturbed|^2 / 2) from below, over N(0, I) cut off at the radius.

    -expected / (2 Q) - (KL - (1 - Q) log((1 - Q) / (1 - P))) / Q + log(Q / P), with Q the posterior's and P the
    prior's probability of the ball.

    Args:
      found: encodings of pairs.
      expected: E_q |g - perturbed|^2 of each pair, summed over pixels.
      inside: Q, such as the share of draws from the posterior.
      radius: of the ball.

    Reference: in the spirit of theorem 2 of Wong and Kolter 2020, arXiv:2007.08450; an own proof: Jensen over the
      posterior in the ball, and the log-sum inequality for the mass outside.
    """
    divergence = found.kl().sum(axis=1)
    prior = ball_mass(radius, found.mean.shape[1])
    out = jnp.maximum(1.0 - inside, 0.0)
    # (1 - Q) log((1 - Q) / (1 - P)) tends to 0 with Q to 1, and is no help where P is 1.
    ratio = jnp.maximum(out, 1e-30) / jnp.maximum(1.0 - prior, 1e-30)
    outside = jnp.where((out > 0) & (prior < 1.0), out * jnp.log(ratio), 0.0)
    return -0.5 * expected / inside - (divergence - outside) / inside + jnp.log(inside / prior)


def ball_mass(radius: Radius, dimension: int) -> Array:
    """Give the probability that N(0, I) lies within a radius."""
    return jax.scipy.special.gammainc(0.5 * dimension, 0.5 * jnp.square(jnp.asarray(radius, jnp.float32)))


def chi_quantile(chance: float, dimension: int) -> Array:
    """Find the radius that holds N(0, I) with a given probability, by bisection."""

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        more = ball_mass(middle, dimension) < chance
        return jnp.where(more, middle, low), jnp.where(more, high, middle)

    ends = jnp.float32(0.0), jnp.float32(dimension**0.5 + 12.0)
    return jax.lax.fori_loop(0, 60, halve, ends)[1]
