"""A score smoothed by the median of noisy copies: how little it can change in an l2 ball, for any network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.stats import binom, norm

from robustjax.numerics import keys_for
from robustjax.smoothing.noise import Noise
from robustjax.types import Objective

Draw = Callable[[PRNGKeyArray, Array], Float[Array, "b n"]]


class Smoothed(NamedTuple):
    """What holds with probability 1 - alpha, per example; float64 numpy arrays (b,).

    Attributes:
      value: the estimate of the smoothed score.
      lower, upper: between them the smoothed score stays everywhere within the radius; infinite where n copies
        cannot tell.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def median(
    score: Objective,
    noise: Noise,
    *,
    radius: float,
    n: int = 10_000,
    alpha: float = 0.001,
    share: float = 0.5,
    chunk_size: int = 1000,
) -> Callable[[PRNGKeyArray, Array], Smoothed]:
    """Certify h(x + d) for |d|_2 <= radius, where h(x) is the median of score(x + N(0, sigma^2)).

    Within the radius the median lies between the quantiles Phi(-radius / sigma) and Phi(radius / sigma) at x, which
    order statistics of the copies bound. A score that is NaN counts as the worst for either bound. For a detector:
    the lower bounds of data beside the upper bounds of outliers give the guaranteed AUROC.

    Args:
      score: one value per example.
      noise: such as `in_pixels(0.25)`; its sigma must be known.
      radius: l2, in the units of the noise.
      n: noisy copies, all drawn here; memory of one score each.
      alpha: probability with which one of the two bounds may be wrong.
      share: another quantile than the median, in (0, 1).
      chunk_size: copies per forward pass.

    Returns:
      (key, x) -> Smoothed; one key, or one per example.

    Raises:
      ValueError: if radius is negative, n or chunk_size less than 1, or alpha or share outside (0, 1).

    Reference: Chiang et al. 2020, arXiv:2007.03399. There a bound each has probability alpha; here both together.
    """
    sigma = float(noise.sigma)
    order(n, radius, sigma, alpha, share)
    compiled = jax.jit(draw(score, noise, n=n, chunk_size=chunk_size))

    def run(key: PRNGKeyArray, x: Array) -> Smoothed:
        return certified(np.asarray(compiled(key, x)), radius=radius, sigma=sigma, alpha=alpha, share=share)

    return run


def draw(score: Objective, noise: Noise, *, n: int, chunk_size: int = 1000) -> Draw:
    """Score n noisy copies of each image, `chunk_size` at a time: (key, x) -> (b, n).

    An example's scores do not depend on its batch.

    Raises:
      ValueError: if n or chunk_size is less than 1.
    """
    if n < 1 or chunk_size < 1:
        raise ValueError(f"draw: n is {n} and chunk_size {chunk_size}, must be at least 1")
    size = min(n, chunk_size)
    turns = -(-n // size)

    def scores(key: PRNGKeyArray, x: Array) -> Float[Array, "b n"]:
        def one(row: tuple[PRNGKeyArray, Array]) -> Array:
            key, image = row

            def some(i: Array) -> Array:
                return score(noise.copies(jax.random.fold_in(key, i), image, size))

            return jax.lax.map(some, jnp.arange(turns)).reshape(-1)[:n]

        return jax.lax.map(one, (keys_for(key, x.shape[0]), x))

    return scores


def certified(
    scores: np.ndarray, *, radius: float, sigma: float, alpha: float = 0.001, share: float = 0.5
) -> Smoothed:
    """Bound a smoothed score by the scores of noisy copies (b, n); other settings as in `median`."""
    scores = np.asarray(scores, np.float64)
    n = scores.shape[1]
    first, last = order(n, radius, sigma, alpha, share)
    unknown = np.isnan(scores)
    low = np.sort(np.where(unknown, -np.inf, scores), axis=1)
    high = np.sort(np.where(unknown, np.inf, scores), axis=1)
    nothing = np.full(len(scores), np.inf)
    return Smoothed(
        value=np.quantile(scores, share, axis=1, method="inverted_cdf"),
        lower=low[:, first - 1] if first >= 1 else -nothing,
        upper=high[:, last - 1] if last <= n else nothing,
    )


def order(n: int, radius: float, sigma: float, alpha: float, share: float = 0.5) -> tuple[int, int]:
    """Name the order statistics that bound the smoothed score: the `first` smallest and the `last` smallest of n.

    The `first` smallest of n copies exceeds the lower quantile with probability at most alpha / 2: fewer than
    `first` copies, a binomial number, must lie below it. 0 and n + 1 stand for no bound.

    Raises:
      ValueError: for settings that mean nothing; see `median`.
    """
    if not radius >= 0 or not sigma > 0:
        raise ValueError(f"median: radius is {radius} and sigma {sigma}, must be at least 0 and above 0")
    if not (0 < alpha < 1 and 0 < share < 1):
        raise ValueError(f"median: alpha is {alpha} and share {share}, must be in (0, 1)")
    if n < 1:
        raise ValueError(f"median: n is {n}, must be at least 1")
    shift = radius / sigma
    below, above = norm.cdf(norm.ppf(share) - shift), norm.cdf(norm.ppf(share) + shift)
    first = int(binom.ppf(alpha / 2, n, below))
    # ppf may be off by one where the tail is alpha / 2 to the last digit.
    while first > 0 and binom.cdf(first - 1, n, below) > alpha / 2:
        first -= 1
    last = int(binom.ppf(1 - alpha / 2, n, above)) + 1
    while last <= n and binom.sf(last - 1, n, above) > alpha / 2:
        last += 1
    return first, last
