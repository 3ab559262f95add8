"""Deep feature reweighting: refit the last layer on held-out images with all groups equally often.

It tells whether a network lost what the object says, or only weighs it wrongly: the features are not touched.
It applies to any network, adversarially trained or not, and `retrained` may be attacked like any other.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.analysis.groups import worst_group
from robustjax.logistic_regression import Linear, l1, logistic, scaling
from robustjax.types import Images, Logits, LogitsFn, Model, Params, State

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)


class Refit(NamedTuple):
    """A layer that reads the raw features.

    Attributes:
      layer: the average of the refits.
      strength: C that was chosen.
      tuned: worst-group accuracy of every strength on the half that was kept for choosing.
    """

    layer: Linear
    strength: float
    tuned: dict[float, float]


def dfr(
    train: np.ndarray,
    features: np.ndarray,
    label: np.ndarray,
    group: np.ndarray,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    refits: int = 20,
    seed: int = 0,
) -> Refit:
    """Fit sparse logistic regressions to group-balanced subsets of held-out features, and average them.

    Features are standardised by their statistics on the training set. The strength with the highest worst-group
    accuracy is chosen by a fit to one half of the held-out images, evaluated on the other.

    Args:
      train: features of the training set (m, d), for their scale alone.
      features: of held-out images (n, d), with all groups among them.
      label: (n,).
      group: (n,); rows of negative groups are left out.
      classes: k.
      strengths: C to choose from.
      refits: how many subsets to average.
      seed: of halves and subsets.

    Raises:
      ValueError: if there are fewer than four examples of some group, no strengths or no refits, or a feature is not
        finite.

    Reference: Kirichenko et al. 2023, arXiv:2204.02937. They tune with scales of the half and fit with those of the
      training set; here both use the latter.
    """
    for what, one in (("group", group), ("label", label)):
        if np.shape(one) != np.shape(features)[:1] or np.asarray(one).dtype.kind not in "iu":
            raise ValueError(
                f"dfr: {what} is {np.asarray(one).dtype} of shape {np.shape(one)}, must be whole numbers "
                f"({len(features)},) as the features"
            )
    known = np.asarray(group) >= 0
    features, label, group = (np.asarray(a)[known] for a in (features, label, group))
    label = checks.labels("dfr", label, count=len(features), classes=classes)
    least = min(np.bincount(group)[np.unique(group)], default=0)
    if least < 4:
        raise ValueError(f"dfr: the smallest group has {least} examples, must be at least 4")
    if not len(strengths) or refits < 1:
        raise ValueError(
            f"dfr: strengths is {list(strengths)} and refits {refits}, must be at least one of each"
        )
    for what, values in (("training features", train), ("features", features)):
        checks.finite("dfr", what, values)
    rng, scale = np.random.default_rng(seed), scaling(jnp.asarray(train))
    scaled, target = scale(jnp.asarray(features)), jnp.asarray(label.astype(np.int32))
    half = np.zeros(len(label), bool)
    for g in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == g))
        half[rows[: len(rows) // 2]] = True

    one = np.broadcast_to(_balanced(rng, group, half), (len(strengths), len(label)))
    tuning = _fits(scaled, target, one, jnp.asarray(strengths, jnp.float32), classes)
    hits = [
        np.asarray(Linear(w, b)(scaled).argmax(axis=-1)) == label
        for w, b in zip(tuning.weight, tuning.bias, strict=True)
    ]
    tuned = {c: float(worst_group(v[~half], group[~half])) for c, v in zip(strengths, hits, strict=True)}
    best = max(tuned, key=lambda c: tuned[c])
    subsets = np.stack([_balanced(rng, group, np.ones_like(half)) for _ in range(refits)])
    layers = _fits(scaled, target, subsets, jnp.full(refits, best, jnp.float32), classes)
    return Refit(scale.undone(Linear(layers.weight.mean(axis=0), layers.bias.mean(axis=0))), best, tuned)


# Subsets are weights of 0 and 1, so that one program fits all of them.
@partial(jax.jit, static_argnames="classes")
def _fits(scaled: Array, label: Array, weights: Array, strength: Array, classes: int) -> Linear:
    def fit(each):
        return logistic(scaled, label, penalty=l1, classes=classes, weight=each[0], strength=each[1])

    return jax.lax.map(fit, (weights, strength))


def retrained(model: Model, params: Params, state: State, layer: Linear) -> LogitsFn:
    """Put another last layer on a network, whose deepest features it reads."""
    params, state = jax.lax.stop_gradient((params, state))

    def logits_fn(x: Images) -> Logits:
        features = model.features(params, state, x)
        return layer(features[max(features)])

    return logits_fn


def _balanced(rng: np.random.Generator, group: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Draw as many of every group as the smallest has: weights of 0 and 1."""
    members = [rng.permutation(np.flatnonzero((group == g) & among)) for g in np.unique(group)]
    least = min(map(len, members))
    weights = np.zeros(len(group), np.float32)
    weights[np.concatenate([m[:least] for m in members])] = 1.0
    return weights
