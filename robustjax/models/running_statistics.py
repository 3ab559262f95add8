"""Compare the running statistics of a network with what its BatchNorm layers see in images.

A BatchNorm layer remembers mean and variance of what it saw in training. Where a checkpoint is read as another
architecture with the same tensors, or with the wrong constants of normalisation, its layers see something else, and it
shows, though every tensor has its place.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from robustjax.types import Images, Model, Params, State

MOMENTUM = 0.9  # of `layers.batch_norm`
FAR = 1.0  # the layers of a network that is read as it was trained lie well below


class Disagreement(NamedTuple):
    """By how much layers see something else than in training.

    Attributes:
      worst: of the layer where it is largest.
      layer: its name.
    """

    worst: float
    layer: str


def disagreement(model: Model, params: Params, state: State, x: Images) -> Disagreement | None:
    """Measure the distance of each layer's running statistics from those of a few images; None without BatchNorm.

    In train mode each layer normalises by the batch, so that an error in one does not drown those that follow. The
    distance of a layer is the median over its channels of sqrt(d^2 + l^2 / 2), with d the difference of the means
    in standard deviations and l the logarithm of the ratio of the variances: the two terms of the Fisher distance
    between normal distributions.

    Args:
      model, params, state: of the network.
      x: images such as it was trained on, 32 or more.
    """
    _, after = jax.jit(lambda p, s, x: model.apply(p, s, x, train=True))(params, state, x)
    before, seen = _layers(state), _layers(after)
    if not before:
        return None
    found: dict[str, float] = {}
    for name, old in before.items():
        mean, var = ((seen[name][k] - MOMENTUM * old[k]) / (1 - MOMENTUM) for k in ("mean", "var"))
        tiny = 1e-5  # what BatchNorm adds to a variance
        ratio = np.log((np.maximum(var, 0) + tiny) / (old["var"] + tiny))
        apart = (mean - old["mean"]) / np.sqrt(old["var"] + tiny)
        found[name] = float(np.median(np.sqrt(apart**2 + ratio**2 / 2)))
    worst = max(found, key=lambda name: found[name])
    return Disagreement(found[worst], worst)


def _layers(state: Any) -> dict[str, dict[str, np.ndarray]]:
    """Find the running statistics of each layer, by its path."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        *place, kind = (key.key for key in path)
        if "batch_stats" in place:
            at = "/".join(word for word in place if word != "batch_stats")
            found.setdefault(at, {})[kind] = np.asarray(leaf, np.float64)
    return found
