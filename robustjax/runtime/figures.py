"""Pictures of numbers for reports and papers, as PNG bytes: curves with intervals, training, ROC.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines differ in dash as well,
for print without colour. No global state: figures are drawn without pyplot. Names from data are drawn as they are:
`$` is a dollar, and a character that the font lacks is written as its code.
"""

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
WIDTH = 6.5  # inches: the text width of a page
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "figure.dpi": 200,
    "text.parse_math": False,  # class names hold dollars
}

Line = Any  # y, or (y, low, high)


def curves(
    x: Any,
    lines: Mapping[str, Line],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log_x: bool = False,
    limits: tuple[float, float] | None = None,
) -> bytes:
    """Draw y over x, with a band where an interval is known.

    Args:
      x: (n,), for all lines.
      lines: by name, y (n,) or (y, low, high).
      xlabel: with its unit.
      ylabel: with its unit.
      title: above everything.
      log_x: a logarithmic axis.
      limits: of the y axis.
    """
    with canvas(WIDTH * 0.75, 2.9) as (figure, png):
        axes = figure.add_subplot()
        _draw(axes, x, lines)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if log_x:
            log_axis(axes)
        if limits:
            axes.set_ylim(*limits)
        if len(lines) > 1:
            axes.legend(loc="best")
        return png()


def training(measured: Sequence[Mapping[str, Any]], *, names: Sequence[str] = (), title: str = "") -> bytes:
    """Draw the numbers of a `metrics.jsonl` over the steps, one small picture for each.

    Args:
      measured: as `read_metrics` returns it.
      names: what to draw; by default everything that is one number.
      title: above everything.
    Raises:
      ValueError: if there is nothing to draw.
    """
    found = dict.fromkeys(
        name
        for line in measured
        for name, value in line.items()
        if name != "step" and not isinstance(value, list)
    )
    names = list(names) or list(found)
    if not names:
        raise ValueError("training: nothing was measured, there must be at least one number")
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    last = max(line["step"] for line in measured) or 1
    with canvas(WIDTH * max(across, 2) / 3, 1.75 * down + (0.3 if title else 0)) as (figure, png):
        for i, name in enumerate(names):
            axes = figure.add_subplot(down, across, i + 1)
            points = [(line["step"], float(line[name])) for line in measured if name in line]
            x, y = np.array(points).reshape(-1, 2).T
            _draw(axes, x, {name: y}, marker="o" if len(x) < 12 else None)
            axes.set_title(name.replace("_", " "))
            axes.set_xlim(-0.02 * last, 1.02 * last)
            axes.locator_params(nbins=4)
            if i >= len(names) - across:
                axes.set_xlabel("step")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, weight="bold")
        return png()


def roc(lines: Mapping[str, tuple[Any, Any]], *, title: str = "") -> bytes:
    """Draw ROC curves: true positives (ID images accepted) over false positives (OOD images accepted).

    Args:
      lines: by name, (false positive rates, true positive rates), each (n,).
      title: above everything.
    """
    with canvas(3.4, 3.5 + 0.16 * len(lines)) as (figure, png):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for i, (name, (false, true)) in enumerate(lines.items()):
            axes.plot(
                false, true, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], label=name
            )
        axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        figure.legend(loc="outside lower center")  # inside it would cover a detector worse than chance
        return png()


@contextmanager
def canvas(
    width: float, height: float, layout: str = "constrained"
) -> Iterator[tuple[Figure, Callable[[], bytes]]]:
    """Lend an empty figure in the style of this file, in inches, and a function that ends it as PNG bytes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=layout)  # pyright: ignore[reportArgumentType]

        def png() -> bytes:
            for text in figure.findobj(Text):
                text.set_text(shown(text.get_text()))  # pyright: ignore[reportAttributeAccessIssue]
            out = io.BytesIO()
            figure.savefig(out, format="png", metadata={"Software": None})
            return out.getvalue()

        yield figure, png


def shown(text: str) -> str:
    r"""Write characters that the font lacks as their codes, such as \u4e2d, where matplotlib draws an empty box."""
    return "".join(
        c if c == "\n" or ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in text
    )


def log_axis(axes: Axes, base: float = 10.0) -> None:
    """Make x logarithmic with plain numbers at the ticks; matplotlib's powers would have to be typeset."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@functools.cache
def _glyphs() -> frozenset[int]:
    """Collect the characters of the font."""
    font = font_manager.findfont(STYLE["font.sans-serif"][0])
    return frozenset(font_manager.get_font(font).get_charmap())


def _draw(axes: Axes, x: Any, lines: Mapping[str, Line], marker: str | None = None) -> None:
    for i, (name, line) in enumerate(lines.items()):
        y, *band = line if isinstance(line, tuple) else (line,)
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            x, y, color=colour, linestyle=DASHES[i % len(DASHES)], label=name, marker=marker, markersize=3
        )
        if band:
            axes.fill_between(x, band[0], band[1], color=colour, alpha=0.16, linewidth=0)
