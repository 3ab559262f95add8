"""Spatter: drops of water, or of mud, on the lens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robustjax.numerics import divide
from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.digital import grey
from robustjax.perturbations.corruptions.draws import normal
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import gaussian
from robustjax.perturbations.sampling import Border, folded
from robustjax.types import Images, Keys, Radius

Plane = Float[Array, "h w"]
WATER = (175, 238, 238)
MUD = (63, 42, 20)


def spatter(key: Keys, x: Images, severity: Radius) -> Images:
    """Cover parts of the image by drops, which are where smoothed noise is above a threshold.

    Water shines, more where the drop's edge rises against the light; mud hides what is behind it. Severities
    up to 3 are water and from 4 on mud; in between both are mixed, and below 1 the drops fade.

    Reference: see `parameters`. Mud is as published. Water follows the published chain of image operators
      without rounding to 8 bits and with edges that need not hang together (no hysteresis).
    """

    def one(key, image, severity):
        mean, deviation, sigma, threshold, strength, mud, weight = at(parameters.SPATTER, severity)
        liquid = mean + deviation * normal(key, image.shape[:2])
        liquid = gaussian(liquid[..., None], sigma, largest=1.0)[..., 0]
        liquid = jnp.where(liquid < threshold, 0.0, jnp.minimum(liquid, 1.0))
        shine = weight * strength * _shine(liquid)[..., None]
        wet = image + shine * _coloured(WATER, image)
        cover = gaussian((liquid > threshold).astype(image.dtype)[..., None], strength, largest=0.6)
        cover = weight * jnp.where(cover < 0.8, 0.0, cover)
        dirty = (1.0 - cover) * image + cover * _coloured(MUD, image)
        return (1.0 - mud) * jnp.clip(wet, 0.0, 1.0) + mud * dirty

    return each(one, key, x, severity)


def _coloured(colour: tuple[int, int, int], image: Array) -> Array:
    rgb = jnp.asarray([[colour]], image.dtype) / 255.0
    return rgb if image.shape[-1] == 3 else grey(rgb)


def _shine(liquid: Plane) -> Plane:
    """Light drops from below right: emboss the equalised distance from the edges, up to 20 pixels."""
    distance = _box(jnp.minimum(_distance(_edges(liquid)), 20.0))
    light = 255.0 * _equalised(jnp.floor(distance))
    slope = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
    wide = _around(light)
    height, width = light.shape
    lit = sum(
        (slope[i][j] * wide[i : i + height, j : j + width] for i in range(3) for j in range(3)),
        jnp.zeros_like(light),
    )
    glow = liquid * _box(jnp.clip(lit, 0.0, 255.0))
    return divide(glow, glow.max())


def _edges(liquid: Plane) -> Bool[Array, "h w"]:
    """Find edges as Canny does: where the slope is steep and largest across the edge."""
    wide = _around(255.0 * liquid, "edge")
    height, width = liquid.shape

    def shifted(plane: Array, i: int, j: int) -> Array:
        return plane[1 + i : 1 + i + height, 1 + j : 1 + j + width]

    right, down = (
        sum(
            (
                w * (shifted(wide, *pick(k, 1)) - shifted(wide, *pick(k, -1)))
                for k, w in ((-1, 1), (0, 2), (1, 1))
            ),
            jnp.zeros_like(liquid),
        )
        for pick in (lambda k, s: (k, s), lambda k, s: (s, k))
    )
    size = jnp.abs(right) + jnp.abs(down)
    framed = jnp.pad(size, 1)

    def largest(i: int, j: int) -> Array:
        return (size > shifted(framed, -i, -j)) & (size >= shifted(framed, i, j))

    tangent = jnp.tan(jnp.deg2rad(22.5))
    level = jnp.abs(down) < tangent * jnp.abs(right)
    upright = jnp.abs(right) < tangent * jnp.abs(down)
    slanted = jnp.where(right * down >= 0, largest(1, 1), largest(1, -1))
    thin = jnp.where(level, largest(0, 1), jnp.where(upright, largest(1, 0), slanted))
    return thin & (size > 150.0)


def _distance(edges: Bool[Array, "h w"]) -> Plane:
    """Measure the way to the nearest edge in pixels, first along rows and then between them."""
    far = 1e4
    across, down = (jnp.arange(n, dtype=jnp.float32) for n in (edges.shape[1], edges.shape[0]))
    gap = jnp.where(edges[:, None, :], jnp.abs(across[:, None] - across[None])[None], far).min(axis=-1)
    square = jnp.square(gap)[:, None, :] + jnp.square(down[:, None] - down[None])[:, :, None]
    return jnp.sqrt(square.min(axis=0))


def _equalised(plane: Plane) -> Plane:
    """Give every level, 0 to 20, the share of pixels at or below it, beyond those of the lowest."""
    shares = (plane[..., None] <= jnp.arange(21.0)[None, None]).mean(axis=(0, 1))
    lowest = jnp.where(shares > 0, shares, 1.0).min()
    return divide(shares[plane.astype(jnp.int32)] - lowest, 1.0 - lowest)


def _box(plane: Plane) -> Plane:
    """Average 3 x 3 pixels."""
    wide, (height, width) = _around(plane), plane.shape
    parts = (wide[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return sum(parts, jnp.zeros_like(plane)) / 9.0


def _around(plane: Plane, border: Border = "mirror") -> Float[Array, "i j"]:
    """Continue a plane by one pixel on every side."""
    rows, columns = (folded(jnp.arange(-1, n + 1), n, border) for n in plane.shape)
    return plane[rows[:, None], columns]
