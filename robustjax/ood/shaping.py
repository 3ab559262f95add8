"""Activations reshaped before the last layer: clipped, pruned or scaled. Features -> features, then a last layer.

`head(kernel, bias, form, react(limit))` is a form of features, with a form of logits such as
`logit_scores.energy` inside. Features are those after a ReLU, so not negative.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from robustjax import checks
from robustjax.numerics import divide
from robustjax.ood.scores import Features, Form

Shape = Callable[[Features], Features]


def head(kernel: Float[Array, "d k"], bias: Float[Array, "k"], form: Form, shape: Shape) -> Form:
    """Reshape features, run the last layer on them and score its logits."""
    return lambda features: form(shape(features) @ kernel + bias[None])


def react(limit: float | Array) -> Shape:
    """Clip activations from above. Reference: Sun, Guo and Li 2021, arXiv:2111.12797.

    An attack has no slope along activations beyond the limit; the others lead it there.
    """
    return lambda features: jnp.minimum(features, limit)


def react_limit(features: np.ndarray, *, percentile: float = 90.0) -> float:
    """Find the limit: a percentile of all activations on training data (n, d)."""
    _check("react_limit", percentile, 100.0)
    checks.finite("react_limit", "features", features)
    return float(np.percentile(np.asarray(features, np.float64), percentile))


def vra(low: float | Array, high: float | Array) -> Shape:
    """Clip activations from both sides. Reference: Xu et al. 2023, VRA, arXiv:2302.11716.

    As OpenOOD does: an activation below `low` becomes `low`. The paper sets it to 0, which is the same where the lower
    limit is 0, as it is after a ReLU that is often silent.
    """
    return lambda features: jnp.clip(features, low, high)


def vra_limits(features: np.ndarray, *, low: float = 10.0, high: float = 90.0) -> tuple[float, float]:
    """Find both limits of `vra`: percentiles of all activations on training data (n, d); OpenOOD takes validation data.

    Raises:
      ValueError: if low is not below high, or one is not in [0, 100].
    """
    _check("vra_limits", low, 100.0)
    _check("vra_limits", high, 100.0)
    if low >= high:
        raise ValueError(f"vra_limits: low is {low}, must be below high, {high}")
    found = checks.rows("vra_limits", "features", features)
    return float(np.percentile(found, low)), float(np.percentile(found, high))


def divided(tau: float) -> Shape:
    """Divide features by tau, as a network reads them that was trained on features of length 1 / tau.

    Raises:
      ValueError: if tau is not positive.

    Reference: Regmi et al. 2024, T2FNorm, arXiv:2305.17797: normalised in training, and only divided in use, so that
      the length of a feature tells ID from OOD.
    """
    checks.number("divided", "tau", tau, above=0)
    return lambda features: features / tau


def ash_p(*, percentile: float = 90.0) -> Shape:
    """Set all but the largest activations of each example to zero.

    Args:
      percentile: share of the activations that go, in per cent; at most 98.
    Raises:
      ValueError: if percentile is not in [0, 98].

    Reference: Djurisic et al. 2023, arXiv:2209.09858. Activations as large as the smallest that stays, stay.
    """
    _check("ash_p", percentile, 98.0)
    return lambda features: jnp.where(_largest(features, percentile), features, 0.0)


def ash_b(*, percentile: float = 90.0) -> Shape:
    """Prune as `ash_p`, then give all that is left one value, so that the sum is as before."""
    _check("ash_b", percentile, 98.0)

    def shape(features: Features) -> Features:
        kept = _largest(features, percentile)
        count = kept.sum(axis=1, keepdims=True).astype(features.dtype)
        return jnp.where(kept, features.sum(axis=1, keepdims=True) / count, 0.0)

    return shape


def ash_s(*, percentile: float = 90.0) -> Shape:
    """Prune as `ash_p`, then multiply by exp(sum before / sum after)."""
    _check("ash_s", percentile, 98.0)

    def shape(features: Features) -> Features:
        kept = jnp.where(_largest(features, percentile), features, 0.0)
        return kept * _gain(features, kept)

    return shape


def scale(*, percentile: float = 85.0) -> Shape:
    """Multiply all activations by the factor of `ash_s`, without pruning.

    Reference: Xu et al. 2024, arXiv:2310.00227.
    """
    _check("scale", percentile, 98.0)

    def shape(features: Features) -> Features:
        return features * _gain(features, jnp.where(_largest(features, percentile), features, 0.0))

    return shape


def _gain(features: Features, kept: Features) -> Float[Array, "b 1"]:
    # The largest 2 % hold at least 2 % of the sum: the exponent is 50 at most, and a row of zeros has 0.
    return jnp.exp(divide(features.sum(axis=1, keepdims=True), kept.sum(axis=1, keepdims=True)))


def _largest(features: Features, percentile: float) -> Bool[Array, "b d"]:
    d = features.shape[1]
    count = max(1, d - round(d * percentile / 100))
    smallest = jax.lax.top_k(jax.lax.stop_gradient(features), count)[0][:, -1:]
    return features >= smallest


def _check(name: str, percentile: float, most: float) -> None:
    if not 0 <= percentile <= most:
        raise ValueError(f"{name}: percentile is {percentile}, must be in [0, {most:g}]")
