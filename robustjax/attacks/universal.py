"""Universal perturbations: one for all images, found by any search that finds one for an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.attacks import objectives
from robustjax.attacks.compose import Surrogate
from robustjax.threats import Threat
from robustjax.types import Ascent, Images, Keys, Labels, LogitsFn, Objective, PerExample


def shared(
    objective: Objective, x: Images, *, lower: float = 0.0, upper: float = 1.0, most: float | None = None
) -> Objective:
    """Give the mean of an objective over images that are all perturbed alike: delta -> mean_i f_i(clip(x_i + delta)).

    The images of a search become one example, (1, h, w, c), which is the perturbation.

    Args:
      objective: of all images together, (n, h, w, c) -> (n,).
      x: the images.
      lower, upper: the box that perturbed images are clipped to.
      most: no image counts with more than this: else the few that are easiest to break outweigh the others.
    """

    def mean(delta: Float[Array, "m h w c"]) -> PerExample:
        def one(delta: Array) -> Array:
            values = objective(jnp.clip(x + delta[None], lower, upper))
            return (values if most is None else jnp.minimum(values, most)).mean()

        return jax.lax.map(one, delta)

    return mean


def universal(
    ascent: Callable[[Threat], Ascent],
    threat: Threat,
    surrogate: Surrogate = objectives.cross_entropy,
    *,
    most: float | None = None,
) -> Callable[[Keys, LogitsFn, Images, Labels], Float[Array, "h w c"]]:
    """Search one perturbation for all images.

    Args:
      ascent: builds the search from a threat around 0, such as `lambda t: pgd(t, steps=100, step_size=0.1 * t.eps)`.
      threat: norm and radius of the perturbation, and the box of perturbed images.
      surrogate: what is maximised, in the mean over images.
      most: see `shared`; the paper's beta is 9 for cross-entropy on ImageNet.
    Returns:
      (key, logits_fn, x, y) -> the perturbation, in the ball; add it and clip to the box. It is made of these images:
      evaluate it on others.
    Raises:
      ValueError: as `objectives` and `Threat`.

    Reference: Shafahi et al. 2020, arXiv:1811.11304, section 3, with whole passes in the place of batches;
      Moosavi-Dezfooli et al. 2017, arXiv:1610.08401 (the question).
    """
    lower, upper = float(threat.lower), float(threat.upper)
    width = upper - lower
    search = ascent(Threat(threat.norm, threat.eps, -width, width))

    def find(key: Keys, logits_fn: LogitsFn, x: Images, y: Labels) -> Float[Array, "h w c"]:
        checks.array("universal", x)
        y = jnp.asarray(checks.classes("universal", y, len(x)))
        together = shared(surrogate(logits_fn, y), x, lower=lower, upper=upper, most=most)
        return search(key, together, jnp.zeros((1, *x.shape[1:]), x.dtype)).x[0]

    return find
