"""Waterbirds made anew: birds of CUB, cut out by their segmentations and put on pictures of Places."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from robustjax import checks
from robustjax.checks import reading
from robustjax.data import trees
from robustjax.data.scenes import Scenes
from robustjax.data.waterbirds import SPLITS

WATERBIRDS = (
    *("albatross", "auklet", "cormorant", "frigatebird", "fulmar", "gull", "jaeger", "kittiwake", "pelican"),
    *("puffin", "tern", "gadwall", "grebe", "mallard", "merganser", "guillemot", "pacific_loon"),
)  # a species whose name contains one of these lives on water
PLACES = (("bamboo_forest", "forest/broadleaf"), ("ocean", "lake/natural"))  # land, water
HELD_OUT = 0.2  # share of CUB's training images that is for validation


class Bird(NamedTuple):
    """What a picture is made of.

    Attributes:
      file: of CUB, relative to its images.
      label: 1 for a bird of the water.
      split: "train", "validation" or "test".
      place: 1 for water.
      background: file of Places.
    """

    file: str
    label: int
    split: str
    place: int
    background: Path


def birds(
    cub: str | Path, places: str | Path, *, correlation: float = 0.95, seed: int = 0
) -> tuple[Bird, ...]:
    """Draw a split, a place and a background for every bird of CUB.

    CUB's test images stay test images. In training the share `correlation` of each class is on its own place, in the
    other splits half. Every background is used once.

    Args:
      cub: CUB_200_2011, with images.txt and train_test_split.txt.
      places: Places365's folder data_large, or the one that holds it.
      correlation: in [0, 1].
      seed: of the draws; the authors' are not fixed, so that their numbers per group differ in a few.
    Raises:
      ValueError: for files that are absent or not as published, or fewer backgrounds than birds.

    Reference: Sagawa et al. 2020, arXiv:1911.08731.
    """
    checks.number("waterbirds_built", "correlation", correlation, least=0, most=1)
    checks.seed("waterbirds_built", seed)
    root = trees.needed("waterbirds_built", Path(cub), "CUB_200_2011")
    files, official = _listed(root / "images.txt"), _listed(root / "train_test_split.txt")
    if files.keys() != official.keys():
        raise ValueError(f"{root}: images.txt and train_test_split.txt number other images, must be the same")
    numbers = sorted(files)
    names = [files[i] for i in numbers]
    label = np.array([_lives_on_water(name) for name in names])
    split = np.array([0 if official[i] == "1" else 2 for i in numbers])
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(split == 0)
    split[rng.choice(known, round(HELD_OUT * len(known)), replace=False)] = 1
    place = np.zeros(len(names), int)
    for part in range(3):
        for y in (0, 1):
            rows = np.flatnonzero((split == part) & (label == y))
            share = 0.5 if part else correlation if y else 1 - correlation
            place[rng.choice(rows, round(share * len(rows)), replace=False)] = 1
    background = np.empty(len(names), object)
    for where, kinds in enumerate(PLACES):
        rows = np.flatnonzero(place == where)
        found = _backgrounds(Path(places), kinds)
        if len(found) < len(rows):
            raise ValueError(
                f"waterbirds_built: {places} has {len(found)} pictures of {' and '.join(kinds)}, must have at least "
                f"{len(rows)}, one for each bird"
            )
        background[rows] = [found[i] for i in rng.permutation(len(found))[: len(rows)]]
    return tuple(
        Bird(name, int(y), tuple(SPLITS)[part], int(where), there)
        for name, y, part, where, there in zip(names, label, split, place, background, strict=True)
    )


def waterbirds_built(
    cub: str | Path,
    places: str | Path,
    split: str,
    *,
    segmentations: str | Path,
    size: int = 224,
    correlation: float = 0.95,
    seed: int = 0,
) -> Scenes:
    """Make Waterbirds of CUB and Places, picture by picture while they are needed.

    Pictures pass through JPEG as the released ones did, and are scaled as `waterbirds` scales them.

    Args:
      cub, places, correlation, seed: see `birds`.
      split: "train", "validation" or "test".
      segmentations: CUB's folder of that name, which is released apart from the images.
      size: pixels a side.
    Returns:
      Scenes with masks, classes landbird and waterbird, places land and water; groups are 2 y + place.
    Raises:
      ValueError: as `birds`, for an unknown split, or absent pictures.
    """
    if split not in SPLITS:
        raise ValueError(f"waterbirds_built: split is {split!r}, must be one of {', '.join(SPLITS)}")
    chosen = [bird for bird in birds(cub, places, correlation=correlation, seed=seed) if bird.split == split]
    files = [Path(cub) / "images" / bird.file for bird in chosen]
    masks = [(Path(segmentations) / bird.file).with_suffix(".png") for bird in chosen]
    for path in masks:
        trees.needed("waterbirds_built", path, "CUB's segmentations")
    return trees.scenes(
        f"Waterbirds built, {split}",
        files,
        [bird.label for bird in chosen],
        classes=("landbird", "waterbird"),
        place=[bird.place for bird in chosen],
        places=("land", "water"),
        masks=[partial(trees.read_picture, path) for path in masks],
        fit=trees.squashed_and_cropped,
        size=size,
        pictures=[
            partial(_made, file, mask, bird.background)
            for file, mask, bird in zip(files, masks, chosen, strict=True)
        ],
    )


def combined(bird: Image.Image, mask: Image.Image, background: Image.Image) -> Image.Image:
    """Put a bird on a background: round(m bird) + round((1 - m) background), m its segmentation in [0, 1].

    The background is cut to the shape of the bird's picture around its centre, and scaled to its size.

    Raises:
      ValueError: if picture and segmentation differ in size.
    """
    if bird.size != mask.size:
        raise ValueError(
            f"waterbirds_built: the picture has {bird.size} pixels and its segmentation {mask.size}, must be equal"
        )
    share = np.asarray(mask.convert("L"), np.float64)[..., None] / 255
    behind = np.asarray(covering(background.convert("RGB"), bird.size))
    front = np.asarray(bird.convert("RGB"))
    together = np.around(front * share) + np.around(behind * (1 - share))
    return Image.fromarray(together.clip(0, 255).astype(np.uint8))


def covering(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring a picture to (width, height): enlarge it where it is too small, cut the longer sides, and scale it."""
    (width, height), (wide, high) = picture.size, size
    if width < wide or height < high:
        by_width = (wide, int(wide / width * height))
        picture = picture.resize(
            by_width if by_width[1] >= high else (int(high / height * width), high), Image.Resampling.LANCZOS
        )
        width, height = picture.size
    if width / height > wide / high:
        edge = (width - int(wide / high * height)) // 2
        box = (edge, 0, width - edge, height)
    else:
        edge = (height - int(width / (wide / high))) // 2
        box = (0, edge, width, height - edge)
    return picture.crop(box).resize(size, Image.Resampling.LANCZOS)


def _made(file: Path, mask: Path, background: Path) -> Image.Image:
    picture = combined(*(trees.read_picture(path) for path in (file, mask, background)))
    coded = io.BytesIO()
    picture.save(coded, "JPEG")
    return trees.read_picture(coded.getvalue())


def _listed(path: Path) -> dict[int, str]:
    """Read lines of a number and a word."""
    trees.needed("waterbirds_built", path, "CUB_200_2011")
    with reading(path, "must have a number and a word on each line"):
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(number): word for number, word in lines}


def _lives_on_water(file: str) -> bool:
    species = file.split("/")[0].lower()
    return any(name in species for name in WATERBIRDS)


def _backgrounds(places: Path, kinds: Sequence[str]) -> list[Path]:
    root = places / "data_large" if (places / "data_large").is_dir() else places
    folders = [trees.needed("waterbirds_built", root / kind[0] / kind, "Places365") for kind in kinds]
    return [path for folder in folders for path in sorted(folder.glob("*.jpg"))]
