"""Pictures and masks of a published folder tree as `Scenes`, decoded when they are asked for."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustjax.checks import reading
from robustjax.data import lazy_pictures
from robustjax.data.pictures import from_bytes
from robustjax.data.preprocessing import preprocessing
from robustjax.data.resize import to_square
from robustjax.data.scenes import Rows, Scenes

Fit = Callable[[Image.Image, int], Image.Image]  # (picture, pixels a side) -> a square picture


def squashed(picture: Image.Image, size: int) -> Image.Image:
    """Scale a picture to a square whatever its sides are, bilinearly."""
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def squashed_and_cropped(picture: Image.Image, size: int) -> Image.Image:
    """Squash a picture to 8/7 of the size and keep its middle: 256 and 224 pixels, as published for Waterbirds."""
    larger = round(size * 256 / 224)
    edge = (larger - size) // 2
    return squashed(picture, larger).crop((edge, edge, edge + size, edge + size))


def scaled_and_cropped(picture: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to the size, bilinearly, and cut the centre out: as published for Salient ImageNet."""
    return Image.fromarray(preprocessing(f"Res{size}Crop{size}")(picture))


def scaled_larger_and_cropped(picture: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to 8/7 of the size and cut the centre out: 256 and 224 pixels, as usual for ImageNet."""
    return Image.fromarray(preprocessing(f"Res{round(size * 256 / 224)}Crop{size}")(picture))


def scenes(
    name: str,
    files: Sequence[Path],
    label: Sequence[int],
    *,
    classes: Sequence[str],
    size: int,
    place: Sequence[int] | None = None,
    places: Sequence[str] = (),
    masks: Sequence[Callable[[], Image.Image]] | None = None,
    fit: Fit = to_square,
    pictures: Sequence[Callable[[], Image.Image]] | None = None,
) -> Scenes:
    """Make a set of pictures in files, with masks that go through the same scaling.

    Args:
      name: for reports.
      files: of the pictures (n,); they are looked for now and decoded later.
      label: (n,).
      classes: names.
      size: pixels a side.
      place: kind of background (n,), -1 for unknown; all unknown by default.
      places: names.
      masks: for each picture, how to get its mask, a grey picture that is white on the object.
      fit: how pictures and masks are brought to the size.
      pictures: for each file, how to make the picture of it; by default it is opened.
    Raises:
      ValueError: if there are no pictures, one of them is absent, or the size is below 1.
    """
    if size < 1:
        raise ValueError(f"{name}: size is {size}, must be at least 1 pixel")
    if not files:
        raise ValueError(f"{name}: there are no pictures, must be at least one")
    if absent := [path for path in files if not path.is_file()]:
        raise ValueError(
            f"{name}: {len(absent):,} of {len(files):,} pictures are absent, the first is {absent[0]}"
        )
    where = np.full(len(files), -1, np.int32) if place is None else np.asarray(place, np.int32)

    def one_image(i: int) -> np.ndarray:
        picture = read_picture(files[i]) if pictures is None else pictures[i]()
        return np.asarray(fit(picture.convert("RGB"), size))

    def one_mask(i: int) -> np.ndarray:
        assert masks is not None
        return np.asarray(fit(masks[i]().convert("L"), size).convert("L"), np.float32) / np.float32(255)

    def image(rows: Rows) -> np.ndarray:
        return np.stack(list(lazy_pictures.pool().map(one_image, map(int, rows))))

    def mask(rows: Rows) -> np.ndarray:
        return np.stack(list(lazy_pictures.pool().map(one_mask, map(int, rows))))

    return Scenes(
        name=name,
        label=np.asarray(label, np.int32),
        place=where,
        classes=tuple(classes),
        places=tuple(places),
        image=image,
        mask=None if masks is None else mask,
        index=np.arange(len(files)),
    )


def read_picture(source: Path | bytes) -> Image.Image:
    """Open a picture and read all of it, as 8 bits a channel.

    Raises:
      ValueError: if it is damaged, or has more than 16 bits a channel.
    """
    if isinstance(source, bytes):
        return from_bytes(source, "a picture inside another file")
    return from_bytes(source.read_bytes, str(source))


def needed(name: str, path: Path, what: str) -> Path:
    """Return a file or folder that must be there.

    Raises:
      ValueError: if it is not; nothing is ever downloaded.
    """
    if not path.exists():
        raise ValueError(f"{name}: no {path}; {what} must be downloaded and unpacked first")
    return path


def table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Raises:
      ValueError: if a column is absent.
    """
    with (
        reading(path, "not a table of comma-separated values"),
        path.open(newline="", encoding="utf-8") as lines,
    ):
        reader = csv.DictReader(lines)
        rows, names = list(reader), set(reader.fieldnames or ())
    if absent := set(columns) - names:
        raise ValueError(f"{path}: has no column {', '.join(sorted(absent))}")
    if short := sum(any(row[name] is None for name in columns) for row in rows):
        raise ValueError(f"{path}: {short:,} of {len(rows):,} lines have too few columns")
    return rows


def mapping(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
      ValueError: if the file holds anything else.
    """
    with reading(path, "not JSON"):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, must be an object")
    return found
