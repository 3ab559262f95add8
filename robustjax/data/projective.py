"""Turn, shift and tilt images at random, on the device."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks
from robustjax.data.augment import Augment
from robustjax.numerics import keys_for
from robustjax.types import Images


def projective(*, rotation: float = 15.0, shift: float = 2.5, tilt: float = 0.24) -> Augment:
    """Rotate around the centre, shift, and move the four corners apart, with one linear interpolation.

    Args:
      rotation: largest angle, in degrees.
      shift: largest shift along each axis, in pixels.
      tilt: largest reach of the corners, as a share of the side: that of an image is uniform below it, and each
        coordinate of each corner moves by less than that.
    Raises:
      ValueError: if one of them is negative or infinite.

    Reference: the augmentation of GTSRB of Chen et al. 2020, arXiv:2003.09711, whose code makes 10,000 images of each
      class by it beforehand, with three interpolations. What moves in has the colour of the border; after a shift it is
      black there.
    """
    for name, value in (("rotation", rotation), ("shift", shift), ("tilt", tilt)):
        checks.number("projective", name, value, least=0)

    def warped(key: PRNGKeyArray, images: Images) -> Images:
        checks.floats("projective", images, lower=-math.inf, upper=math.inf)
        height, width = images.shape[1:3]
        y, x = jnp.meshgrid(jnp.arange(float(height)), jnp.arange(float(width)), indexing="ij")
        corners = jnp.asarray([[0, 0], [0, height], [width, height], [width, 0]], jnp.float32)
        middle = jnp.asarray([width - 1, height - 1]) / 2

        def one(key: PRNGKeyArray, image: Array) -> Array:
            turn, move, reach, jitter = jax.random.split(key, 4)
            angle = jnp.deg2rad(jax.random.uniform(turn, (), minval=-rotation, maxval=rotation))
            offset = jax.random.uniform(move, (2,), minval=-shift, maxval=shift)
            most = jax.random.uniform(reach, (), maxval=tilt) * max(height, width)
            moved = corners + most * jax.random.uniform(jitter, (4, 2), minval=-1.0, maxval=1.0)
            # From the result back: the corners, the shift, the rotation.
            h = homography(moved, corners) @ jnp.stack([x, y, jnp.ones_like(x)]).reshape(3, -1)
            column, row = h[:2] / h[2][None] - offset[:, None] - middle[:, None]
            cosine, sine = jnp.cos(angle), jnp.sin(angle)
            back = (
                jnp.stack([cosine * row - sine * column, cosine * column + sine * row]) + middle[::-1, None]
            )

            def channel(plane: Array) -> Array:
                return jax.scipy.ndimage.map_coordinates(plane, list(back), order=1, mode="nearest")

            return jax.vmap(channel, -1, -1)(image).reshape(image.shape)

        return jax.vmap(one)(keys_for(key, len(images)), images)

    return warped


def homography(source: Float[Array, "4 2"], target: Float[Array, "4 2"]) -> Float[Array, "3 3"]:
    """Find the projective map that takes four points to four others."""
    x, y = source.T
    one, none = jnp.ones(4), jnp.zeros(4)

    def rows(to: Array, here: int) -> Array:
        block = [x, y, one]
        empty = [none, none, none]
        return jnp.stack([*(block if here == 0 else empty), *(block if here else empty), -to * x, -to * y], 1)

    system = jnp.concatenate([rows(target[:, 0], 0), rows(target[:, 1], 1)])
    solved = jnp.linalg.solve(system, jnp.concatenate([target[:, 0], target[:, 1]]))
    return jnp.append(solved, 1.0).reshape(3, 3)
