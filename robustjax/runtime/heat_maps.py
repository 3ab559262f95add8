"""Numbers in a rectangle, coloured by size: PNG bytes (matplotlib)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustjax.runtime.figures import WIDTH, canvas


def heat_map(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    limits: tuple[float, float] = (0.0, 100.0),
    title: str = "",
) -> bytes:
    """Draw one coloured field for each number, with the number in it.

    Args:
      values: (r, c); NaN leaves a field empty.
      rows, columns: their names.
      label: what the numbers are, with the unit.
      limits: where the colours begin and end.
      title: above everything.
    Raises:
      ValueError: if the names are not as many as rows and columns.
    """
    shown = np.asarray(values, float)
    if shown.shape != (len(rows), len(columns)):
        raise ValueError(
            f"heat_map: values have shape {shown.shape}, must be ({len(rows)}, {len(columns)}), one for each name"
        )
    with canvas(WIDTH, 0.9 + 0.24 * len(rows)) as (figure, png):
        axes = figure.add_subplot()
        image = axes.imshow(shown, cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto")
        axes.grid(False)
        axes.set_xticks(range(len(columns)), list(columns))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.tick_params(length=0)
        middle = sum(limits) / 2
        for (i, j), value in np.ndenumerate(shown):
            if np.isfinite(value):
                colour = "white" if value < middle else "black"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
        if title:
            axes.set_title(title)
        figure.colorbar(image, ax=axes, label=label)
        return png()
