"""ROSS: the median of a score over noisy copies, raised where the copies agree."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from robustjax import checks
from robustjax.ood.detectors import Detector, FitInputs, ScoreInputs
from robustjax.ood.scores import Score
from robustjax.types import Images, PerExample

SMALLEST = 1e-12  # added to a deviation that is divided by


@partial(jax.tree_util.register_dataclass, data_fields=["base", "noise", "cut", "weight"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Smoothed:
    """What the base score is fitted to, the noise, and the median that most ID images exceed."""

    base: PyTree
    noise: Float[Array, "s h w c"]
    cut: Float[Array, ""]
    weight: Float[Array, ""]


def ross(
    base: Detector, *, sigma: float = 0.0125, samples: int = 25, weight: float = 0.01, seed: int = 0
) -> Detector:
    """Smooth a detector by the median of its scores over noisy copies, and reward those that agree.

    With the median m and the mean absolute deviation a from it, the score is
    min(m, t) + max(m - t, 0) (1 + weight / a); t is the 5 % quantile of m on ID validation images. OOD
    images move more under noise.

    The noise is drawn once, the same for every image, so that an attack sees what is evaluated. The median has the
    slope of the copy in the middle.

    Args:
      base: a detector, such as `post_processors.fdbd()`.
      sigma: of the noise, in the units of x.
      samples: noisy copies.
      weight: of the stability.
      seed: of the noise.
    Raises:
      ValueError: if a setting is out of range.

    Reference: Stoica, Hekal and Lomuscio 2026, arXiv:2605.08191, as its code computes it, with fDBD, 25 copies and
      weight 0.01. Its noise of 0.05 is on normalised pixels: in [0, 1] that is 0.05 times their standard deviation,
      about 0.0125; for networks that take pixels in [0, 1] it is 0.05.
    """
    checks.number("ross", "sigma", sigma, above=0)
    checks.count("ross", "samples", samples)
    checks.number("ross", "weight", weight, least=0)
    checks.seed("ross", seed)

    def fit(given: FitInputs) -> Smoothed:
        if given.measure is None:
            raise ValueError("ross: it is fitted to noisy images, FitInputs.measure must be there")
        shape = given.measure("held_out", _shape)
        noise = np.random.default_rng(seed).normal(size=(samples, *shape[0])).astype(np.float32) * sigma
        found = Smoothed(
            base.fit(given) if base.fit else (), jnp.asarray(noise), jnp.float32(0), jnp.float32(weight)
        )
        medians = given.measure("held_out", _Median(base), found)
        return dataclasses.replace(found, cut=jnp.float32(np.quantile(medians, 0.05)))

    def build(inputs: ScoreInputs) -> Score:
        copies, kept = _copies(base, inputs), inputs.fitted

        def score(x: Images) -> PerExample:
            scores = copies(x)
            median = jnp.median(scores, axis=0)
            deviation = jnp.abs(scores - median[None]).mean(axis=0)
            stable = 1 + kept.weight / (deviation + SMALLEST)
            return jnp.minimum(median, kept.cut) + jnp.maximum(median - kept.cut, 0.0) * stable

        return score

    return Detector(build, fit, needs_last_layer=base.needs_last_layer, reads="images")


@dataclasses.dataclass(frozen=True)
class _Median:
    base: Detector

    def __call__(self, inputs: ScoreInputs) -> Callable[[Images], PerExample]:
        copies = _copies(self.base, inputs)
        return lambda x: jnp.median(copies(x), axis=0)


def _copies(base: Detector, inputs: ScoreInputs) -> Callable[[Images], Float[Array, "s b"]]:
    """Score noisy copies, one after the other."""
    kept = inputs.fitted
    score = base.build(inputs._replace(fitted=kept.base))
    return lambda x: jax.lax.map(lambda noise: score(x + noise[None]), kept.noise)


def _shape(inputs: ScoreInputs) -> Any:
    """Give the shape of each image."""
    return lambda x: jnp.broadcast_to(jnp.asarray(x.shape[1:]), (x.shape[0], x.ndim - 1))
