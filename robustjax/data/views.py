"""Random views of images for contrastive learning: shifts and lights for digits, SimCLR's chain for colour."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks
from robustjax.data.augment import Augment, chain, crop, flip
from robustjax.numerics import keys_for, per_example
from robustjax.types import Images, Keys

GREY = (0.299, 0.587, 0.114)  # ITU-R 601
Image = Float[Array, "h w c"]


def shifted_and_dimmed(*, pad: int = 2, low: float = 0.6, high: float = 1.4) -> Augment:
    """View a grey image shifted by up to `pad` pixels and times a number between low and high, clipped to [0, 1].

    Raises:
      ValueError: if pad is negative, or the numbers do not grow from at least 0.
    """
    if not 0 <= low <= high:
        raise ValueError(f"shifted_and_dimmed: low is {low} and high {high}, must grow from at least 0")

    def dimmed(key: Keys, images: Images) -> Images:
        keys = keys_for(key, len(images))
        times = jax.vmap(lambda k: jax.random.uniform(k, (), images.dtype, low, high))(keys)
        return jnp.clip(per_example(times, images) * images, 0.0, 1.0)

    return _checked("shifted_and_dimmed", chain(crop(pad), dimmed))


def simclr(*, strength: float = 1.0, smallest: float = 0.2) -> Augment:
    """View a colour image as SimCLR does: a resized crop, flipped or not, its colours jittered or gone.

    Args:
      strength: s; brightness, contrast and saturation change by up to 0.4 s, the hue by 0.1 s.
      smallest: share of the area that a crop has at least.
    Raises:
      ValueError: if a setting is out of range.

    Reference: Chen et al. 2020, arXiv:2002.05709; with the strengths of SupCon's and SSD's code for CIFAR: jitter with
      probability 0.8 in a random order, grey with 0.2. Crops are drawn once: a shape that does not fit is cut to
      the image.
    """
    if not (0 <= strength <= 2.5 and 0 < smallest <= 1):
        raise ValueError(
            f"simclr: strength is {strength} and smallest {smallest}, must be in [0, 2.5] and (0, 1]"
        )

    def toned(key: PRNGKeyArray, image: Image) -> Image:
        jitter, chosen, grey = jax.random.split(key, 3)
        image = jnp.where(jax.random.bernoulli(chosen, 0.8), jittered(jitter, image, strength), image)
        without = jnp.broadcast_to(luminance(image), image.shape)
        return jnp.where(jax.random.bernoulli(grey, 0.2), without, image)

    steps = chain(_each(lambda key, image: resized_crop(key, image, smallest)), flip(), _each(toned))

    return _checked("simclr", steps)


def resized_crop(key: PRNGKeyArray, image: Image, smallest: float) -> Image:
    """Cut a window of random area and shape, from 3/4 to 4/3, and stretch it to the size of the image."""
    area, shape, down, across = jax.random.split(key, 4)
    height, width, channels = image.shape
    share = jax.random.uniform(area, (), jnp.float32, smallest, 1.0)
    bound = jnp.log(4 / 3)
    ratio = jnp.exp(jax.random.uniform(shape, (), jnp.float32, -bound, bound))  # width by height, in pixels
    tall = jnp.minimum(jnp.sqrt(share * height * width / ratio), height)
    wide = jnp.minimum(jnp.sqrt(share * height * width * ratio), width)
    top = jax.random.uniform(down) * (height - tall)
    left = jax.random.uniform(across) * (width - wide)
    scale = jnp.stack([height / tall, width / wide])
    moved = jax.image.scale_and_translate(
        image,
        (height, width, channels),
        (0, 1),
        scale,
        -jnp.stack([top, left]) * scale,
        "linear",
        antialias=False,
    )
    return jnp.clip(moved, 0.0, 1.0)


def jittered(key: PRNGKeyArray, image: Image, strength: float) -> Image:
    """Change brightness, contrast, saturation and hue of a colour image, in a random order."""
    *ways, order = jax.random.split(key, 5)
    low, high = max(0.0, 1 - 0.4 * strength), 1 + 0.4 * strength
    light, contrast, colour = (jax.random.uniform(k, (), jnp.float32, low, high) for k in ways[:3])
    turn = jax.random.uniform(ways[3], (), jnp.float32, -0.1 * strength, 0.1 * strength)
    steps = (
        lambda x: light * x,
        lambda x: contrast * x + (1 - contrast) * luminance(x).mean(),
        lambda x: colour * x + (1 - colour) * luminance(x),
        lambda x: turned(x, turn),
    )
    for i in jax.random.permutation(order, 4):
        image = jnp.clip(jax.lax.switch(i, steps, image), 0.0, 1.0)
    return image


def luminance(image: Image) -> Float[Array, "h w 1"]:
    """Weigh red, green and blue."""
    return (image @ jnp.asarray(GREY, image.dtype))[..., None]


def turned(image: Image, turn: Array) -> Image:
    """Turn the hue of a colour image by a share of the circle, in the hexagon of HSV."""
    red, green, blue = (image[..., i] for i in range(3))
    top, low = image.max(axis=-1), image.min(axis=-1)
    chroma = top - low
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        top == red,
        (green - blue) / safe,
        jnp.where(top == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue = sixth + 6.0 * turn
    # One channel: top - chroma max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6.
    ks = jnp.stack([5.0 + hue, 3.0 + hue, 1.0 + hue], axis=-1) % 6.0
    return top[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(ks, 4.0 - ks), 0.0, 1.0)


def _checked(who: str, augment: Augment) -> Augment:
    def viewed(key: Keys, images: Images) -> Images:
        checks.floats(who, images)
        return augment(key, images)

    return viewed


def _each(one) -> Augment:
    return lambda key, images: jax.vmap(one)(keys_for(key, len(images)), images)
