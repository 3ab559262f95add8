"""Certificates for every pixel of a smoothed segmenter, jointly."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.numerics import fold, keys_for
from robustjax.smoothing.certify import Certificate, certificate, check
from robustjax.smoothing.votes import Count, require, require_norm
from robustjax.types import Keys


def certify_pixels(
    count: Count,
    *,
    sigma: float,
    selection_samples: int = 100,
    samples: int = 1000,
    alpha: float = 0.001,
    joint: bool = True,
) -> Callable[[Keys, Array], Certificate]:
    """Certify the class of each pixel as `certify` does that of an image.

    Args:
      count: such as `votes` of a segmenter, whose logits are (chunk_size, h, w, k).
      sigma: standard deviation of the noise that `count` draws.
      selection_samples: for the choice of classes.
      samples: for the bounds.
      alpha: probability of a mistake: anywhere in an image, or of each single pixel.
      joint: which of the two is meant; the first divides alpha by the number of pixels.
    Returns:
      (key, x) -> Certificate of arrays (b, h, w); one key, or one per example.
    Raises:
      ValueError: as `certify`.

    Reference: Wong and Kolter 2020, arXiv:2007.08450, without `joint`: Fischer et al. 2021, arXiv:2107.00228, on
      the correction.
    """
    checks.positive("certify_pixels", "sigma", sigma)
    require_norm("certify_pixels", count, "l2")
    check("certify_pixels", alpha, selection_samples, samples)
    compiled = jax.jit(count)

    def run(key: Keys, x: Array) -> Certificate:
        require("certify_pixels", count, x)
        keys = keys_for(key, x.shape[0])
        chosen = np.asarray(compiled(fold(keys, 0), x, selection_samples)).argmax(axis=-1)
        counts = np.asarray(compiled(fold(keys, 1), x, samples))
        wins = np.take_along_axis(counts, chosen[..., None], axis=-1)[..., 0]
        pixels = chosen[0].size if joint else 1
        return certificate(chosen, wins, samples, sigma=sigma, alpha=alpha / pixels)

    return run
