"""A score smoothed by the median over Gaussian noise: how little it can change in an l2 ball, for any network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import binomial, checks
from robustjax.numerics import in_float32, keys_for
from robustjax.smoothing.noise import Noise
from robustjax.types import Keys, Objective

NoisyScores = Callable[[Keys, Array], Float[Array, "b n"]]


class Smoothed(NamedTuple):
    """What holds with probability 1 - alpha, per example; float64 numpy arrays (b,).

    Attributes:
      value: the estimate of the smoothed score.
      lower, upper: between them the smoothed score stays everywhere within the radius; infinite where the
        samples are too few.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def median(
    score: Objective,
    noise: Noise,
    *,
    radius: float,
    samples: int = 10_000,
    alpha: float = 0.001,
    quantile: float = 0.5,
    chunk_size: int = 1000,
) -> Callable[[Keys, Array], Smoothed]:
    """Certify h(x + d) for |d|_2 <= radius, where h(x) is the median of score(x + N(0, sigma^2)).

    Within the radius the median lies between the quantiles Phi(-radius / sigma) and Phi(radius / sigma) at x, which
    order statistics of the samples bound. A score that is NaN counts as the worst for either bound. For a detector:
    the lower bounds of in-distribution beside the upper bounds of OOD images give the guaranteed AUROC.

    Args:
      score: one value per example.
      noise: such as `in_pixels(0.25)`; its sigma must be known.
      radius: l2, in the units of the noise.
      samples: of the noise; memory of one score each.
      alpha: probability with which one of the two bounds may be wrong.
      quantile: another one than the median, in (0, 1).
      chunk_size: samples per forward pass.

    Returns:
      (key, x) -> Smoothed; one key, or one per example.

    Raises:
      ValueError: if radius is negative, samples or chunk_size less than 1, or alpha or quantile outside (0, 1).

    Reference: Chiang et al. 2020, arXiv:2007.03399. There a bound each has probability alpha; here both together.
    """
    checks.positive("median", "sigma", noise.sigma)
    sigma = float(noise.sigma)
    _check(samples, radius, sigma, alpha, quantile)
    compiled = jax.jit(noisy_scores(score, noise, samples=samples, chunk_size=chunk_size))

    def run(key: Keys, x: Array) -> Smoothed:
        checks.examples("median", x, lower=noise.lower, upper=noise.upper)
        scores = np.asarray(compiled(key, x))
        return certified(scores, radius=radius, sigma=sigma, alpha=alpha, quantile=quantile)

    return run


def noisy_scores(score: Objective, noise: Noise, *, samples: int, chunk_size: int = 1000) -> NoisyScores:
    """Score samples of each image under noise, `chunk_size` at a time: (key, x) -> (b, samples).

    An example's scores do not depend on its batch.

    Raises:
      ValueError: if samples or chunk_size is less than 1.
    """
    checks.count("noisy_scores", "samples", samples)
    checks.count("noisy_scores", "chunk_size", chunk_size)
    size = min(samples, chunk_size)
    turns = -(-samples // size)

    @in_float32
    def scores(key: Keys, x: Array) -> Float[Array, "b n"]:
        checks.examples("noisy_scores", x, lower=noise.lower, upper=noise.upper)

        def one(row: tuple[Keys, Array]) -> Array:
            key, image = row

            def some(i: Array) -> Array:
                found = score(noise.sample(jax.random.fold_in(key, i), image, size))
                if getattr(found, "shape", None) != (size,):
                    raise ValueError(
                        f"noisy_scores: score gives {getattr(found, 'shape', type(found).__name__)} for {size} "
                        f"images, must give ({size},), one value for each"
                    )
                return found

            return jax.lax.map(some, jnp.arange(turns)).reshape(-1)[:samples]

        return jax.lax.map(one, (keys_for(key, x.shape[0]), x))

    return scores


def certified(
    scores: np.ndarray, *, radius: float, sigma: float, alpha: float = 0.001, quantile: float = 0.5
) -> Smoothed:
    """Bound a smoothed score by the scores of samples under noise (b, samples); other settings as in `median`."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise ValueError(f"certified: scores have shape {scores.shape}, must be (b, samples)")
    samples = scores.shape[1]
    _check(samples, radius, sigma, alpha, quantile)
    first, last = binomial.order_statistics(samples, alpha, quantile=quantile, shift=radius / sigma)
    unknown = np.isnan(scores)
    low = np.sort(np.where(unknown, -np.inf, scores), axis=1)
    high = np.sort(np.where(unknown, np.inf, scores), axis=1)
    no_bound = np.full(len(scores), np.inf)
    return Smoothed(
        value=np.quantile(scores, quantile, axis=1, method="inverted_cdf"),
        lower=low[:, first - 1] if first >= 1 else -no_bound,
        upper=high[:, last - 1] if last <= samples else no_bound,
    )


def _check(samples: int, radius: float, sigma: float, alpha: float, quantile: float) -> None:
    checks.not_negative("median", "radius", radius)
    checks.positive("median", "sigma", sigma)
    checks.share("median", "alpha", alpha)
    checks.share("median", "quantile", quantile)
    checks.count("median", "samples", samples)
