"""Gram: how far the correlations of feature maps leave the range that they have on training images."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.types import Labels, PerExample

POWERS = (1, 2, 3, 4, 5)
SMALL = 1e-6  # added to a bound that is divided by
NOTHING = 1e-30  # of the largest power: a correlation up to this is 0

Statistics = Mapping[str, Float[Array, "b q"] | np.ndarray]


def statistics(maps: Mapping[str, Array], powers: Sequence[int] = POWERS) -> dict[str, Array]:
    """Compute the row sums of the Gram matrices of order p, (F^p F^pT)^(1/p), for every activation and power.

    Args:
      maps: activations (b, ..., c) by name.
      powers: the orders p.
    Returns:
      By name (b, c times powers). Each example is scaled by its largest value before it is raised to a power, and back.
    """
    found = {}
    for name, value in maps.items():
        flat = value.astype(jnp.float32).reshape(value.shape[0], -1, value.shape[-1])
        largest = jnp.abs(flat).max(axis=(1, 2), keepdims=True)
        size = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
        parts = []
        for p in powers:
            # The sum over a row of F^T F is F^T times the sum of F over channels: no matrix of channels is made.
            raised = (flat / size) ** p
            row = (raised * raised.sum(axis=2, keepdims=True)).sum(axis=1)
            there = jnp.abs(row) > NOTHING
            root = jnp.where(there, jnp.abs(jnp.where(there, row, 1.0)) ** (1 / p), 0.0)
            parts.append(jnp.sign(row) * root * size[:, 0] ** 2)
        found[name] = jnp.concatenate(parts, axis=1)
    return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Ranges:
    """The range of every statistic in every class, and the mean deviation of each activation on held-out images."""

    low: dict[str, Float[Array, "k q"]]
    high: dict[str, Float[Array, "k q"]]
    expected: dict[str, Float[Array, ""]]

    def __call__(self, found: Statistics, predicted: Labels) -> PerExample:
        """Compute minus the total deviation from the range of the predicted class; 0 inside it."""
        parts = [
            _deviation(found[n], self.low[n][predicted], self.high[n][predicted]) / self.expected[n]
            for n in self.low
        ]
        return -jnp.stack(parts).sum(axis=0)

    def centred(self, found: Statistics, predicted: Labels) -> PerExample:
        """Compute minus the mean distance from the middle of the range, in its widths: it has a slope inside, too."""
        parts = []
        for name in self.low:
            low, high = self.low[name][predicted], self.high[name][predicted]
            away = jnp.abs(found[name] - (low + high) / 2)
            parts.append((away / (high - low + SMALL)).mean(axis=1))
        return -jnp.stack(parts).sum(axis=0)


def gram(found: Statistics, label: np.ndarray, held_out: Statistics, predicted: np.ndarray) -> Ranges:
    """Find the range of every statistic in every class, and how far held-out images leave it on average.

    Args:
      found: `statistics` of training images.
      label: their classes (n,), every one from 0 with an image.
      held_out: `statistics` of held-out images.
      predicted: their predicted classes.
    Raises:
      ValueError: if a statistic is not finite, labels do not fit, or a class has no training image.

    Reference: Sastry and Oore 2020, arXiv:1912.12510, with the powers 1 to 5 of OpenOOD in place of 1 to 10. As in
      pytorch-ood, ranges are those of labelled classes and deviations are not divided by the confidence; OpenOOD's code
      compares the sum of all statistics with the range of each.
    """
    if not found:
        raise ValueError("gram: no activation is given, must be at least one")
    values = {n: checks.rows("gram", f"statistics of {n}", a) for n, a in found.items()}
    others = {n: checks.rows("gram", f"held-out statistics of {n}", held_out[n]) for n in found}
    count = len(next(iter(values.values())))
    y = checks.labels("gram", label, count=count)
    classes = int(y.max()) + 1
    if missing := sorted(set(range(classes)) - set(y.tolist())):
        raise ValueError(f"gram: class {missing[0]} has no training image, every class must have one")
    guess = checks.labels("gram", predicted, count=len(next(iter(others.values()))), classes=classes)
    low, high, expected = {}, {}, {}
    for name, value in values.items():
        least = np.stack([value[y == c].min(axis=0) for c in range(classes)])
        most = np.stack([value[y == c].max(axis=0) for c in range(classes)])
        mean = float(np.asarray(_deviation(others[name], least[guess], most[guess], np)).mean())
        low[name], high[name] = (jnp.asarray(a, jnp.float32) for a in (least, most))
        expected[name] = jnp.float32(mean if mean > 0 else 1.0)
    return Ranges(low, high, expected)


def _deviation(value, low, high, xp=jnp):
    below = xp.maximum(low - value, 0.0) / xp.abs(low + SMALL)
    above = xp.maximum(value - high, 0.0) / xp.abs(high + SMALL)
    return (below + above).sum(axis=1)
