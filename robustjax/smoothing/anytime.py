"""Certification that looks as often as it likes, and stops when the radius is known well enough."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import binomial, checks
from robustjax.numerics import fold, keys_for
from robustjax.smoothing.certify import ABSTAIN, Certificate, check, reach_of
from robustjax.smoothing.radii import Reach
from robustjax.smoothing.sequential import Sequential
from robustjax.smoothing.votes import Count, require, require_norm
from robustjax.types import Keys


def certify_within(
    count: Count,
    *,
    sigma: float | None = None,
    gap: float,
    selection_samples: int = 100,
    look_every: int = 1000,
    most: int = 100_000,
    alpha: float = 0.001,
    reach: Reach | None = None,
) -> Callable[[Keys, Array], Sequential]:
    """Certify, and stop an example once its radius is known to within a gap, or no class can win.

    After every `look_every` samples the probability of the chosen class is bounded from both sides, by bounds that hold
    for all numbers of samples at once (`binomial.between`): nothing is lost by looking, whenever one stops. An example
    stops when the radii of the two bounds differ by at most `gap`, or when the upper one is below one half.

    Args:
      count: as in `certify`.
      sigma: standard deviation of the noise that `count` draws.
      gap: in the units of the radius.
      selection_samples: for the choice of the class.
      look_every: samples between two looks.
      most: samples for the bound, at which every example stops.
      alpha: probability with which a certificate may be wrong.
      reach: for other noise than Gaussian, in the place of sigma.
    Returns:
      (key, x) -> Sequential. Examples that have stopped cost nothing later.
    Raises:
      ValueError: if a setting is out of range, or sigma and reach are both given or neither.
    """
    far = reach_of("certify_within", sigma, reach)
    require_norm("certify_within", count, far.norm)
    check("certify_within", alpha, selection_samples, look_every, most)
    checks.positive("certify_within", "gap", gap)
    if look_every > most:
        raise ValueError(
            f"certify_within: look_every is {look_every} and most {most}, must be at most as many"
        )
    compiled = jax.jit(count)

    def run(key: Keys, x: Array) -> Sequential:
        require("certify_within", count, x)
        keys = keys_for(key, x.shape[0])
        rows = np.arange(x.shape[0])
        first = jnp.full(len(rows), selection_samples)
        chosen = np.asarray(compiled(fold(keys, 0), x, first)).argmax(axis=1)
        wins, drawn = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        low, high, going = np.zeros(len(rows)), np.ones(len(rows)), np.ones(len(rows), bool)
        for look in range(-(-most // look_every)):
            more = np.where(going, np.minimum(look_every, most - drawn), 0).astype(np.int32)
            wins += np.asarray(compiled(fold(keys, look + 1), x, jnp.asarray(more)))[rows, chosen]
            drawn += more
            below, above = binomial.between(wins, drawn, alpha)
            # All bounds hold at once, so the tightest of them does.
            low, high = (
                np.where(going, np.maximum(low, below), low),
                np.where(going, np.minimum(high, above), high),
            )
            going &= (far.radius(high) - far.radius(low) > gap) & (high >= 0.5) & (drawn < most)
            if not going.any():
                break
        label = np.where(low >= 0.5, chosen, ABSTAIN).astype(np.int32)
        return Sequential(Certificate(label, far.radius(low), low), drawn)

    return run
