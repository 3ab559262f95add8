"""Several small pictures of curves side by side, sharing one legend: PNG bytes (matplotlib)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax.runtime.figures import COLOURS, DASHES, WIDTH, canvas, shown


class Line(NamedTuple):
    """A curve, with the ends of its interval at each point if they are known; NaN leaves a gap."""

    x: Any
    y: Any
    low: Any = None
    high: Any = None


class Subplot(NamedTuple):
    """One picture: lines by name; equal names have equal colours in all subplots."""

    title: str
    lines: Mapping[str, Line]
    xlabel: str
    ylabel: str
    limits: tuple[float, float] | None = None


def subplot_grid(
    pictures: Sequence[Subplot], *, across: int = 3, height: float = 2.1, title: str = ""
) -> bytes:
    """Draw subplots in rows.

    Args:
      pictures: in reading order.
      across: how many in a row.
      height: of one, in inches.
      title: above everything.
    Raises:
      ValueError: if there are none.
    """
    if not pictures:
        raise ValueError("subplot_grid: there are no pictures, must be at least one")
    across = min(across, len(pictures))
    down = -(-len(pictures) // across)
    names = list(dict.fromkeys(name for p in pictures for name in p.lines))
    look = {n: (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]) for i, n in enumerate(names)}
    with canvas(WIDTH, height * down + 0.3 + (0.25 if title else 0)) as (figure, png):
        handles: dict[str, Any] = {}
        for i, picture in enumerate(pictures):
            axes = figure.add_subplot(down, across, i + 1)
            for name, line in picture.lines.items():
                colour, dash = look[name]
                x, y = np.asarray(line.x, float), np.asarray(line.y, float)
                (handles[name],) = axes.plot(x, y, color=colour, linestyle=dash, marker="o", markersize=3)
                if line.low is not None:
                    low, high = np.asarray(line.low, float), np.asarray(line.high, float)
                    if len(x) > 1:
                        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
                    else:
                        axes.errorbar(x, y, [y - low, high - y], color=colour, capsize=3)
            axes.set(xlabel=picture.xlabel, ylabel=picture.ylabel, title=picture.title)
            if picture.limits:
                axes.set_ylim(*picture.limits)
        if len(names) > 1:
            # As many columns as fit: long names would be cut off at the sides.
            for columns in range(min(4, len(names)), 0, -1):
                legend = figure.legend(
                    handles.values(), map(shown, handles), loc="outside lower center", ncols=columns
                )
                if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                    break
                legend.remove()
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, weight="bold")
        return png()
