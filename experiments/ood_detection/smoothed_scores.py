"""A detector smoothed by the median of noisy copies: what is proved of it in l2, and what an attack does to it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax.attacks.apgd import apgd
from robustjax.bounds.confidence import guaranteed_auroc
from robustjax.ood import metrics, score_attacks
from robustjax.ood.scores import Score
from robustjax.smoothing.median import certified, noisy_scores
from robustjax.smoothing.noise import in_pixels
from robustjax.threats import Threat
from robustjax.types import Images, Number

ALPHA = 0.001  # with which the bounds of one image may be wrong
CHUNK = 100  # copies in one forward pass
CLIMBED = 16  # copies whose mean score an attack climbs


def draws(score: Score, sigma: float, copies: int) -> Callable[[PRNGKeyArray, Images], Array]:
    """Score noisy copies: (one key per example, x) -> (b, copies)."""
    return noisy_scores(score, in_pixels(sigma), samples=copies, chunk_size=CHUNK)


def moved(
    score: Score, sigma: float, eps: Number, *, down: bool, steps: int
) -> Callable[[PRNGKeyArray, Images], Images]:
    """Build an attack on the smoothed score within l2 eps: climb the mean over copies whose noise stays the same."""

    def attack(keys: PRNGKeyArray, x: Images) -> Images:
        noise = jax.vmap(lambda k: in_pixels(sigma).sample(k, jnp.zeros(x.shape[1:], x.dtype), CLIMBED))(keys)

        def smooth(x: Images) -> Array:
            return jax.lax.map(lambda n: score(x + n), noise.swapaxes(0, 1)).mean(axis=0)

        search = (score_attacks.down if down else score_attacks.up)(
            apgd(Threat("l2", eps), steps=steps), smooth
        )
        return search(keys, x).x

    return attack


def told(
    inside: np.ndarray,
    outside: np.ndarray,
    attacked: Mapping[float, tuple[np.ndarray, np.ndarray]],
    sigma: float,
) -> dict[str, Any]:
    """Compute the AUROC of the smoothed score: clean, and per radius what is certified and what an attack leaves.

    Args:
      inside, outside: scores of the noisy copies of data and of outliers, (n, copies).
      attacked: by radius, the smoothed scores of attacked data and outliers.
      sigma: of the noise.
    """
    clean = [certified(scores, radius=0.0, sigma=sigma).value for scores in (inside, outside)]
    found: dict[str, Any] = {"auroc": metrics.auroc(*clean)}
    for radius, (low, high) in attacked.items():
        data, strange = (
            certified(scores, radius=radius, sigma=sigma, alpha=ALPHA) for scores in (inside, outside)
        )
        found[f"{radius:.4g}"] = {
            "certified_out": guaranteed_auroc(clean[0], strange.upper),
            "certified_both": guaranteed_auroc(data.lower, strange.upper),
            "auroc_out": metrics.auroc(clean[0], high),
            "auroc_both": metrics.auroc(low, high),
        }
    return found
