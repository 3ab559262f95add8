"""Snow, frost and fog."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.blur import zoomed
from robustjax.perturbations.corruptions.digital import grey
from robustjax.perturbations.corruptions.draws import normal
from robustjax.perturbations.corruptions.fractal import covering, plasma
from robustjax.perturbations.corruptions.severity import at, each
from robustjax.perturbations.corruptions.smoothing import along, interpolation, separable
from robustjax.types import Images, Radius


def snow(key: PRNGKeyArray, x: Images, severity: Radius) -> Images:
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


def frost(key: PRNGKeyArray, x: Images, severity: Radius) -> Images:
    """Lay ice crystals over a dimmed image.

    Reference: see `parameters` for the weights. The published code cuts the ice out of six photographs; ours
      is drawn by `ice`, so the images are not those of CIFAR-10-C and need not be as hard.
    """

    def one(key, image, severity):
        dimming, weight = at(parameters.FROST, severity)
        texture = ice(key, *image.shape[:2])
        texture = texture if image.shape[-1] == 3 else grey(texture)
        return dimming * image + weight * texture

    return each(one, key, x, severity)


def ice(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "h w 3"]:
    """Draw bluish ice in [0, 1]: needles that grow from a few germs over a rough pane."""
    ground, needle = jax.random.split(key)
    pane = plasma(ground, covering(height, width), 1.6)[:height, :width]
    count = 8 + height * width // 24
    u, askew = jnp.split(jax.random.uniform(needle, (4 * count + 1,)), [4 * count])
    down, right, axis, length = u.reshape(4, count)
    rows, columns = (jnp.arange(n, dtype=u.dtype)[:, None] for n in (height, width))
    # Needles keep to six directions, sixty degrees apart, of a crystal that lies askew.
    axis = 6.0 * axis
    angle = (jnp.floor(axis) + askew + 0.15 * (axis - jnp.floor(axis))) * (np.pi / 3)
    reach = 3.0 + 9.0 * length
    down, right = (rows - height * down)[:, None], columns - width * right
    forward = right * jnp.cos(angle) + down * jnp.sin(angle)
    aside = down * jnp.cos(angle) - right * jnp.sin(angle)
    inside = jnp.clip(1.0 - forward / reach, 0.0, 1.0) * (forward >= 0).astype(forward.dtype)
    needles = (inside * jnp.exp(-jnp.square(aside / 0.55))).max(axis=-1)
    light = jnp.clip(0.25 + 0.35 * pane + 0.6 * needles, 0.0, 1.0)
    # Thin ice is blue, thick ice white.
    tint = jnp.asarray([0.80, 0.93, 1.0])
    return light[..., None] * (tint + (1.0 - tint) * light[..., None])


def fog(key: PRNGKeyArray, x: Images, severity: Radius) -> Images:
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
