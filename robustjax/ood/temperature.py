"""Temperature scaling: the maximum softmax probability, calibrated on validation images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.ood.logit_scores import msp_margin
from robustjax.types import Logits, PerExample

LEAST, MOST = 1e-2, 1e2  # a network that is always right would have the temperature 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Tempered:
    """The log odds of the likeliest class at a temperature: a form of logits."""

    temperature: Float[Array, ""]

    def __call__(self, logits: Logits) -> PerExample:
        """Compute log(p / (1 - p)) of p = max_k softmax(z / T)_k."""
        return msp_margin(logits / self.temperature)


def temperature_scaling(logits: np.ndarray, label: np.ndarray) -> Tempered:
    """Find the temperature at which logits have the least cross-entropy on validation images.

    The cross-entropy is convex in 1 / T, so the zero of its slope, mean E_p[z] - z_y, is found by bisection.

    Args:
      logits: of validation images (n, k).
      label: their classes (n,).
    Returns:
      A form: logits (b, k) -> scores (b,), which rank like the published maximum probability and do not saturate.
    Raises:
      ValueError: if logits are not finite, have fewer than two classes, or labels do not fit them.

    Reference: Guo et al. 2017, arXiv:1706.04599. OpenOOD takes up to 50 steps of L-BFGS from 1.5; T is kept in
      [0.01, 100] here.
    """
    z = checks.rows("temperature_scaling", "logits", logits)
    if z.shape[1] < 2:
        raise ValueError(f"temperature_scaling: {z.shape[1]} classes given, needs at least 2")
    y = checks.labels("temperature_scaling", label, count=len(z), classes=z.shape[1])
    own = z[np.arange(len(z)), y]

    def slope(inverse: float) -> float:
        p = np.exp(inverse * (z - z.max(axis=1, keepdims=True)))
        return float(((p * z).sum(axis=1) / p.sum(axis=1) - own).mean())

    low, high = np.log(1 / MOST), np.log(1 / LEAST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(float(np.exp(middle))) > 0 else (middle, high)
    return Tempered(jnp.float32(np.exp(-(low + high) / 2)))
