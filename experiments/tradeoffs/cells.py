"""One setting of tradeoffs.compare, and what is read of the file that its measurements are kept in."""

import pathlib
from typing import Literal, NamedTuple

import numpy as np

STRONG, WEAK = (0.25, 0.08), (0.08, 0.05)  # of the background: scale of the texture, and of the pixel noise


class Cell(NamedTuple):
    """One setting, trained with all seeds at once; plain training has radius 0."""

    task: Literal["multi", "binary"]
    background: tuple[float, float]
    correlation: float
    method: Literal["plain", "group_dro", "jtt"] = "plain"
    norm: str = "l2"
    eps: float = 0.0

    @property
    def name(self) -> str:
        """Name the file of the setting."""
        training = f"{self.norm}_{self.eps:.5g}" if self.eps else "clean"
        return (
            f"{self.task}_background{self.background[0]:g}_rho{self.correlation:g}_{self.method}_{training}"
        )


def unpacked(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the measurements of a setting, without its weights."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files if not name.startswith("weights/")}
