"""SpurDigits: real digits planted on textures, with everything about core and background under control.

The digit is the core feature, its brightness the core scale; the texture is the spurious feature, with a scale
and a correlation with the label of its own. Masks and groups are exact, and the variants of one set show the
same digits at the same places with the same noise: only the texture differs, as in ImageNet-9.

All numbers come from numpy's legacy generator, whose streams are frozen, in float64: the same everywhere.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from robustjax.data import digits, painting, placing
from robustjax.data.placing import VARIANTS as VARIANTS
from robustjax.data.placing import Split, Variant
from robustjax.data.scenes import Scenes


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How scenes are made.

    Args:
      size: pixels a side of the image.
      digit: pixels a side of the planted digit.
      task: ten classes, the digits ("multi"), or two, digits below 5 and from 5 on ("binary").
      correlation: share of each class that is shown on its own texture.
      core_scale: how far the digit's grey lies from 1/2.
      spurious_scale: amplitude of the texture, around 1/2.
      noise: standard deviation of the pixel noise of the background.
      polarity: all digits bright, or each bright or dark by chance.
    Raises:
      ValueError: for a setting out of range.
    """

    size: int = 16
    digit: int = 12
    task: Literal["multi", "binary"] = "multi"
    correlation: float = 0.8
    core_scale: float = 0.4
    spurious_scale: float = 0.25
    noise: float = 0.08
    polarity: Literal["bright", "random"] = "bright"

    def __post_init__(self):
        """Check the settings."""
        if not 1 <= self.digit <= self.size:
            raise ValueError(
                f"planted.Recipe: digit is {self.digit}, must be in 1..{self.size}, the image's size"
            )
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"planted.Recipe: correlation is {self.correlation}, must be in [0, 1]")
        if not 0 <= self.core_scale <= 0.5:
            raise ValueError(f"planted.Recipe: core_scale is {self.core_scale}, must be in [0, 0.5]")
        if not min(self.spurious_scale, self.noise) >= 0:
            raise ValueError(
                f"planted.Recipe: spurious_scale is {self.spurious_scale} and noise {self.noise}, must be at least 0"
            )
        for name, known in (("task", ("multi", "binary")), ("polarity", ("bright", "random"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"planted.Recipe: {name} is {getattr(self, name)!r}, must be one of {', '.join(known)}"
                )

    @property
    def classes(self) -> int:
        """Count the classes, which is also the count of the textures."""
        return 10 if self.task == "multi" else 2


TINY = Recipe()
SMALL = Recipe(size=32, digit=24)


@dataclasses.dataclass(frozen=True)
class Source:
    """Grey digits to plant: float64 (m, h, w) in [0, 1], which digit each is, and the rows of every split."""

    image: np.ndarray
    digit: np.ndarray
    rows: dict[Split, np.ndarray]


def embedded() -> Source:
    """Take scikit-learn's digits, 8 x 8; 1,197 for training, 200 for validation, 400 for testing.

    The split is our own, not that of `data.load("digits", ...)`: no digit is in two parts.

    Raises:
      ValueError: if scikit-learn is not installed.
    """
    parts = digits.contents().parts.values()
    image, digit, index = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label", "index")
    )
    order = np.argsort(index)
    level = np.rint(image[order] * (16 / 255))  # back to the grey levels 0..16
    return of_grey(level / 16, digit[order], validation=200, test=400)


def of_grey(image: np.ndarray, digit: np.ndarray, *, validation: int, test: int) -> Source:
    """Take any grey digits, such as MNIST's, and split them by a fixed shuffle.

    Args:
      image: (m, h, w) or (m, h, w, 1), uint8, or float in [0, 1]; the ink is bright.
      digit: integers 0..9 (m,).
      validation, test: how many to keep for these; the rest is for training.
    Raises:
      ValueError: if the arrays do not fit, the values are out of range or too few are left.
    """
    image, digit = np.asarray(image), np.asarray(digit)
    grey = image[..., 0] if image.ndim == 4 and image.shape[-1] == 1 else image
    if grey.ndim != 3 or digit.shape != grey.shape[:1]:
        raise ValueError(
            f"planted.of_grey: images are {list(image.shape)} with digits {list(digit.shape)}, must be [m h w] with [m]"
        )
    grey = grey / 255.0 if grey.dtype == np.uint8 else grey.astype(np.float64)
    if not (grey.min() >= 0 and grey.max() <= 1):
        raise ValueError(
            f"planted.of_grey: images lie in [{grey.min():g}, {grey.max():g}], must be in [0, 1]"
        )
    if digit.min() < 0 or digit.max() > 9:
        raise ValueError(f"planted.of_grey: digits run from {digit.min()} to {digit.max()}, must be in 0..9")
    if min(validation, test) < 0 or validation + test >= len(grey):
        raise ValueError(
            f"planted.of_grey: {validation} for validation and {test} for testing, must leave some of {len(grey)}"
        )
    order = placing.stream(0, 1000).permutation(len(grey))
    train, valid, held = np.split(order, [len(grey) - validation - test, len(grey) - test])
    return Source(grey, digit.astype(np.int64), {"train": train, "validation": valid, "test": held})


def planted(
    recipe: Recipe,
    source: Source,
    *,
    split: Split,
    count: int,
    seed: int = 0,
    variant: Variant = "original",
) -> Scenes:
    """Make scenes; sets that differ in their variant alone are paired image by image.

    The variants are those of ImageNet-9, besides `mixed_other`: original and only_fg, no_fg, only_bg_b keep the
    correlated texture; mixed_same and only_bg_t show that of the class, mixed_rand any, mixed_next that of the
    next class and mixed_other any but that of the class. only_fg is on grey, no_fg has a black silhouette,
    only_bg_b a black box, only_bg_t texture alone.

    Args:
      recipe: how.
      source: of what.
      split: whose digits; each is used about equally often.
      count: how many.
      seed: of everything but the split.
      variant: which background.
    Returns:
      Scenes in memory with float32 images; `place` is the texture shown, `index` the row of `source`.
    Raises:
      ValueError: for an unknown split or variant, or a count below 1.
    """
    placing.require("planted", split, variant, count)
    where, classes, size = get_args(Split).index(split), recipe.classes, recipe.size

    # --- which digit, where, on which texture: every stream has its own generator ---
    stream, pool = placing.stream(seed, where, 1), source.rows[split]
    turns = [pool[stream.permutation(len(pool))] for _ in range(-(-count // len(pool)))]
    base = np.concatenate(turns)[:count]
    offset = stream.randint(0, size - recipe.digit + 1, (count, 2))
    sign = np.ones(count)
    if recipe.polarity == "random":
        sign = np.where(stream.random_sample(count) < 0.5, -1.0, 1.0)
    digit = source.digit[base]
    label = digit if recipe.task == "multi" else (digit >= 5).astype(np.int64)
    usual = placing.correlated(
        label, classes=classes, correlation=recipe.correlation, random=placing.stream(seed, where, 2)
    )
    place = placing.in_variant(variant, label, usual, classes=classes, seed=seed, where=where)
    stream = placing.stream(seed, where, 5)
    phase, noise = stream.uniform(0, 2 * np.pi, count), stream.standard_normal((count, size, size, 3))

    # --- paint ---
    ink = painting.pasted(painting.enlarged(source.image[base], recipe.digit), offset, size)
    alpha = np.minimum(1.0, ink / 0.5)[..., None]
    mask = ink > 0.25 + 1e-6
    background = painting.textures(place, phase, classes=classes, size=size)
    background = np.clip(0.5 + recipe.spurious_scale * background + recipe.noise * noise, 0, 1)
    front = (0.5 + sign * recipe.core_scale)[:, None, None, None]
    if variant == "only_bg_t":
        image = background
    elif variant == "no_fg":
        image = np.where(mask[..., None], 0.0, background)
    elif variant == "only_bg_b":
        image = np.where(painting.boxes(mask)[..., None], 0.0, background)
    else:
        grey = np.full_like(background, 0.5)
        image = alpha * front + (1 - alpha) * (grey if variant == "only_fg" else background)
    names = tuple("0123456789") if recipe.task == "multi" else ("below 5", "5 and above")
    pixels, cover = image.astype(np.float32), mask
    return Scenes(
        name=f"planted digits, {split}, {variant}, correlation {recipe.correlation:g}, seed {seed}",
        label=label.astype(np.int32),
        place=place.astype(np.int32),
        classes=names,
        places=tuple(f"texture {k}" for k in range(classes)),
        image=lambda rows: pixels[rows],
        mask=lambda rows: cover[rows],
        index=base.astype(np.int64),
    )
