"""Natural shifts of tone and sharpness: functions of images and one strength, differentiable in both."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from robustjax import checks
from robustjax.numerics import per_example
from robustjax.types import Images, Radius

GREY = (0.299, 0.587, 0.114)  # ITU-R 601


class Shift(NamedTuple):
    """A natural shift, and the strengths at which it is evaluated, from mild to strong."""

    apply: Callable[[Images, Radius], Images]
    strengths: tuple[float, ...]


def brightness(x: Images, times: Radius) -> Images:
    """Multiply and clip to [0, 1]: darker below 1, brighter above."""
    checks.floats("brightness", x)
    checks.setting("brightness", "times", times, least=0)
    checks.per_point("brightness", "times", times, len(x))
    return jnp.clip(per_example(times, x) * x, 0.0, 1.0)


def sharpness(x: Images, times: Radius) -> Images:
    """Move away from the smoothed image (above 1) or towards it: clip(m + k (x - m)), at k = 0 a blur.

    m averages 3x3 pixels, the middle one 5 times; the outermost pixels stay, as in Pillow.
    """
    checks.floats("sharpness", x)
    checks.setting("sharpness", "times", times, least=0)
    checks.per_point("sharpness", "times", times, len(x))
    inner = x[:, 1:-1, 1:-1]
    h, w = x.shape[1:3]
    around = sum((x[:, i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)), 4.0 * inner)
    smooth = x.at[:, 1:-1, 1:-1].set(around / 13.0)
    return jnp.clip(smooth + per_example(times, x) * (x - smooth), 0.0, 1.0)


def contrast(x: Images, times: Radius) -> Images:
    """Move away from the mean grey level (above 1) or towards it, and clip; the mean is rounded to 8 bits."""
    checks.floats("contrast", x)
    checks.setting("contrast", "times", times, least=0)
    checks.per_point("contrast", "times", times, len(x))
    grey = x[..., 0] if x.shape[-1] == 1 else x @ jnp.asarray(GREY, x.dtype)
    mean = jnp.round(255.0 * grey.mean(axis=(1, 2))) / 255.0
    mean = per_example(mean, x)
    return jnp.clip(mean + per_example(times, x) * (x - mean), 0.0, 1.0)


def inversion(x: Images, share: Radius) -> Images:
    """Go from an image (0) to its negative (1)."""
    checks.floats("inversion", x)
    checks.setting("inversion", "share", share, least=0, most=1)
    checks.per_point("inversion", "share", share, len(x))
    share = per_example(share, x)
    return (1.0 - share) * x + share * (1.0 - x)


SHIFTS: dict[str, Shift] = {
    "darker": Shift(brightness, (0.7, 0.5, 0.3, 0.1)),
    "brighter": Shift(brightness, (1.5, 2.0)),
    "sharper": Shift(sharpness, (2.0, 4.0, 8.0, 16.0)),
    "blurred": Shift(sharpness, (0.5, 0.0)),
    "contrast": Shift(contrast, (1.5, 0.5, 0.3)),
    "inverted": Shift(inversion, (1.0,)),
}
