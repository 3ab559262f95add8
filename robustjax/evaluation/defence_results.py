"""What attacks did to a defence behind a gate and a translator, example by example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
SHOWN = 10  # images whose attacked versions are kept for pictures


@dataclasses.dataclass(frozen=True)
class DefenceResults:
    """What attacks did to every example, on the host; lines are attacks, rows examples.

    Attributes:
      attacks, models: (a,) names, and the threat model each belongs to.
      label: (n,).
      plain, through: (n, k) logits of f(x) and f(T(x)) at the images themselves; routed: (n,) what the gate said.
      wrong: (a, n) whether the defence errs at the point each attack kept.
      unseen: (a, n) whether it errs there untranslated: the gate took the point for in-distribution.
      tried: (a, n) whether the attack ran, or had no need to since the image itself is misclassified.
      margin: (a, n) of the defence at the point; score: (a, n) how far above its threshold the gate scored it.
      x: (a, n, ...) the points.
      feasible: (a,) whether all points lie in the threat; gradients: (a,) iterations times rows.
      seconds: (a,); runs: (a,) how often each was started with other losses, penalties, targets or keys.
    """

    attacks: tuple[str, ...]
    models: tuple[str, ...]
    label: np.ndarray
    plain: np.ndarray
    through: np.ndarray
    routed: np.ndarray
    wrong: np.ndarray
    unseen: np.ndarray
    tried: np.ndarray
    margin: np.ndarray
    score: np.ndarray
    x: np.ndarray
    feasible: np.ndarray
    gradients: np.ndarray
    seconds: np.ndarray
    runs: np.ndarray

    @property
    def clean_wrong(self) -> np.ndarray:
        """Say where the defence errs without any attack: (n,)."""
        logits = np.where(self.routed[:, None], self.through, self.plain)
        return logits.argmax(axis=1) != self.label

    def robust(self, *names: str) -> np.ndarray:
        """Say which examples are right under all attacks whose name or threat model is given, or all: (n,)."""
        pick = [not names or a in names or m in names for a, m in zip(self.attacks, self.models, strict=True)]
        return ~(self.clean_wrong | self.wrong[np.array(pick, bool)].any(axis=0))

    def in_distribution(self) -> np.ndarray:
        """Say for which examples some point fools f and passes the gate (the IDAR is the mean): (n,)."""
        clean = ~self.routed & (self.plain.argmax(axis=1) != self.label)
        return clean | self.unseen.any(axis=0)


def joined(parts: Sequence[DefenceResults]) -> DefenceResults:
    """Put attacks on the same examples, run one after the other, into one result.

    Raises:
      ValueError: if there is none, or the examples differ.
    """
    if not parts or any(not np.array_equal(one.label, parts[0].label) for one in parts):
        raise ValueError(f"joined: {len(parts)} results on the same examples must be given, at least one")
    shared = ("label", "plain", "through", "routed")
    lines: dict[str, Any] = {
        field.name: np.concatenate([getattr(one, field.name) for one in parts])
        for field in dataclasses.fields(DefenceResults)
        if field.name not in (*shared, "attacks", "models")
    }
    names: dict[str, Any] = {
        name: tuple(v for one in parts for v in getattr(one, name)) for name in ("attacks", "models")
    }
    return DefenceResults(**names, **{name: getattr(parts[0], name) for name in shared}, **lines)


def in_arrays(found: DefenceResults) -> Arrays:
    """Turn results into arrays for a file, with the first points of every attack only."""
    out = {name: np.asarray(getattr(found, name)) for name in found.__dataclass_fields__}
    return out | {"x": found.x[:, :SHOWN]}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> DefenceResults:
    """Undo `in_arrays`."""
    names = {name: tuple(str(one) for one in arrays[name]) for name in ("attacks", "models")}
    fields: dict[str, Any] = {n: names.get(n, arrays[n]) for n in DefenceResults.__dataclass_fields__}
    return DefenceResults(**fields)
