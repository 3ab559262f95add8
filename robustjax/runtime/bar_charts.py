"""Bars side by side with their intervals: PNG bytes (matplotlib)."""

from collections.abc import Mapping, Sequence

import numpy as np

from robustjax.runtime.figures import COLOURS, WIDTH, canvas, shown

Bar = tuple[float, float, float]  # value and the ends of its interval


def bars(
    groups: Sequence[str], series: Mapping[str, Sequence[Bar]], *, ylabel: str, title: str = ""
) -> bytes:
    """Draw one group of bars for each name, one bar of each series in it.

    Args:
      groups: a name under each group.
      series: by name, a bar for each group; NaN leaves a gap.
      ylabel: with its unit; the axis runs from 0 to 100.
      title: above everything.
    Raises:
      ValueError: if a series has another number of bars than there are groups.
    """
    for name, values in series.items():
        if len(values) != len(groups):
            raise ValueError(
                f"bars: {name!r} has {len(values)} bars, must be {len(groups)}, one for each group"
            )
    with canvas(WIDTH, 2.9) as (figure, png):
        axes = figure.add_subplot()
        share = 0.8 / max(len(series), 1)
        for i, (name, values) in enumerate(series.items()):
            at = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * share
            height, low, high = np.array(values, float).reshape(-1, 3).T
            ends = np.maximum(np.stack([height - low, high - height]), 0.0)
            drawn = axes.bar(
                at, height, 0.92 * share, yerr=ends, label=name, color=COLOURS[i % len(COLOURS)],
                error_kw={"ecolor": "#333333", "elinewidth": 0.8, "capsize": 2},
            )  # fmt: skip
            # Labels of bars with intervals stand above the interval.
            axes.bar_label(
                drawn, [f"{v:.0f}" if np.isfinite(v) else "" for v in height], fontsize=6, padding=2
            )
        axes.set(ylim=(0, 112), ylabel=ylabel, yticks=range(0, 101, 20))
        axes.set_xticks(range(len(groups)), [shown(name) for name in groups], fontsize=7)
        axes.legend(ncols=min(len(series), 4), fontsize=7, loc="upper right", frameon=False)
        if title:
            axes.set_title(title)
        return png()
