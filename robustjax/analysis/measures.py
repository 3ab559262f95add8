"""Numbers made of the arrays of `reliance.measurement`, by name, and signed sums of them with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustjax.analysis import reliance
from robustjax.analysis.intervals import Estimate, bootstrap


class Measure(NamedTuple):
    """A number made of some arrays (seeds, examples, ...) of one setting.

    Attributes:
      title: what to call it.
      unit: of an axis.
      keys: names of the arrays.
      statistic: what to make of them.
    """

    title: str
    unit: str
    keys: tuple[str, ...]
    statistic: Callable[..., float]

    def known(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Say whether the arrays are there."""
        return all(key in arrays for key in self.keys)

    def of(self, arrays: Mapping[str, np.ndarray]) -> float:
        """Compute the number."""
        return self.statistic(*(arrays[key] for key in self.keys))


Term = tuple[float, Mapping[str, np.ndarray], Measure]  # sign, setting, measure


def estimate(terms: Sequence[Term], *, resamples: int = 1000) -> Estimate:
    """Estimate a signed sum of measures of settings that share seeds and examples, which are resampled together."""
    arrays = [setting[key] for _, setting, measure in terms for key in measure.keys]

    def statistic(*parts: np.ndarray) -> float:
        left = iter(parts)
        return sum(sign * m.statistic(*(next(left) for _ in m.keys)) for sign, _, m in terms)

    return bootstrap(statistic, *arrays, nested=True, resamples=resamples)


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _unequal(first: np.ndarray, second: np.ndarray) -> float:
    return float((first != second).mean())


_ORIGINAL, _SAME, _OTHER = "prediction/original", "prediction/mixed_same", "prediction/mixed_other"
_RANDOM, _TEXTURE, _DIGIT = "prediction/mixed_rand", "prediction/only_bg_t", "prediction/only_fg"
_NOISE, _REFIT = ("noise/foreground", "noise/background"), ("refit/mixed_same", "refit/mixed_other")

MEASURES = {
    "clean": Measure("clean accuracy", "accuracy", (_ORIGINAL, "label"), reliance.accuracy),
    "robust": Measure("robust accuracy", "accuracy", ("robust/original",), _mean),
    "robust_same": Measure("robust, own background", "accuracy", ("robust/mixed_same",), _mean),
    "robust_rand": Measure("robust, random background", "accuracy", ("robust/mixed_rand",), _mean),
    "gap": Measure("background gap", "accuracy lost", (_SAME, _RANDOM, "label"), reliance.gap),
    "flips": Measure("flips with the background", "share", (_SAME, _OTHER), _unequal),
    "only_bg": Measure("background alone", "accuracy", (_TEXTURE, "label"), reliance.accuracy),
    "only_fg": Measure("object alone", "accuracy", (_DIGIT, "label"), reliance.accuracy),
    "worst": Measure("worst group", "accuracy", (_SAME, _OTHER, "label"), reliance.mean_worst),
    "refit": Measure("worst group, refitted", "accuracy", (*_REFIT, "label"), reliance.mean_worst),
    "worst_class": Measure("worst class", "accuracy", (_ORIGINAL, _ORIGINAL, "label"), reliance.mean_worst),
    "rfs": Measure("foreground sensitivity", "RFS", (*_NOISE, "label"), reliance.mean_rfs),
    "overlap": Measure("gradient on the object", "overlap (IoU)", ("overlap",), _mean),
}
