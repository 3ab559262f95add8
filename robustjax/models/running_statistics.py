"""Compare the running statistics of a network with what its BatchNorm layers see in images.

A BatchNorm layer remembers mean and variance of what it saw in training. Where a checkpoint is read as another
architecture with the same tensors, or with the wrong constants of normalisation, its layers see something else, and it
shows, though every tensor has its place.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from robustjax.types import Flag, Images, Model, Params, State

MOMENTUM = 0.9  # of `layers.batch_norm`
CLEAR = 2.0  # so much further away are those that are out of the question
FAR = 1.0  # the layers of a network that is read as it was trained lie well below


class Disagreement(NamedTuple):
    """By how much layers see something else than in training.

    Attributes:
      worst: of the layer where it is largest.
      layer: its name.
    """

    worst: float
    layer: str


def disagreement(model: Model, params: Params, state: State, x: Images | np.ndarray) -> Disagreement | None:
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


def chosen(names: Sequence[str], apart: Sequence[Disagreement | None], named: str | None = None) -> int:
    """Choose between architectures that the same tensors fit, by how far what their layers see is from training.

    Args:
      names, apart: of the architectures; the one that was named comes first.
      named: by the user; None to choose the nearest.
    Returns:
      The place of the one to take.
    Raises:
      ValueError: in one line, if another architecture is nearer by far than the one that was named, or if none is
        nearer by far than all others.
    """
    if len(names) == 1 or any(one is None for one in apart):
        if len(names) == 1 or named:
            return 0
        raise ValueError(f"the tensors fit {' and '.join(names)}, must be named: one as architecture")
    worst = [one.worst for one in apart if one is not None]
    first, second, *_ = sorted(range(len(names)), key=lambda i: worst[i])
    clear = worst[first] < FAR and worst[second] > CLEAR * worst[first]
    distances = ", ".join(f"{name} by {value:.2g}" for name, value in zip(names, worst, strict=True))
    if named and clear and first != 0:
        raise ValueError(
            f"architecture is {named}, must be {names[first]}: on these images the layers are apart from what they saw "
            f"in training: {distances} standard deviations"
        )
    if not named and not clear:
        raise ValueError(
            f"the tensors fit {' and '.join(names)}, and on these images the layers are apart from what they saw in "
            f"training: {distances} standard deviations: name one as architecture"
        )
    return 0 if named else first


def flag(name: str, apart: Disagreement | None) -> Flag | None:
    """Say whether the layers of a network see what they saw in training; None without BatchNorm."""
    if apart is None:
        return None
    raised = apart.worst > FAR
    return Flag(
        "running statistics",
        raised,
        f"{apart.layer} of {name} is {apart.worst:.2g} standard deviations from what it saw in training: "
        "other constants of normalisation, another architecture, or images of another kind?"
        if raised
        else f"the layers of {name} see what they saw in training, up to {apart.worst:.2g} standard deviations",
        {"distance": min(apart.worst, 1e6)},
    )


def _layers(state: Any) -> dict[str, dict[str, np.ndarray]]:
    """Find the running statistics of each layer, by its path."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        *place, kind = (key.key for key in path)
        if "batch_stats" in place:
            at = "/".join(word for word in place if word != "batch_stats")
            found.setdefault(at, {})[kind] = np.asarray(leaf, np.float64)
    return found
