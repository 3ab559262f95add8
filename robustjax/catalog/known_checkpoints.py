"""Checkpoints of RobustBench's model zoo by name: network, constants of normalisation, and published accuracy.

The table lies in robustbench.tsv beside this file; a name that is on several boards is written as "cifar10/linf/NAME".
"""

import csv
import difflib
import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from robustjax import binomial
from robustjax.types import Flag

CELLS = pathlib.Path(__file__).with_name("robustbench_cifar10c.tsv")
CORRUPTIONS = pathlib.Path(__file__).with_name("robustbench_corruptions.tsv")
TABLE = pathlib.Path(__file__).with_name("robustbench.tsv")
EPS = {
    ("cifar10", "linf"): 8 / 255,
    ("cifar10", "l2"): 0.5,
    ("cifar100", "linf"): 8 / 255,
    ("imagenet2012", "linf"): 4 / 255,
}
DOUBT = 0.001  # the chance that a network of the published accuracy is doubted


class Known(NamedTuple):
    """One entry of the model zoo.

    Attributes:
      dataset, threat: the board; a threat is linf, l2 or corruptions.
      name: of the entry.
      network: what its authors call it.
      architecture: a name of `models.architectures`, or None if there is none here.
      mean, std: by which images in [0, 1] are normalised; None if the file stores them, or there are none.
      clean, robust: published accuracy in percent: on images as they are; under AutoAttack within `eps`, or over
        corruptions.
      entry: which state dict of the file, where it holds several.
      preprocessing: of large images, by RobustBench's name, see `data.preprocessing`.
    """

    dataset: str
    threat: str
    name: str
    network: str
    architecture: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    clean: float
    robust: float
    entry: str | None
    preprocessing: str | None

    @property
    def board(self) -> str:
        """Write the full name, which no other entry has."""
        return f"{self.dataset}/{self.threat}/{self.name}"

    @property
    def eps(self) -> float | None:
        """Look up the radius of the board, for images in [0, 1]; None for corruptions."""
        return EPS.get((self.dataset, self.threat))

    def published(self) -> str:
        """Say the published accuracies as a sentence."""
        kind = (
            "over corruptions" if self.eps is None else f"under AutoAttack in {self.threat} at {self.eps:.4g}"
        )
        return f"RobustBench states {self.clean:g} % clean and {self.robust:g} % {kind} for {self.board}."


class OnCorruptions(NamedTuple):
    """What is published of an entry on ImageNet's corruptions, in percent.

    Attributes:
      mce: on ImageNet-C.
      accuracy_3dcc, mce_3dcc: on ImageNet-3DCC.
    """

    mce: float
    accuracy_3dcc: float
    mce_3dcc: float


@functools.cache
def on_corruptions() -> dict[str, OnCorruptions]:
    """Read that table, by the names of ImageNet's board of corruptions."""
    return {row.pop("name"): OnCorruptions(*map(float, row.values())) for row in _rows(CORRUPTIONS)}


def _rows(table: pathlib.Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t"))


@functools.cache
def cells() -> dict[str, dict[tuple[str, int], float]]:
    """Read the accuracies on CIFAR-10-C, in percent, by entry, then by corruption and severity."""
    return {
        row.pop("name"): {
            (corruption, severity): int(value) / 100
            for corruption, values in row.items()
            for severity, value in enumerate(values.split(","), start=1)
        }
        for row in _rows(CELLS)
    }


@functools.cache
def entries() -> tuple[Known, ...]:
    """Read the table."""
    return tuple(_read(row) for row in _rows(TABLE))


def known(name: str) -> Known:
    """Find an entry.

    Args:
      name: of the entry, or "dataset/threat/name" where several boards have one of that name.
    Raises:
      ValueError: in one line, if there is none, or there are several.
    """
    found = [entry for entry in entries() if name in (entry.name, entry.board)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"known checkpoint is {name!r}, which is on several boards, must be one of "
            f"{', '.join(entry.board for entry in found)}"
        )
    near = difflib.get_close_matches(name, [entry.name for entry in entries()], 3, cutoff=0.4)
    meant = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
    raise ValueError(
        f"known checkpoint is {name!r}, must be one of the {len(entries())} names in {TABLE.name}{meant}"
    )


def doubt(entry: Known, correct: int, count: int) -> Flag:
    """Compare a measured clean accuracy with the published one: is it the network that its name says?

    Args:
      entry: what is published.
      correct, count: images classified correctly, of how many.
    Returns:
      A flag, raised if the published accuracy lies outside the exact interval of 99.9 %.
    """
    low = float(binomial.lower(correct, count, DOUBT / 2))
    high = float(binomial.upper(correct, count, DOUBT / 2))
    # Published numbers are rounded to a hundredth of a percent.
    off = not low - 5e-5 <= entry.clean / 100 <= high + 5e-5
    measured = f"{100 * correct / count:.2f} % of {count} images are classified correctly"
    return Flag(
        "published accuracy",
        off,
        f"{measured}, and RobustBench states {entry.clean:g} %: "
        + ("is it another file, or are the images preprocessed otherwise?" if off else "they agree"),
        {"clean": correct / count, "published": entry.clean / 100},
    )


def doubt_cells(
    published: Mapping[tuple[str, int], float], correct: Mapping[tuple[str, int], int], count: int
) -> Flag:
    """Compare measured with published accuracies on corrupted images, cell by cell.

    Args:
      published: in percent, by corruption and severity.
      correct: images classified correctly, by the same.
      count: of how many in each cell.
    Returns:
      A flag, raised if some published accuracy lies outside an exact interval; all of them hold together in 99.9 %.
    """
    common = sorted(published.keys() & correct.keys())
    tail = DOUBT / 2 / max(len(common), 1)
    off = [
        cell
        for cell in common
        if not float(binomial.lower(correct[cell], count, tail)) - 5e-5
        <= published[cell] / 100
        <= float(binomial.upper(correct[cell], count, tail)) + 5e-5
    ]
    says = f"{len(off)} of {len(common)} cells differ from what RobustBench states by more than chance"
    if off:
        name, severity = off[0]
        says += f", the first is {name} at severity {severity}: are files and preprocessing those of the benchmark?"
    return Flag("published cells", bool(off), says, {"cells": float(len(common)), "differ": float(len(off))})


def _read(row: dict[str, str]) -> Known:
    def numbers(text: str) -> tuple[float, ...] | None:
        return None if text in ("-", "stored") else tuple(map(float, text.split(",")))

    def word(text: str) -> str | None:
        return None if text == "-" else text

    return Known(
        row["dataset"],
        row["threat"],
        row["name"],
        row["network"],
        word(row["architecture"]),
        numbers(row["mean"]),
        numbers(row["std"]),
        float(row["clean"]),
        float(row["robust"]),
        word(row["entry"]),
        word(row["preprocessing"]),
    )
