"""Pictures of images, as PNG bytes: labelled grids, and what an attack did."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustjax.runtime.figures import WIDTH, canvas, shown


def grid(
    images: Any,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    width: float | None = None,
) -> bytes:
    """Lay out images in rows and columns.

    Args:
      images: (r, c, h, w, 1 or 3) in [0, 1], or r sequences of up to c images.
      rows: a label to the left of each row.
      columns: a label above each column.
      captions: for each row, a text under each image; an empty text, or row, for none.
      title: above everything.
      width: in inches; at most the text width, by default as much of it as the images fill.
    Raises:
      ValueError: if there are no images, or more labels or captions than images.
    """
    table = [[_showable(image) for image in row] for row in images]
    height, breadth = len(table), max((len(row) for row in table), default=0)
    if not breadth:
        raise ValueError("grid: images is empty, must hold at least one")
    if len(rows) > height or len(columns) > breadth or len(captions) > height:
        raise ValueError(
            f"grid: {len(rows)} row and {len(columns)} column labels, {len(captions)} rows of captions, "
            f"must be at most the {height} rows and {breadth} columns of images"
        )
    rows, columns = [shown(label) for label in rows], [shown(label) for label in columns]
    captions = [[shown(text) for text in row] for row in captions]
    left = 0.1 + 0.068 * max((len(label) for label in rows), default=0)
    width = width or min(WIDTH, left + 0.95 * breadth)
    cell = (width - left) / breadth
    tall = cell * max(image.shape[0] / image.shape[1] for row in table for image in row)
    under = [0.19 if i < len(captions) and any(captions[i]) else 0.0 for i in range(height)]
    above = (0.24 if title else 0.0) + (0.2 if columns else 0.0)
    whole = above + height * tall + sum(under) + 0.05
    with canvas(width, whole, layout="none") as (figure, png):
        top = whole - above
        if title:
            figure.text(0.04 / width, 1 - 0.06 / whole, title, va="top", ha="left", weight="bold", fontsize=9)
        for i, row in enumerate(table):
            top -= tall
            for j, image in enumerate(row):
                gap = 0.035 * cell
                axes = figure.add_axes(
                    (
                        (left + j * cell + gap) / width,
                        (top + gap) / whole,
                        (cell - 2 * gap) / width,
                        (tall - 2 * gap) / whole,
                    )
                )
                axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(True)
                axes.spines[:].set(color="#bbbbbb", linewidth=0.5)
                if i == 0 and j < len(columns):
                    axes.set_title(
                        columns[j], fontsize=_fitting(columns, cell), weight="normal", loc="center", pad=3
                    )
                if i < len(captions) and j < len(captions[i]):
                    axes.set_xlabel(captions[i][j], fontsize=_fitting(captions[i], cell), labelpad=2)
            if i < len(rows):
                figure.text(
                    (left - 0.07) / width,
                    (top + tall / 2) / whole,
                    rows[i],
                    va="center",
                    ha="right",
                    fontsize=8,
                )
            top -= under[i]
        return png()


def attacked(
    original: Any,
    found: Any,
    *,
    captions: Sequence[str] = (),
    gain: float | None = None,
    columns: Sequence[str] = (),
    title: str = "",
) -> bytes:
    """Show originals, what an attack made of them, and the amplified differences around mid-grey.

    Args:
      original: (b, h, w, 1 or 3) in [0, 1].
      found: the attacked images, of the same shape.
      captions: under each attacked image, such as "3 → 8".
      gain: how much to amplify; by default so that the largest difference is just black or white.
      columns: a label above each column.
      title: above everything.
    Raises:
      ValueError: if the shapes differ.
    """
    before, after = np.asarray(original, np.float32), np.asarray(found, np.float32)
    if before.shape != after.shape:
        raise ValueError(f"attacked: found has shape {after.shape}, must be that of original, {before.shape}")
    if gain is None:
        gain = round(0.5 / max(float(np.abs(after - before).max()), 0.01), 1)
    images = [before, after, np.clip(0.5 + gain * (after - before), 0, 1)]
    names = ["original", "attacked", f"difference ×{gain:g}"]  # noqa: RUF001
    return grid(images, rows=names, columns=columns, captions=[[], captions], title=title)


def _fitting(texts: Sequence[str], cell: float) -> float:
    """The font size, in points, at which the longest text is no wider than a cell, in inches."""
    return min(8.0, 72 * cell / (0.58 * max(len(text) for text in texts)))


def _showable(image: Any) -> np.ndarray:
    array = np.clip(np.asarray(image, np.float32), 0, 1)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
