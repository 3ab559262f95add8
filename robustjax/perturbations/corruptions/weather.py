"""Snow, frost and fog."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.blur import zoomed
from robustjax.perturbations.corruptions.digital import grey
from robustjax.perturbations.corruptions.draws import normal, uniform
from robustjax.perturbations.corruptions.fractal import covering, plasma
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import along, interpolation, separable
from robustjax.types import Images, Keys, Radius


def snow(key: Keys, x: Images, severity: Radius) -> Images:
    """Whiten the image and let flakes fall on it: the largest values of noise, enlarged and blurred downwards.

    Reference: see `parameters`; the flakes are not rounded to 8 bits. Below severity 1 they fade.
    """

    def one(key, image, severity):
        mean, deviation, _, threshold, radius, sigma, mix, weight = at(parameters.SNOW, severity)
        noise, fall = jax.random.split(key)
        flakes = mean + deviation * normal(noise, image.shape[:2])
        lines = [interpolation(at(_lines(size), severity), size) for size in image.shape[:2]]
        flakes = separable(flakes[..., None], *lines)
        flakes = jnp.where(flakes < threshold, 0.0, jnp.minimum(flakes, 1.0))
        angle = jax.random.uniform(fall, (), minval=-135.0, maxval=-45.0)
        flakes = weight * along(flakes, radius, sigma, angle, largest=14)
        white = jnp.maximum(image, 1.5 * grey(image) + 0.5)
        return mix * image + (1.0 - mix) * white + flakes + flakes[::-1, ::-1]

    return each(one, key, x, severity)


def frost(key: Keys, x: Images, severity: Radius) -> Images:
    """Lay ice crystals over a dimmed image.

    Reference: see `parameters` for the weights. The published code cuts the ice out of five photographs; ours
      is drawn by `ice`, with the mean of the photographs and about the mean squared change that they cause, so the
      images are not those of CIFAR-10-C.
    """

    def one(key, image, severity):
        dimming, weight = at(parameters.FROST, severity)
        texture = ice(key, *image.shape[:2])
        texture = texture if image.shape[-1] == 3 else grey(texture)
        return dimming * image + weight * texture

    return each(one, key, x, severity)


CELL = 4, 6  # pixels, down and across, in which one needle begins
REACH = 12  # pixels of the longest needle
LIGHT, STEPS = 0.37, 1.15  # of bare ground, and of what the pane and the needles add


def ice(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "h w 3"]:
    """Draw bluish ice in [0, 1]: needles that grow from germs, one in each cell, over a rough pane.

    The mean is that of the five photographs of frost of the published code, 0.64. Time and memory are linear in the
    pixels: a pixel looks at the germs of the cells around it.
    """
    ground, needle = jax.random.split(key)
    pane = plasma(ground, covering(height, width), 1.6)[:height, :width]
    around = tuple(-(-(REACH + 2) // side) for side in CELL)  # cells that a needle crosses, at most
    cells = tuple(-(-size // side) for size, side in zip((height, width), CELL, strict=True))
    shape = tuple(count + 2 * more for count, more in zip(cells, around, strict=True))
    turn, germs = jax.random.split(needle)
    # Needles keep to six directions, sixty degrees apart, of a crystal that lies askew.
    askew = jax.random.uniform(turn)
    down, right, axis, length = uniform(germs, (4, *shape))
    axis = 6.0 * axis
    angle = (jnp.floor(axis) + askew + 0.15 * (axis - jnp.floor(axis))) * (np.pi / 3)
    field = jnp.stack([down, right, jnp.cos(angle), jnp.sin(angle), 3.0 + (REACH - 3.0) * length])
    rows, columns = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)[None]

    def grown(number, needles):
        i, j = number // (2 * around[1] + 1), number % (2 * around[1] + 1)
        part = jax.lax.dynamic_slice(field, (0, i, j), (5, *cells))
        part = jnp.repeat(jnp.repeat(part, CELL[0], axis=1), CELL[1], axis=2)[:, :height, :width]
        row = CELL[0] * (jnp.floor(rows / CELL[0]) + i - around[0] + part[0])
        column = CELL[1] * (jnp.floor(columns / CELL[1]) + j - around[1] + part[1])
        forward = (columns - column) * part[2] + (rows - row) * part[3]
        aside = (rows - row) * part[2] - (columns - column) * part[3]
        inside = jnp.clip(1.0 - forward / part[4], 0.0, 1.0) * (forward >= 0).astype(jnp.float32)
        return jnp.maximum(needles, inside * jnp.exp(-jnp.square(aside / 0.55)))

    count = (2 * around[0] + 1) * (2 * around[1] + 1)
    needles = jax.lax.fori_loop(0, count, grown, jnp.zeros((height, width)))
    light = jnp.clip(LIGHT + STEPS * (0.35 * pane + 0.6 * needles), 0.0, 1.0)
    # Thin ice is blue, thick ice white.
    tint = jnp.asarray([[[0.80, 0.93, 1.0]]])
    return light[..., None] * (tint + (1.0 - tint) * light[..., None])


def fog(key: Keys, x: Images, severity: Radius) -> Images:
    """Add a plasma fractal and scale back to the image's largest value."""

    def one(key, image, severity):
        weight, decay = at(parameters.FOG, severity)
        height, width = image.shape[:2]
        cloud = plasma(key, covering(height, width), decay)[:height, :width, None]
        largest = image.max()
        # A black image stays black at every severity, also where its largest value and the weight are both 0.
        return (image + weight * cloud) * largest / jnp.maximum(largest + weight, 1e-12)

    return each(one, key, x, severity)


def _lines(size: int) -> np.ndarray:
    """Say for each severity where the flakes of a line come from, (6, size)."""
    return np.stack([zoomed(size, float(zoom)) for zoom in parameters.SNOW[:, 2]])
