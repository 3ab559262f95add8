"""OpenMax: logits lowered by how extreme their distance from the class mean is; what they lose is one more."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.types import Logits, PerExample

SHIFT = 1e4  # libMR's: distances are moved so that the least of a tail lies there


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["means", "shape", "log_scale", "least"],
    meta_fields=["alpha"],
)
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class OpenMax:
    """Class means of logits, and Weibull distributions of the distances from them: a form of logits."""

    means: Float[Array, "k k"]
    shape: Float[Array, "k"]
    log_scale: Float[Array, "k"]  # less log SHIFT
    least: Float[Array, "k"]
    alpha: int

    def __call__(self, logits: Logits) -> PerExample:
        """Compute the log odds of the known classes against the unknown one."""
        largest, which = jax.lax.top_k(logits, self.alpha)
        away = logits[:, None, :] - self.means[which]
        square = jnp.square(away).sum(axis=-1)
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        moved = jnp.log1p(jnp.maximum((distance - self.least[which]) / SHIFT, -0.99))
        power = jnp.clip(self.shape[which] * (moved - self.log_scale[which]), -80.0, 80.0)
        extreme = -jnp.expm1(-jnp.exp(power))
        lost = largest * extreme * (1.0 - jnp.arange(self.alpha, dtype=logits.dtype) / self.alpha)[None]
        there = jax.nn.one_hot(which, logits.shape[1], dtype=logits.dtype)
        lowered = logits - (lost[:, :, None] * there).sum(axis=1)
        return jax.nn.logsumexp(lowered, axis=1) - lost.sum(axis=1)


def openmax(logits: np.ndarray, label: np.ndarray, *, tail: int = 20, alpha: int = 3) -> OpenMax:
    """Fit a Weibull distribution to the largest distances of each class from its mean logits.

    Of the alpha largest logits, the one of rank i loses the share (alpha - i) / alpha of its Weibull probability of
    being extreme; what all lose is the logit of the unknown class.

    Args:
      logits: of training images (n, k).
      label: their classes (n,).
      tail: how many of the largest distances of a class are fitted.
      alpha: how many of the largest logits are lowered; at most k.
    Returns:
      A form: logits (b, k) -> scores (b,), the log odds (1 - u) / u of the probability u of the unknown class, which
      rank like the published 1 - u and do not saturate. Ranks are constants to gradients.
    Raises:
      ValueError: if logits are not finite, labels do not fit, a class has no image, or no two distances of a class
        differ.

    Reference: Bendale and Boult 2016, arXiv:1511.06233, with OpenOOD's settings: Euclidean distances, tail 20, alpha 3,
      and libMR's shift of the distances. Maximum likelihood is solved by bisection. A class with fewer
      than two correctly classified training images is described by all its images, where the published code fails.
    """
    z = checks.rows("openmax", "logits", logits)
    n, k = z.shape
    checks.count("openmax", "tail", tail, least=2)
    checks.count("openmax", "alpha", alpha)
    if k < 2:
        raise ValueError(f"openmax: {k} classes given, needs at least 2")
    y = checks.labels("openmax", label, count=n, classes=k)
    means, fits = [], []
    for c in range(k):
        own = correct(z, y, c, least=2)
        if not len(own):
            raise ValueError(f"openmax: class {c} has no training image, every class must have at least two")
        means.append(own.mean(axis=0))
        distances = np.sort(np.linalg.norm(own - means[-1], axis=1))[-tail:]
        if distances[-1] - distances[0] <= 1e-9 * max(1.0, distances[-1]):
            raise ValueError(
                f"openmax: the {len(own)} images of class {c} have one distance from their mean, must have at least two"
            )
        fits.append((*weibull(distances - distances[0]), distances[0]))
    shape, log_scale, least = (jnp.asarray(a, jnp.float32) for a in zip(*fits, strict=True))
    return OpenMax(jnp.asarray(np.stack(means), jnp.float32), shape, log_scale, least, min(alpha, k))


def correct(
    logits: np.ndarray, label: np.ndarray, c: int, of: np.ndarray | None = None, *, least: int = 1
) -> np.ndarray:
    """Give the rows of a class that are classified correctly, or all of the class where fewer than `least` are."""
    rows = logits if of is None else of
    mine = label == c
    right = mine & (logits.argmax(axis=1) == c)
    return rows[right if right.sum() >= least else mine]


def weibull(excess: np.ndarray) -> tuple[float, float]:
    """Fit a Weibull distribution to SHIFT + excess: its shape, and the logarithm of its scale less log SHIFT.

    The shape c solves sum x^c log x / sum x^c - 1 / c = mean log x; the left side rises with c.
    """
    u = np.log1p(excess / SHIFT)
    mean, largest = u.mean(), u.max()

    def rise(log_c: float) -> float:
        c = np.exp(log_c)
        weight = np.exp(c * (u - largest))
        return float((weight * u).sum() / weight.sum() - 1 / c - mean)

    low, high = 0.0, 60.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if rise(middle) > 0 else (middle, high)
    c = float(np.exp((low + high) / 2))
    return c, float(largest + np.log(np.exp(c * (u - largest)).mean()) / c)
