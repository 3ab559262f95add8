"""Panels: a PNG of the right shape, gaps and single points drawn, nothing to draw refused."""

import io

import numpy as np
import pytest
from PIL import Image

from robustjax.runtime.subplots import Line, Subplot, subplot_grid


def test_panels_are_pictures():
    line = Line([0, 1, 2], [0.1, 0.5, np.nan], [0.0, 0.4, 0.2], [0.2, 0.6, 0.3])
    two = [Subplot("a", {"one": line, "other": Line([1], [2], [1], [3])}, "x", "y", (0, 3))] * 2
    sizes = [Image.open(io.BytesIO(subplot_grid(p, across=2))).size for p in (two[:1], two, two * 2)]
    assert sizes[0][0] == sizes[1][0] == sizes[2][0] == 1300 and sizes[0][1] == sizes[1][1] < sizes[2][1]
    assert np.asarray(Image.open(io.BytesIO(subplot_grid(two))).convert("L")).std() > 10
    with pytest.raises(ValueError, match="there are no pictures"):
        subplot_grid([])


def test_long_names_are_not_cut_off_at_the_sides():
    lines = {f"adversarial, attack.steps {k}, attack.step 0.75": Line([0, 1], [0, k]) for k in range(5)}
    pixels = np.asarray(Image.open(io.BytesIO(subplot_grid([Subplot("a", lines, "x", "y")]))).convert("L"))
    legend = pixels[int(0.8 * len(pixels)) :]
    assert legend.min() < 100 and (legend[:, :5] == 255).all() and (legend[:, -5:] == 255).all()
