"""Does a detector tell that an image is adversarial, or merely that it was changed by eps? Noise of the same size.

A claim that adversarial examples are OOD needs these beside it: if noise that the classifier classifies correctly
scores as low, being OOD is not what makes the classifier fail.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robustjax.numerics import divide, keys_for, norm, per_example
from robustjax.ood.metrics import aupr_in, aupr_out, auroc, fpr, fpr_id95, threshold_keeping
from robustjax.types import Images, Keys, Number


def sign_noise(key: Keys, x: Images, eps: Number) -> Images:
    """Move every pixel up or down by eps at random, within [0, 1]: the corners an linf attack likes."""
    return jnp.clip(x + eps * _drawn(jax.random.rademacher, key, x), 0.0, 1.0)


def uniform_noise(key: Keys, x: Images, eps: Number) -> Images:
    """Move every pixel by up to eps at random, within [0, 1]."""
    noise = _drawn(lambda k, shape, dtype: jax.random.uniform(k, shape, dtype, -1.0, 1.0), key, x)
    return jnp.clip(x + eps * noise, 0.0, 1.0)


def as_far(key: Keys, x: Images, other: Images) -> Images:
    """Add normal noise of the l2 norm of `other - x`, then cut to [0, 1], which shortens it a little."""
    noise = _drawn(jax.random.normal, key, x)
    length = divide(norm(other - x, "l2"), norm(noise, "l2"))
    return jnp.clip(x + per_example(length, x) * noise, 0.0, 1.0)


def rounded(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Round to the 256 levels of a picture file."""
    return jnp.round(x * 255.0) / 255.0


def detection(
    inside: ArrayLike,
    outside: ArrayLike,
    calibration: ArrayLike,
    *,
    rates: tuple[float, ...] = (0.0, 0.01, 0.05),
) -> dict[str, float]:
    """Measure how well scores tell OOD from ID images: over thresholds, and at those of held-out images.

    Args:
      inside: scores of ID test images (n,), larger than those of OOD images.
      outside: scores of OOD images, adversarial examples or noise (m,).
      calibration: scores of held-out training images, which set the thresholds.
      rates: shares of the calibration images that the thresholds reject.
    Returns:
      auroc; aupr_out and aupr_in, by which side is positive; fpr95, the share of OOD images that score above the
      5 % quantile of the ID ones; and for every rate `detected at r` and `false alarms at r`, in ID test images.
    """
    found = {
        "auroc": auroc(inside, outside),
        "aupr_out": aupr_out(inside, outside),
        "aupr_in": aupr_in(inside, outside),
        "fpr95": fpr_id95(inside, outside),
    }
    for rate in rates:
        threshold = threshold_keeping(calibration, 1 - rate)
        found[f"detected at {rate:g}"] = 1 - fpr(outside, threshold)
        found[f"false alarms at {rate:g}"] = 1 - fpr(inside, threshold)
    return found


def two_by_two(wrong: ArrayLike, flagged: ArrayLike) -> dict[str, float]:
    """Tabulate P(misclassified | detected as OOD) and P(misclassified | taken for ID), with the counts.

    NaN where nothing fell on a side. If being OOD caused mistakes, noise that is detected as OOD would be
    misclassified too.

    Raises:
      ValueError: if the two differ in length.
    """
    bad, out = np.asarray(wrong).astype(bool), np.asarray(flagged).astype(bool)
    if bad.shape != out.shape or bad.ndim != 1:
        raise ValueError(f"two_by_two: wrong is {bad.shape} and flagged {out.shape}, must be equal and (n,)")

    def share(side: np.ndarray) -> float:
        return float(bad[side].mean()) if side.any() else float("nan")

    return {
        "wrong if OOD": share(out),
        "wrong if ID": share(~out),
        "OOD": float(out.sum()),
        "ID": float((~out).sum()),
    }


def _drawn(draw, key: Keys, x: Array) -> Array:
    return jax.vmap(lambda k: draw(k, x.shape[1:], x.dtype))(keys_for(key, x.shape[0]))
