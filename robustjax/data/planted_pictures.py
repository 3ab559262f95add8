"""Pictures planted on textures: natural objects on natural backgrounds, with the background under control.

A picture of any labelled set is shrunk and laid somewhere on a crop of a texture; which texture goes with which class,
and how often, is chosen. Masks are exact, and the variants of one set show the same pictures at the same places: only
the texture differs, as in ImageNet-9. Textures of training and of testing are different photographs.
"""

import dataclasses
from typing import get_args

import numpy as np
from PIL import Image

from robustjax.data import placing
from robustjax.data.placing import Split as Part
from robustjax.data.placing import Variant
from robustjax.data.resize import to_square
from robustjax.data.scenes import Rows, Scenes
from robustjax.data.sources import Split

SHARES = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.7),
    "test": (0.7, 1.0),
}  # of the photographs of each texture


@dataclasses.dataclass(frozen=True)
class PictureRecipe:
    """How pictures are planted.

    Args:
      size: pixels a side of the image.
      object: pixels a side of the planted picture.
      correlation: share of each class that is shown on its own texture.
    Raises:
      ValueError: for a setting out of range.
    """

    size: int = 32
    object: int = 22
    correlation: float = 0.8

    def __post_init__(self):
        """Check the settings."""
        if not 1 <= self.object < self.size:
            raise ValueError(
                f"PictureRecipe: object is {self.object}, must be in 1..{self.size - 1}, smaller than the image"
            )
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"PictureRecipe: correlation is {self.correlation}, must be in [0, 1]")


def planted_pictures(
    recipe: PictureRecipe,
    pictures: Split,
    textures: Split,
    *,
    split: Part,
    count: int | None = None,
    seed: int = 0,
    variant: Variant = "original",
) -> Scenes:
    """Lay pictures on textures; sets that differ in their variant alone are paired image by image.

    The variants are those of `planted.planted`: only_fg is on grey, no_fg and only_bg_b have a black square, only_bg_t
    is texture alone.

    Args:
      recipe: how.
      pictures: uint8 (n, h, w, 3) with their classes; images are read when they are asked for.
      textures: uint8 (m, h, w, 3), larger than the image or as large, in at least as many classes; texture k belongs to
        class k.
      split: whose photographs of each texture are used: the first six tenths, the next one, or the last three.
      count: how many, drawn by the seed; all by default.
      seed: of everything but the split.
      variant: which background.
    Returns:
      Scenes with uint8 images; `place` is the texture shown, `index` that of the picture.
    Raises:
      ValueError: for an unknown split or variant, too few textures, or pictures and textures without colours.
    """
    classes = len(pictures.info.classes)
    count = len(pictures.label) if count is None else min(count, len(pictures.label))
    placing.require("planted_pictures", split, variant, count)
    for name, given in (("pictures", pictures), ("textures", textures)):
        if given.image.ndim != 4 or given.image.shape[-1] != 3:
            raise ValueError(f"planted_pictures: {name} are {list(given.image.shape)}, must be [n h w 3]")
    if min(textures.image.shape[1:3]) < recipe.size:
        raise ValueError(
            f"planted_pictures: textures have {textures.image.shape[1]} x {textures.image.shape[2]} pixels, must have "
            f"at least {recipe.size} a side"
        )
    where = get_args(Part).index(split)
    photographs = [_photographs(textures.label, k, split) for k in range(classes)]
    if short := [k for k, rows in enumerate(photographs) if not len(rows)]:
        raise ValueError(
            f"planted_pictures: there are too few textures of class {short[0]} for {split}, must be at least 10 of "
            f"each of {classes} classes"
        )

    # --- which picture, where, on which part of which photograph: every stream has its own generator ---
    rows = np.sort(placing.stream(seed, where, 1).permutation(len(pictures.label))[:count])
    label = pictures.label[rows].astype(np.int64)
    offset = placing.stream(seed, where, 6).randint(0, recipe.size - recipe.object + 1, (count, 2))
    usual = placing.correlated(
        label, classes=classes, correlation=recipe.correlation, random=placing.stream(seed, where, 2)
    )
    place = placing.in_variant(variant, label, usual, classes=classes, seed=seed, where=where)
    share = placing.stream(seed, where, 5).random_sample(
        (count, 3)
    )  # of photographs, and of both ways across one

    def mask(chosen: Rows) -> np.ndarray:
        cover = np.zeros((len(chosen), recipe.size, recipe.size), bool)
        for one, (top, left) in zip(cover, offset[chosen], strict=True):
            one[top : top + recipe.object, left : left + recipe.object] = True
        return cover

    def background(row: np.integer) -> np.ndarray:
        own = photographs[place[row]]
        photograph = textures.image[own[int(share[row, 0] * len(own))]]
        top, left = (
            int(s * (side - recipe.size + 1))
            for s, side in zip(share[row, 1:], photograph.shape, strict=False)
        )
        return photograph[top : top + recipe.size, left : left + recipe.size]

    def image(chosen: Rows) -> np.ndarray:
        cover = mask(chosen)[..., None]
        if variant == "only_fg":
            behind = np.full((*cover.shape[:3], 3), 128, np.uint8)
        else:
            behind = np.stack([background(row) for row in np.asarray(chosen)])
        if variant == "only_bg_t":
            return behind
        if variant in ("no_fg", "only_bg_b"):
            return np.where(cover, np.uint8(0), behind)
        for i, row in enumerate(np.asarray(chosen)):
            top, left = offset[row]
            small = to_square(Image.fromarray(pictures.image[rows[row]]), recipe.object)
            behind[i, top : top + recipe.object, left : left + recipe.object] = np.asarray(small)
        return behind

    return Scenes(
        name=f"{pictures.info.name} on {textures.info.name}, {split}, {variant}, correlation {recipe.correlation:g}, "
        f"seed {seed}",
        label=label.astype(np.int32),
        place=place.astype(np.int32),
        classes=pictures.info.classes,
        places=tuple(textures.info.classes[:classes]),
        image=image,
        mask=mask,
        index=pictures.index[rows],
    )


def _photographs(label: np.ndarray, kind: int, split: Part) -> np.ndarray:
    rows = np.flatnonzero(label == kind)
    low, high = (round(share * len(rows)) for share in SHARES[split])
    return rows[low:high]
