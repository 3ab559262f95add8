"""Bars are PNG files of the size asked for, and refuse what does not fit together."""

import io

import matplotlib.image
import numpy as np
import pytest

from robustjax.runtime.bar_charts import bars


def test_bars_show_their_height():
    def painted(value):
        png = bars(["one"], {"a": [(value, value, value)]}, ylabel="%")
        image = matplotlib.image.imread(io.BytesIO(png))
        blue = (image[..., 2] > 0.6) & (image[..., 0] < 0.2)
        return np.count_nonzero(blue)

    assert painted(80.0) > 3 * painted(20.0) > 0
    with pytest.raises(ValueError, match="'a' has 1 bars, must be 2"):
        bars(["one", "two"], {"a": [(1, 1, 1)]}, ylabel="%")
