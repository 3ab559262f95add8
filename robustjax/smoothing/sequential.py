"""Certification that stops when it knows enough."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import binomial, checks
from robustjax.numerics import fold, keys_for
from robustjax.smoothing.certify import ABSTAIN, Certificate, check, reach_of
from robustjax.smoothing.radii import Reach
from robustjax.smoothing.votes import Count, require, require_norm
from robustjax.types import Keys


class Sequential(NamedTuple):
    """Certificates, and how many samples each example took for its bound, (b,)."""

    certificate: Certificate
    samples: np.ndarray


def certify_up_to(
    count: Count,
    *,
    sigma: float | None = None,
    radius: float,
    selection_samples: int = 100,
    phases: Sequence[int] = (100, 1000, 10_000, 100_000),
    alpha: float = 0.001,
    reach: Reach | None = None,
) -> Callable[[Keys, Array], Sequential]:
    """Certify as `certify` does, but stop an example once its radius is reached, or is out of reach.

    At the end of each phase, alpha / len(phases) is spent on the bound over all samples so far. With probability
    1 - alpha all bounds hold at once, whenever an example stops, so the largest is taken. An example also stops where
    an upper bound of the same level says that the radius will not be reached; this costs power, never soundness.

    Args:
      count: as in `certify`.
      sigma: standard deviation of the noise that `count` draws.
      radius: wanted, in the units of the noise; 0 asks for the label alone.
      selection_samples: for the choice of the class.
      phases: total numbers of samples at the end of each phase, growing.
      alpha: probability with which a certificate may be wrong.
      reach: for other noise than Gaussian, in the place of sigma.
    Returns:
      (key, x) -> Sequential. Examples that have stopped cost nothing in later phases.
    Raises:
      ValueError: if sigma is not positive, alpha outside (0, 1), the radius negative, selection_samples less than
        1, or the phases do not grow.

    Reference: Horvath et al. 2022, arXiv:2106.06946, who split alpha over phases. Deviation: all phases share
      their samples, and a bound of an earlier phase is kept.
    """
    far = reach_of("certify_up_to", sigma, reach)
    require_norm("certify_up_to", count, far.norm)
    check("certify_up_to", alpha, selection_samples, *phases)
    checks.not_negative("certify_up_to", "radius", radius)
    if not phases or list(phases) != sorted(set(phases)):
        raise ValueError(f"certify_up_to: phases is {tuple(phases)}, must grow from at least one number")
    compiled, spent, needed = jax.jit(count), alpha / len(phases), far.chance(radius)

    def run(key: Keys, x: Array) -> Sequential:
        require("certify_up_to", count, x)
        keys = keys_for(key, x.shape[0])
        rows = np.arange(x.shape[0])
        chosen = np.asarray(compiled(fold(keys, 0), x, jnp.full(len(rows), selection_samples))).argmax(axis=1)
        wins, drawn = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        bound, going = np.zeros(len(rows)), np.ones(len(rows), bool)
        for i, total in enumerate(phases):
            more = np.where(going, total - drawn, 0).astype(np.int32)
            wins += np.asarray(compiled(fold(keys, i + 1), x, jnp.asarray(more)))[rows, chosen]
            drawn += more
            bound = np.maximum(bound, np.where(going, binomial.lower(wins, drawn, spent), 0.0))
            going &= (bound < needed) & (binomial.upper(wins, drawn, spent) >= needed)
            if not going.any():
                break
        label = np.where(bound >= 0.5, chosen, ABSTAIN).astype(np.int32)
        return Sequential(Certificate(label, far.radius(bound), bound), drawn)

    return run
