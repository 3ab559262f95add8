"""Patches: a square of free pixels, at a place that is given or drawn."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.numerics import fold, keys_for
from robustjax.perturbations.sets import PerturbationSet
from robustjax.threats import Threat
from robustjax.types import Images, Keys


def patch(
    size: int,
    *,
    channels: int = 3,
    place: tuple[int, int] | None = None,
    turns: bool = False,
    lower: float = 0.0,
    upper: float = 1.0,
) -> PerturbationSet:
    """Cover a square of each image by pixels that the attacker chooses: all of the box is allowed there.

    Parameters are the patch itself, moved so that 0 is the middle of the box. Where the place is drawn, the key of the
    decoder fixes it: one search sees one place. For a patch that works anywhere take the mean over keys
    (`attacks.adaptive`), for one that works on any image `attacks.universal`.

    Args:
      size: side of the square, in pixels.
      channels: of the images.
      place: row and column of its upper left pixel; None to draw it, evenly over all places where it fits.
      turns: also turn the patch by a quarter, a half or three quarters, drawn evenly.
      lower, upper: the box of the images.
    Returns:
      A set of size * size * channels parameters.
    Raises:
      ValueError: if a number is out of range, the box is empty, or the patch does not fit.

    Reference: Brown et al. 2017, arXiv:1712.09665, at one scale and without a print's noise.
    """
    checks.count("patch", "size", size)
    checks.count("patch", "channels", channels)
    if not lower < upper:
        raise ValueError(f"patch: lower is {lower} and upper {upper}, must rise")
    middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)

    def decode(key: Keys, x: Images, u: Array) -> Images:
        height, width = x.shape[1:3]
        row, column = (0, 0) if place is None else place
        if x.shape[3] != channels or not (0 <= row <= height - size and 0 <= column <= width - size):
            raise ValueError(
                f"patch: images are {list(x.shape[1:])}, must hold {size} x {size} pixels of {channels} channels"
                + ("" if place is None else f" at {place}")
            )
        shape = (size, size, channels)

        def one(key: Array, image: Array, u: Array) -> Array:
            squares = middle + half * u.reshape(shape)
            if turns:
                turn = jax.random.randint(jax.random.fold_in(key, 2), (), 0, 4)
                squares = jax.lax.switch(turn, [lambda s, k=k: jnp.rot90(s, k) for k in range(4)], squares)
            at = [jnp.int32(row), jnp.int32(column)]
            if place is None:
                most = (height - size + 1, width - size + 1)
                at = [jax.random.randint(jax.random.fold_in(key, i), (), 0, n) for i, n in enumerate(most)]
            return jax.lax.dynamic_update_slice(image, squares.astype(image.dtype), (*at, jnp.int32(0)))

        return jax.vmap(one)(fold(keys_for(key, len(x)), 0), x, u)

    return PerturbationSet(decode, Threat("linf", 1.0, -1.0, 1.0), size * size * channels)
