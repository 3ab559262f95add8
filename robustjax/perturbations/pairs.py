"""Pairs of images of the same content, to learn a perturbation set from: functions (key, images) -> ImagePair."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.adaptive import fingerprint
from robustjax.data.augment import Augment, chain, crop
from robustjax.numerics import fold, keys_for, per_example
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.sampling import nearest
from robustjax.perturbations.sets import spatial
from robustjax.perturbations.spatial import warp
from robustjax.threats import Threat
from robustjax.types import Images, Keys

# Those that CIFAR-10-C is learned from: without unstructured noise.
STRUCTURED = (
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
HELD_OUT = ("gaussian_blur", "spatter", "saturate")  # that no set is learned from


class ImagePair(NamedTuple):
    """Images, and perturbations of them: what a set around `image` should hold."""

    image: Images
    perturbed: Images


Pairs = Callable[[Keys, Images], ImagePair]


def linf(eps: float) -> Pairs:
    """Pair an image with itself plus uniform noise in [-eps, eps], clipped to [0, 1].

    Raises:
      ValueError: if eps is negative.
    """
    threat = Threat("linf", eps)

    def pairs(key: Keys, x: Images) -> ImagePair:
        checks.floats("linf", x)
        return ImagePair(x, threat.sample(key, x))

    return pairs


def rotated_shifted_scaled(
    *, degrees: float = 45.0, growth: float = 0.3, shift: int = 7, pad: int = 7
) -> Pairs:
    """Pair an image, padded by zeros, with a rotated, scaled and then shifted one.

    Pixels are moved, never mixed, so bytes stay bytes.

    Args:
      degrees: largest rotation either way.
      growth: scales are uniform in [1 - growth, 1 + growth].
      shift: largest shift down and right, in whole pixels.
      pad: zeros added on every side.
    Raises:
      ValueError: if a setting is negative or the growth reaches 1.

    Reference: the MNIST-RTS pairs of Wong and Kolter 2020, arXiv:2007.08450: these settings.
    """
    if min(degrees, growth, shift, pad) < 0 or growth >= 1:
        raise ValueError(
            f"rotated_shifted_scaled: settings are {(degrees, growth, shift, pad)}, must be at least 0, growth below 1"
        )
    shifted = crop(shift)

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        share = _uniform(fold(keys, 0), 2)
        theta = jnp.stack(
            [degrees * share[:, 0], 0.0 * share[:, 0], 0.0 * share[:, 0], growth * share[:, 1]], axis=1
        )
        return ImagePair(x, shifted(fold(keys, 1), warp(x, theta, sampler=nearest)))

    return pairs


def warped(limits: Sequence[float], *, pad: int = 0) -> Pairs:
    """Pair an image, padded by zeros, with a rotated, shifted, scaled and sheared one, read between its pixels.

    Args:
      limits: 3 to 5 numbers as `sets.spatial` has them, the parameters being uniform within them either way.
      pad: zeros added on every side.
    Raises:
      ValueError: if the limits are no such numbers or the padding is negative.
    """
    space = spatial(limits)
    checks.count("warped", "pad", pad, least=0)

    def pairs(key: Keys, x: Images) -> ImagePair:
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return ImagePair(x, space.sample(key, x))

    return pairs


def lighting(*, dim: float = 0.4, glow: float = 0.6) -> Pairs:
    """Pair an image with one that is dimmed and lit from a side: clip(s x + t (1 + cos(a) i + sin(a) j) / 2).

    s is uniform in [dim, 1], t in [0, glow], a in [0, 2 pi]; i and j run from -1 to 1 over the rows and columns.
    Four degrees of freedom: a perturbation whose latents can be counted.

    Raises:
      ValueError: if dim or glow is outside [0, 1].
    """
    if not (0 <= dim <= 1 and 0 <= glow <= 1):
        raise ValueError(f"lighting: dim is {dim} and glow {glow}, must be in [0, 1]")

    def pairs(key: Keys, x: Images) -> ImagePair:
        checks.floats("lighting", x)
        share = 0.5 * (1.0 + _uniform(keys_for(key, x.shape[0]), 3))
        scale, light, angle = (per_example(share[:, i], x) for i in range(3))
        down = jnp.linspace(-1.0, 1.0, x.shape[1], dtype=x.dtype)[None, :, None, None]
        across = jnp.linspace(-1.0, 1.0, x.shape[2], dtype=x.dtype)[None, None, :, None]
        turn = 2.0 * jnp.pi * angle
        ramp = 0.5 * (1.0 + jnp.cos(turn) * down + jnp.sin(turn) * across)
        lit = (dim + (1.0 - dim) * scale) * x + glow * light * ramp
        return ImagePair(x, jnp.clip(lit, 0.0, 1.0))

    return pairs


def corrupted(names: Sequence[str] = STRUCTURED, *, severity: float = 5.0, fixed: int | None = None) -> Pairs:
    """Pair an image with a corruption of it, drawn anew each time: the set is centred at clean images.

    Args:
      names: of corruptions, as in CIFAR-10-C.
      severity: in [0, 5].
      fixed: seed of corruptions that are drawn once, one of each name for each image, and rounded down to bytes, as in
        arrays that are stored; None to draw them anew. Images are recognised by their pixels.
    Raises:
      ValueError: for an unknown or no name, or another severity.
    """
    apply = _each("corrupted", names, severity, fixed)

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        which = _integers(fold(keys, 0), 0, len(names))
        return ImagePair(x, apply(fold(keys, 1), x, which))

    return pairs


def corrupted_twice(
    names: Sequence[str] = STRUCTURED,
    *,
    severity: float = 5.0,
    originals: bool = False,
    fixed: int | None = None,
) -> Pairs:
    """Pair two different corruptions of an image, for data whose clean images are not known.

    Args:
      names: of corruptions, at least two.
      severity: in [0, 5].
      originals: let the clean image be one of the choices.
      fixed: as in `corrupted`.
    Raises:
      ValueError: as in `corrupted`, and with fewer than two choices.
    """
    apply, choices = _each("corrupted_twice", names, severity, fixed), len(names) + originals
    if choices < 2:
        raise ValueError(f"corrupted_twice: names is {tuple(names)}, must leave two choices")

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        first = _integers(fold(keys, 0), 0, choices)
        second = (first + _integers(fold(keys, 1), 1, choices)) % choices
        return ImagePair(apply(fold(keys, 2), x, first), apply(fold(keys, 3), x, second))

    return pairs


def side_by_side() -> Pairs:
    """Take apart images that are pairs already, the image on the left: what `data.paired` reads from folders."""

    def pairs(key: Keys, x: Images) -> ImagePair:
        del key
        left, right = jnp.split(x, 2, axis=2)
        return ImagePair(left, right)

    return pairs


def jointly(pairs: Pairs, *augments: Augment) -> Pairs:
    """Augment both images of each pair alike, such as `jointly(corrupted(), crop(4), flip())`."""
    augment = chain(*augments)

    def augmented(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        image, perturbed = pairs(fold(keys, 0), x)
        return ImagePair(augment(fold(keys, 1), image), augment(fold(keys, 1), perturbed))

    return augmented


def limited(pairs: Pairs, *, count: int, seed: int = 0) -> Pairs:
    """Draw from `count` fixed perturbations per image; images are recognised by their pixels.

    Args:
      pairs: what is drawn once and for all; the same on every machine, as it depends on the seed and the image.
      count: perturbations per image.
      seed: of the perturbations.
    Raises:
      ValueError: if count is less than 1.
    """
    checks.count("limited", "count", count)

    def limited_pairs(key: Keys, x: Images) -> ImagePair:
        which = _integers(keys_for(key, x.shape[0]), 0, count)
        return pairs(_own_keys(seed, x, which), x)

    return limited_pairs


def _each(
    name: str, names: Sequence[str], severity: float, fixed: int | None
) -> Callable[[Keys, Images, Array], Images]:
    """Apply to each image the corruption of its number; one number more leaves it as it is."""
    if not names:
        raise ValueError(f"{name}: names is empty, must hold at least one")
    checks.number(name, "severity", severity, least=0, most=5)

    def branch(one):
        return lambda key, image: one(key[None], image[None], severity)[0]

    branches = [branch(corrupt(each)) for each in names] + [lambda key, image: image]

    def apply(keys: Keys, x: Images, which: Array) -> Images:
        checks.floats(name, x)
        if fixed is not None:
            keys = _own_keys(fixed, x, which)
        # One after another, so that each image pays for its own corruption only.
        made = jax.lax.map(lambda row: jax.lax.switch(row[0], branches, row[1], row[2]), (which, keys, x))
        # What is a byte already may lie a rounding below it.
        return made if fixed is None else jnp.floor(255.0 * made + 1e-3) / 255.0

    return apply


def _own_keys(seed: int, x: Images, which: Array) -> Keys:
    """Give each image the key of its pixels and a number, the same on every machine."""
    own = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), fingerprint(x))
    return jax.vmap(jax.random.fold_in)(own, which)


def _integers(keys: Keys, low: int, high: int) -> Array:
    return jax.vmap(lambda k: jax.random.randint(k, (), low, high))(keys)


def _uniform(keys: Keys, count: int) -> Array:
    return jax.vmap(lambda k: jax.random.uniform(k, (count,), jnp.float32, -1.0, 1.0))(keys)
