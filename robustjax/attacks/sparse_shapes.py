"""What Sparse-RS paints: pixels anywhere, a square that moves, or a frame, and how it proposes to change them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from robustjax import l0
from robustjax.attacks.square_windows import window
from robustjax.numerics import constant
from robustjax.types import Keys, PerExample

# Up to which of 10,000 queries the share of the places that change has which divisor; the start is query 0.
PIXELS = (
    (0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15), (10000, 20),
)  # fmt: skip
PATCHES = ((10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (4000, 32), (8000, 64), (10000, 128))
REACH = 0.75  # of the height, how far a patch may move at first


class Painted(NamedTuple):
    """What is on an image, one row per example; a feature that is painted is at an edge of the box.

    Attributes:
      chosen: pixels that are painted.
      upper: whether it is the upper edge; of a patch, seen from its own corner.
      corner: of a patch in the image.
    """

    chosen: Bool[Array, "b m"]
    upper: Bool[Array, "b m c"]
    corner: Int[Array, "b 2"]


def shares(table: tuple[tuple[int, int], ...], alpha_init: float, queries: int) -> Float[np.ndarray, "q"]:
    """List what share of the places each query changes, by the published schedule, stretched to so many queries."""
    reached = [int(query / queries * 10000) for query in range(queries)]
    ends, divisors = np.array(table).T
    return (alpha_init / divisors[np.searchsorted(ends, reached)]).astype(np.float32)


def pixels(keys: Keys, count: PerExample, shape: tuple[int, int]) -> Painted:
    """Choose so many pixels of (pixels, channels), each channel at an edge of its own."""
    where, what = _split(keys, 2)
    chosen = l0.largest(_uniform(where, shape[:1]), count)
    return Painted(chosen, _coins(what, shape), _nowhere(count))


def swapped(keys: Keys, now: Painted, share: PerExample, count: PerExample) -> Painted:
    """Give up a share of the pixels for others, or for the same, coloured anew."""
    out, into, what = _split(keys, 3)
    some = _some(share, count)
    leaving = l0.largest(_uniform(out, now.chosen.shape[1:]) + now.chosen.astype(jnp.float32), some)
    free = (~now.chosen | leaving).astype(jnp.float32)
    entering = l0.largest(_uniform(into, now.chosen.shape[1:]) + free, some)
    upper = jnp.where(entering[..., None], _coins(what, now.upper.shape[1:]), now.upper)
    return now._replace(chosen=(now.chosen & ~leaving) | entering, upper=upper)


def side_of(count: PerExample, height: int, width: int) -> Int[Array, "b"]:
    """Find the side of the largest square of at most so many pixels that fits into the image."""
    sides = jnp.arange(1, min(height, width) + 1, dtype=jnp.float32)
    return (jnp.square(sides)[None] <= count[:, None]).sum(axis=1, dtype=jnp.int32)


def patch(keys: Keys, side: Int[Array, "b"], shape: tuple[int, int, int]) -> Painted:
    """Put a square of vertical stripes, coloured at random, anywhere in an image of the shape."""
    height, width, channels = shape
    where, what = _split(keys, 2)
    stripes = jnp.broadcast_to(_coins(what, (1, width, channels)), (len(side), height, width, channels))
    corner = _below(_uniform(where, (2,)), jnp.stack([height - side + 1, width - side + 1], axis=1))
    return _placed(
        Painted(_blank(side, height * width), stripes.reshape(len(side), -1, channels), corner), side, shape
    )


def repainted(
    keys: Keys, now: Painted, share: PerExample, side: Int[Array, "b"], shape: tuple[int, int, int]
) -> Painted:
    """Colour a square window of the patch, one colour for all of it; the window has a share of the patch's pixels."""
    height, width, channels = shape
    where, what = _split(keys, 2)
    small = jnp.maximum(jnp.floor(jnp.sqrt(share) * side.astype(jnp.float32)), 1.0).astype(jnp.int32)
    corner = _below(_uniform(where, (2,)), jnp.stack([side - small + 1] * 2, axis=1))
    inside = window(small, small, corner[:, 0], corner[:, 1], height, width).reshape(len(side), -1, 1)
    return now._replace(upper=jnp.where(inside, _coins(what, (1, channels)), now.upper))


def moved(
    keys: Keys, now: Painted, left: PerExample, side: Int[Array, "b"], shape: tuple[int, int, int]
) -> Painted:
    """Move the patch by up to `left` of three quarters of the image's height, both ways."""
    height, width, _ = shape
    reach = jnp.floor(REACH * left * height).astype(jnp.int32)
    step = _below(_uniform(keys, (2,)), jnp.stack([2 * reach + 1] * 2, axis=1)) - reach[:, None]
    last = jnp.stack([height - side, width - side], axis=1)
    return _placed(now._replace(corner=jnp.clip(now.corner + step, 0, last)), side, shape)


def in_place(now: Painted, shape: tuple[int, int, int]) -> Bool[Array, "b m c"]:
    """Give the colours of a patch as the image sees them."""
    canvas = now.upper.reshape(-1, *shape)
    rolled = jax.vmap(lambda one, corner: jnp.roll(one, (corner[0], corner[1]), (0, 1)))(canvas, now.corner)
    return rolled.reshape(now.upper.shape)


def border(count: PerExample, height: int, width: int) -> Int[Array, "b"]:
    """Find the width of the widest frame of at most so many pixels."""
    widths = jnp.arange(1, (min(height, width) + 1) // 2 + 1)
    inner = jnp.maximum(height - 2 * widths, 0) * jnp.maximum(width - 2 * widths, 0)
    needed = (height * width - inner).astype(jnp.float32)
    return (needed[None] <= count[:, None]).sum(axis=1, dtype=jnp.int32)


def frame(keys: Keys, wide: Int[Array, "b"], shape: tuple[int, int, int]) -> Painted:
    """Put a frame around an image of the shape, each channel of each pixel at an edge of its own."""
    height, width, channels = shape
    down, right = jnp.arange(height), jnp.arange(width)
    near = jnp.minimum(
        jnp.minimum(down, height - 1 - down)[:, None], jnp.minimum(right, width - 1 - right)[None]
    )
    chosen = near.reshape(1, -1) < wide[:, None]
    return Painted(chosen, _coins(keys, (height * width, channels)), _nowhere(wide))


def recoloured(
    keys: Keys, now: Painted, share: PerExample, wide: Int[Array, "b"], shape: tuple[int, int, int]
) -> Painted:
    """Colour squares as wide as the frame, each of one colour, with one corner in a share of the frame's pixels."""
    height, width, channels = shape
    where, what, way = _split(keys, 3)
    count = now.chosen.sum(axis=1).astype(jnp.float32)
    rank = _uniform(where, now.chosen.shape[1:]) + now.chosen.astype(jnp.float32)
    seeds = (l0.largest(rank, _some(share, count)) & now.chosen).reshape(-1, height, width, 1)
    colours = _coins(what, (height, width, channels))
    back = _coins(way, (2,))

    def spread(axis: int, seeds: Array, colours: Array) -> tuple[Array, Array]:
        place = jnp.arange(shape[axis]).reshape((1, -1, 1, 1) if axis == 0 else (1, 1, -1, 1))
        backwards = back[:, axis, None, None, None]

        def once(i: Array, grown: tuple[Array, Array]) -> tuple[Array, Array]:
            marks, kinds = (
                jnp.where(backwards, jnp.roll(v, -i, axis + 1), jnp.roll(v, i, axis + 1))
                for v in (seeds, colours)
            )
            # What was rolled over the edge of the image does not come back on the other side.
            there = jnp.where(backwards, place < shape[axis] - i, place >= i)
            marks = marks & there & (i < wide[:, None, None, None])
            return grown[0] | marks, jnp.where(marks, kinds, grown[1])

        return jax.lax.fori_loop(1, jnp.max(wide, initial=1), once, (seeds, colours))

    seeds, colours = spread(0, seeds, colours)
    seeds, colours = spread(1, seeds, colours)
    there, kinds = (v.reshape(len(wide), height * width, -1) for v in (seeds, colours))
    return now._replace(upper=jnp.where(there, kinds, now.upper))


def _placed(now: Painted, side: Int[Array, "b"], shape: tuple[int, int, int]) -> Painted:
    inside = window(side, side, now.corner[:, 0], now.corner[:, 1], *shape[:2])
    return now._replace(chosen=inside.reshape(len(side), -1))


def _some(share: PerExample, count: PerExample) -> PerExample:
    """Say how many a share is: at least one, at most all."""
    return jnp.minimum(jnp.maximum(jnp.floor(share * count), 1.0), count)


def _below(uniform: Array, ends: Array) -> Int[Array, "b 2"]:
    return jnp.floor(uniform * ends.astype(jnp.float32)).astype(jnp.int32)


def _nowhere(like: Array) -> Int[Array, "b 2"]:
    return jnp.stack([constant(like, 0, jnp.int32)] * 2, axis=1)


def _blank(like: Int[Array, "b"], size: int) -> Bool[Array, "b m"]:
    return jnp.broadcast_to((like < 0)[:, None], (len(like), size))


def _split(keys: Keys, parts: int) -> Key[Array, "p b"]:
    return jax.vmap(lambda k: jax.random.split(k, parts), out_axes=1)(keys)


def _uniform(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    return jax.vmap(lambda k: jax.random.uniform(k, shape))(keys)


def _coins(keys: Keys, shape: tuple[int, ...]) -> Bool[Array, "b ..."]:
    return jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, shape))(keys)
