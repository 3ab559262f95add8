"""Read mosaics: pictures that each hold 40 rows of square tiles, without loss, beside a `labels.npz`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from robustjax.data.layouts import files, insert, part, split_of
from robustjax.data.store import Part, Raw

ROWS = 40


def mosaics(folder: Path, only: str = "") -> Raw | None:
    """Read `train_00.webp`, `train_01.webp`, ... and `test_00.webp`, ...; tiles count on, row by row.

    `labels.npz` holds the labels of a split under its name ("train", "test_fine", or "label"), and may hold
    `missing_train`, the numbers of tiles that are blank, and `class_names`.

    Raises:
      ValueError: for a picture that is damaged, or more labels than tiles.
    """
    pictures = [p for p in files(folder, ".webp", ".png") if only in p.name]
    if not pictures or not (folder / "labels.npz").is_file():
        return None
    try:
        facts = dict(np.load(folder / "labels.npz", allow_pickle=False))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{folder / 'labels.npz'}: cannot be read as numbers ({error})") from error
    parts: dict[str, Part] = {}
    for split in sorted({split_of(p.name) for p in pictures}):
        key = next((k for k in (split, f"{split}_fine", "label") if k in facts), None)
        if key is None:
            raise ValueError(f"{folder / 'labels.npz'}: holds {', '.join(facts)}, must hold {split}")
        image = np.concatenate([_tiles(p) for p in pictures if split_of(p.name) == split])
        if len(image) < len(facts[key]):
            raise ValueError(f"{folder}: {len(image)} tiles for {len(facts[key])} {split} labels")
        insert(parts, split, part(image[: len(facts[key])], facts[key]), folder)
    missing = {s: facts[f"missing_{s}"] for s in parts if f"missing_{s}" in facts}
    return Raw(parts, tuple(map(str, facts.get("class_names", ()))), missing)


def _tiles(path: Path) -> np.ndarray:
    try:
        picture = np.asarray(Image.open(path).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: damaged picture ({error})") from error
    size = picture.shape[0] // ROWS
    if not size or picture.shape[0] % ROWS or picture.shape[1] % size:
        raise ValueError(
            f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels, must be {ROWS} rows of square tiles"
        )
    cut = picture.reshape(ROWS, size, -1, size, 3).swapaxes(1, 2)
    return cut.reshape(-1, size, size, 3)
