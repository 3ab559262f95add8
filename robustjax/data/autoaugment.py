"""AutoAugment on the device: the policies found for CIFAR-10 and SVHN, with the meaning that Pillow gives them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from robustjax import checks
from robustjax.data import pillow_affine, pillow_tones
from robustjax.data.augment import Augment, Colour
from robustjax.data.batches import to_float
from robustjax.data.pillow_tones import Levels
from robustjax.numerics import keys_for
from robustjax.types import Images, Keys

Row = tuple[str, float, int]  # operation, its probability, its level from 0 to 9
Policy = tuple[tuple[Row, Row], ...]

# Per level.
SHEAR = np.linspace(0, 0.3, 10)
TRANSLATE = np.linspace(0, 150 / 331, 10)  # of the side
ROTATE = np.linspace(0, 30, 10)  # degrees
ENHANCE = np.linspace(0, 0.9, 10)  # away from factor 1
POSTERIZE = np.round(np.linspace(8, 4, 10)).astype(np.int32)  # bits
SOLARIZE = np.linspace(256, 0, 10)

OPERATIONS = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("color", "contrast", "brightness", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize", "invert"),
)


def _rows(text: str) -> Policy:
    """Read "operation probability level, operation probability level; ..."."""
    pairs = [[part.split() for part in line.split(",")] for line in text.split(";")]
    return tuple(((a, float(p), int(m)), (b, float(q), int(n))) for (a, p, m), (b, q, n) in pairs)


CIFAR10 = _rows(
    "invert .1 7, contrast .2 6; rotate .7 2, translate_x .3 9; sharpness .8 1, sharpness .9 3;"
    "shear_y .5 8, translate_y .7 9; autocontrast .5 8, equalize .9 2; shear_y .2 7, posterize .3 7;"
    "color .4 3, brightness .6 7; sharpness .3 9, brightness .7 9; equalize .6 5, equalize .5 1;"
    "contrast .6 7, sharpness .6 5; color .7 7, translate_x .5 8; equalize .3 7, autocontrast .4 8;"
    "translate_y .4 3, sharpness .2 6; brightness .9 6, color .2 8; solarize .5 2, invert 0 3;"
    "equalize .2 0, autocontrast .6 0; equalize .2 8, equalize .6 4; color .9 9, equalize .6 6;"
    "autocontrast .8 4, solarize .2 8; brightness .1 3, color .7 0; solarize .4 5, autocontrast .9 3;"
    "translate_y .9 9, translate_y .7 9; autocontrast .9 2, solarize .8 3; equalize .8 8, invert .1 3;"
    "translate_y .7 9, autocontrast .9 1"
)
SVHN = _rows(
    "shear_x .9 4, invert .2 3; shear_y .9 8, invert .7 5; equalize .6 5, solarize .6 6; invert .9 3, equalize .6 3;"
    "equalize .6 1, rotate .9 3; shear_x .9 4, autocontrast .8 3; shear_y .9 8, invert .4 5;"
    "shear_y .9 5, solarize .2 6; invert .9 6, autocontrast .8 1; equalize .6 3, rotate .9 3;"
    "shear_x .9 4, solarize .3 3; shear_y .8 8, invert .7 4; equalize .9 5, translate_y .6 6;"
    "invert .9 4, equalize .6 7; contrast .3 3, rotate .8 4; invert .8 5, translate_y 0 2;"
    "shear_y .7 6, solarize .4 8; invert .6 4, rotate .8 4; shear_y .3 7, translate_x .9 3;"
    "shear_x .1 6, invert .6 5; solarize .7 2, translate_y .6 7; shear_y .8 4, invert .8 8;"
    "shear_x .7 9, translate_y .8 3; shear_y .8 5, autocontrast .7 3; shear_x .7 2, invert .1 5"
)


def autoaugment(policy: Policy = CIFAR10, *, fill: Colour = 0.5) -> Augment:
    """Choose one of the rows of a policy for each image; do its first operation, then its second, or either, or none.

    Images are taken as 8-bit ones. Shears, translations and changes of colour, contrast, brightness and sharpness go
    either way; rotations are counter-clockwise, with corners of grey 128. `chain` it with `crop`, `flip` and `cutout`
    of the same colour, and give ID and OOD images the same chain: any difference tells them apart.

    Args:
      policy: `CIFAR10`, `SVHN` or rows of your own, of the names in `OPERATIONS`.
      fill: colour of what shears and translations uncover, in [0, 1], such as the mean of the data set; rounded
        down to 8 bits.

    Raises:
      ValueError: for an empty policy, an unknown operation, a probability outside [0, 1], a level that is not 0 to
        9 or a fill outside [0, 1].

    Reference: Cubuk et al. 2019, arXiv:1805.09501, with the ranges and the Pillow operations of its usual PyTorch
      form. Operations agree with Pillow's to within one level; see `toning` and `shifting`.
    """
    _check(policy, fill)
    code, chance, level = (np.array([[entry[i] for entry in row] for row in policy]) for i in range(3))
    number = np.vectorize(OPERATIONS.index)(code).astype(np.int32)
    chances, levels = chance.astype(np.float32), level.astype(np.int32)
    colour = np.floor(255 * np.asarray(fill, np.float64) + 1e-9).astype(np.int32)

    def one(key: PRNGKeyArray, image: Levels) -> Levels:
        choice, coins, signs = jax.random.split(key, 3)
        row = jax.random.randint(choice, (), 0, len(policy))
        does = jax.random.uniform(coins, (2,)) < jnp.asarray(chances)[row]
        back = jax.random.bernoulli(signs, shape=(2,)).astype(jnp.int32)
        steps = operations(image.shape, colour)
        for i in range(2):
            named, at = jnp.asarray(number)[row, i], jnp.asarray(levels)[row, i]
            image = jnp.where(does[i], jax.lax.switch(named, steps, image, at, back[i]), image)
        return image

    def augmented(key: Keys, images: Images) -> Images:
        checks.floats("autoaugment", images)
        whole = jnp.clip(jnp.round(255.0 * images), 0, 255).astype(jnp.int32)
        return to_float(jax.vmap(one)(keys_for(key, len(images)), whole))

    return augmented


Step = Callable[[Levels, Int[Array, ""], Int[Array, ""]], Levels]  # (image, level, 1 for the other way)


def operations(shape: tuple[int, ...], fill: int | Sequence[int] | np.ndarray) -> list[Step]:
    """Build the operations for images of one shape, in the order of `OPERATIONS`.

    Args:
      shape: of an image, (h, w, c).
      fill: colour of what shears and translations uncover, from 0 to 255.
    """
    h, w, c = shape
    colour = jnp.broadcast_to(jnp.asarray(np.asarray(fill), jnp.int32), (c,))
    grey = jnp.full((c,), 128, jnp.int32)
    ways = (1, -1)
    right = np.array([[pillow_affine.translation(s * m * w, 0) for m in TRANSLATE] for s in ways])
    down = np.array([[pillow_affine.translation(0, s * m * h) for m in TRANSLATE] for s in ways])
    turned = np.array([pillow_affine.rotation(m, (h, w)) for m in ROTATE])
    slopes = np.array([s * SHEAR for s in ways], np.float32)
    factors = np.array([1 + s * ENHANCE for s in ways], np.float32)

    def shear_y(image, level, way):
        turned = jnp.swapaxes(image, 0, 1)
        return jnp.swapaxes(pillow_affine.sheared(turned, jnp.asarray(slopes)[way, level], colour), 0, 1)

    def moving(table):
        return lambda image, level, way: pillow_affine.moved(image, jnp.asarray(table)[way, level], colour)

    def enhancing(tone):
        return lambda image, level, way: tone(image, jnp.asarray(factors)[way, level])

    def plain(tone):
        return lambda image, level, way: tone(image)

    return [
        lambda image, level, way: pillow_affine.sheared(image, jnp.asarray(slopes)[way, level], colour),
        shear_y,
        moving(right),
        moving(down),
        lambda image, level, way: pillow_affine.moved(image, jnp.asarray(turned)[level], grey),
        *map(
            enhancing,
            (pillow_tones.coloured, pillow_tones.contrasted, pillow_tones.brightened, pillow_tones.sharpened),
        ),
        lambda image, level, way: pillow_tones.posterized(image, jnp.asarray(POSTERIZE)[level]),
        lambda image, level, way: pillow_tones.solarized(image, jnp.asarray(SOLARIZE, jnp.float32)[level]),
        *map(plain, (pillow_tones.autocontrasted, pillow_tones.equalized, pillow_tones.inverted)),
    ]


def _check(policy: Policy, fill: Colour) -> None:
    if not policy:
        raise ValueError("autoaugment: policy is empty, must have at least one row")
    for name, chance, level in (entry for row in policy for entry in row):
        if name not in OPERATIONS:
            raise ValueError(f"autoaugment: operation is {name!r}, must be one of {', '.join(OPERATIONS)}")
        if not 0 <= chance <= 1 or level not in range(10):
            raise ValueError(
                f"autoaugment: {name} has probability {chance} and level {level}, must be in [0, 1] and 0..9"
            )
    if not all(0 <= v <= 1 for v in np.atleast_1d(fill)):
        raise ValueError(f"autoaugment: fill is {fill}, must be in [0, 1]")
