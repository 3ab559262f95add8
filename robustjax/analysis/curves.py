"""Robust accuracy over radii, by one compiled evaluation."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax import evaluation, logit
from robustjax.analysis.intervals import Estimate, proportion
from robustjax.attacks import objectives
from robustjax.attacks.solver import better
from robustjax.numerics import fold
from robustjax.types import Attack, Batch, Found, Keys, Mask, Model, Params, State, frozen


class Curve(NamedTuple):
    """What happened to every example at every radius.

    Attributes:
      eps: (r,) radii, rising, in the units of x.
      robust: (r, n) whether the prediction was right at this radius and all smaller ones.
      margin: (r, n) the largest max_{j != y} z_j - z_y found up to this radius; positive where broken.
      x: (r, n, ...) the points with these margins: adversarial, or the strongest found.
      logits: (r, n, k) there.
    """

    eps: np.ndarray
    robust: np.ndarray
    margin: np.ndarray
    x: np.ndarray
    logits: np.ndarray

    def accuracy(self, *, level: float = 0.95) -> list[Estimate]:
        """Estimate the robust accuracy at each radius, with exact binomial intervals."""
        return [proportion(hits, level=level) for hits in self.robust]


def over_radii(model: Model, attack_at: Callable[[Array], Attack]) -> Callable[..., Curve]:
    """Build an evaluation that attacks a model at several radii; it compiles once.

    A point found at one radius is feasible at every larger one, so it is kept as long as nothing worse is
    found: the curve never rises.

    Args:
      model: the classifier.
      attack_at: builds the attack from the radius, which is traced.

    Returns:
      (key, params, state, batches, eps) -> Curve, where `batches` yields (batch, mask) and `eps` lists the radii
      in any order; radius 0 means the clean images. Raises ValueError for a radius that is negative or NaN.
    """

    def one(keys: Keys, batch: Batch, params: Params, state: State, eps: Array):
        logits_fn = frozen(model, params, state)
        margin = objectives.margin(logits_fn, batch.label)

        def widen(worst: Found, step: tuple[Array, Array]):
            i, radius = step
            point = attack_at(radius)(fold(keys, i), logits_fn, batch.image, batch.label).x
            point = jnp.where(radius > 0, point, batch.image)
            worst = better(worst, Found(point, margin(point)))
            logits = logits_fn(worst.x)
            return worst, (logit.correct(logits, batch.label) > 0, worst.value, worst.x, logits)

        start = Found(batch.image, margin(batch.image))
        _, outcome = jax.lax.scan(widen, start, (jnp.arange(eps.shape[0]), eps))
        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), outcome)

    evaluate = evaluation.mapped(one)

    def curve(
        key: PRNGKeyArray,
        params: Params,
        state: State,
        batches: Iterable[tuple[Batch, Mask]],
        eps: Sequence[float] | np.ndarray,
    ) -> Curve:
        radii = np.sort(np.asarray(eps, np.float32))
        if radii.size == 0 or not (radii >= 0).all():
            raise ValueError(f"over_radii: eps is {list(eps)}, must be one or more radii of at least 0")
        outcome = evaluate(key, batches, params, state, radii)
        right, margin, x, logits = (np.moveaxis(a, 1, 0) for a in outcome)
        return Curve(radii, np.logical_and.accumulate(right), margin, x, logits)

    return curve
