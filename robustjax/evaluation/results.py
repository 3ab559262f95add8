"""What a suite of attacks on a classifier did to every image, and merging of such reports."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from robustjax.analysis.intervals import Estimate, proportion
from robustjax.evaluation.suite_state import BROKEN as BROKEN
from robustjax.evaluation.suite_state import NOT_RUN as NOT_RUN
from robustjax.evaluation.suite_state import ROBUST as ROBUST


@dataclasses.dataclass(frozen=True)
class Results:
    """One row per example, one line per attack, on the host.

    Attributes:
      attacks: (a,) their names, in the order they ran.
      index: (n,) number of the example in its data set; decides its random numbers.
      label: (n,) what it shows.
      clean: (n,) the prediction for the image itself.
      already: (n,) bool, broken in the report that this one goes on from.
      outcome: (a, n) int8: BROKEN, ROBUST, or NOT_RUN for an image misclassified before the attack began.
      margin: (a, n) the largest max_{j != y} z_j - z_y the attack reached; NaN where it was not run.
      x: (n, ...) the first misclassified point met; where there is none, the point of largest margin; the image
        itself where the prediction for that is wrong.
      prediction, value: (n,) prediction and margin at x, from one more forward pass.
      distance: (n,) norm of x minus the image, in the norm of the threat, in float64.
      steps: (a,) iterations made for all examples together.
      seconds: (a,) time spent.
    """

    attacks: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    clean: np.ndarray
    already: np.ndarray
    outcome: np.ndarray
    margin: np.ndarray
    x: np.ndarray
    prediction: np.ndarray
    value: np.ndarray
    distance: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray

    @property
    def robust(self) -> np.ndarray:
        """Say which images are classified correctly and were misclassified under no attack: (n,) bool."""
        return (self.clean == self.label) & ~self.broken

    @property
    def broken(self) -> np.ndarray:
        """Say which images were broken, here or in the report this one goes on from: (n,) bool."""
        return self.already | (self.outcome == BROKEN).any(axis=0)

    @property
    def broken_by(self) -> np.ndarray:
        """Number the attack that first misclassified each image: (n,), -1 for none and if wrong from the start."""
        hit = self.outcome == BROKEN
        return np.where(hit.any(axis=0), hit.argmax(axis=0), -1)

    def accuracy(self, *, level: float = 0.95) -> list[tuple[str, Estimate]]:
        """Estimate the accuracy on clean images and after each attack, worst case over those so far."""
        right = self.clean == self.label
        left = right & ~self.already & ~np.logical_or.accumulate(self.outcome == BROKEN, axis=0)
        names = ("clean", *self.attacks)
        return [
            (name, proportion(hits, level=level)) for name, hits in zip(names, [right, *left], strict=True)
        ]


FIELDS = tuple(field.name for field in dataclasses.fields(Results) if field.name != "attacks")


def merge(reports: Sequence[Results]) -> Results:
    """Join reports on the same model and radius: other images, or other attacks on the same images.

    With other attacks on the same images an image is robust where it is so in every report, so that a merge can only
    lower the accuracy. Reports on other images must have run the same attacks.

    Raises:
      ValueError: if there is no report, or the images overlap in part, or differ in label, clean prediction or
        attacks.
    """
    if not reports:
        raise ValueError("merge: no report given, must be at least one")
    merged = reports[0]
    for other in reports[1:]:
        common = np.intersect1d(merged.index, other.index)
        if len(common) == 0:
            merged = _beside(merged, other)
        elif len(common) == len(merged.index) == len(other.index):
            merged = _above(merged, other)
        else:
            raise ValueError(
                f"merge: {len(common)} images are in both reports, of {len(merged.index)} and {len(other.index)}; "
                "they must be the same or have none in common"
            )
    return merged


def _beside(first: Results, second: Results) -> Results:
    if first.attacks != second.attacks:
        raise ValueError(
            f"merge: the attacks are {first.attacks} and {second.attacks}, must be the same for other images"
        )
    order = np.argsort(np.concatenate([first.index, second.index]), kind="stable")
    joined = {}
    for name in FIELDS:
        one, two = getattr(first, name), getattr(second, name)
        if name in ("steps", "seconds"):
            joined[name] = one + two
        else:
            axis = 1 if name in ("outcome", "margin") else 0
            joined[name] = np.take(np.concatenate([one, two], axis=axis), order, axis=axis)
    return Results(first.attacks, **joined)


def _above(first: Results, second: Results) -> Results:
    order = np.argsort(second.index, kind="stable")[
        np.argsort(np.argsort(first.index, kind="stable"), kind="stable")
    ]
    rows = {name: np.take(getattr(second, name), order, axis=0) for name in ("index", "label", "clean")}
    for name, values in rows.items():
        if not np.array_equal(values, getattr(first, name)):
            raise ValueError(f"merge: the reports differ in {name}, must be about one model and one data set")
    if twice := set(first.attacks) & set(second.attacks):
        raise ValueError(f"merge: both reports ran {', '.join(sorted(twice))} on the same images")
    # A misclassified image keeps the point of the report that found it, the first one's if both did.
    margins = np.where(
        np.isnan([first.value, second.value[order]]), -np.inf, [first.value, second.value[order]]
    )
    take = ~first.broken & (margins[1] > margins[0])
    chosen = {
        name: np.where(
            take.reshape(-1, *[1] * (getattr(first, name).ndim - 1)),
            getattr(second, name)[order],
            getattr(first, name),
        )
        for name in ("x", "prediction", "value", "distance")
    }
    stacked = {
        name: np.concatenate([getattr(first, name), getattr(second, name)[:, order]])
        for name in ("outcome", "margin")
    }
    spent = {
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("steps", "seconds")
    }
    return Results(
        attacks=first.attacks + second.attacks,
        index=first.index,
        label=first.label,
        clean=first.clean,
        already=first.already | second.already[order],
        **stacked,
        **chosen,
        **spent,
    )
