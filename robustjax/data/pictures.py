"""Read pictures from folders and from zip files: one folder for each class."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from robustjax.data.layouts import files, part, split_of
from robustjax.data.resize import to_square
from robustjax.data.store import Raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
Found = tuple[PurePosixPath, Callable[[], bytes]]  # where a picture is, and how to read it


def by_class(folder: Path, only: str = "", *, size: int | None = None) -> Raw | None:
    """Read `<split>/<class>/.../picture.png`, or `<class>/picture.png`.

    Without a folder or a zip file named train, val or test, all are test images. The index counts the
    pictures of a split in the order of their paths.

    Args:
      folder: where to look.
      only: read the pictures alone whose paths hold this.
      size: scale and crop to so many pixels a side; needed if they differ in size.
    Raises:
      ValueError: for a damaged picture, pictures of several sizes, or pictures outside a class.
    """
    splits: dict[str, list[tuple[Found, str]]] = {}
    for found in pictures(folder):
        dirs = found[0].parts[:-1]
        if only not in found[0].as_posix():
            continue
        place = next((i for i, d in enumerate(dirs) if d.lower() in SPLITS), None)
        inside = dirs[-1:] if place is None else dirs[place + 1 :]
        if not inside:
            raise ValueError(f"{folder}: {found[0]} lies in no class, each class must be a folder")
        splits.setdefault("test" if place is None else split_of(dirs[place]), []).append((found, inside[0]))
    if not splits:
        return None
    classes = sorted({name for items in splits.values() for _, name in items})
    grey = all(opened(found).mode in ("1", "L", "I;16") for items in splits.values() for found, _ in items)
    return Raw(
        {
            split: part(
                decoded([found for found, _ in items], size=size, grey=grey),
                [classes.index(name) for _, name in items],
            )
            for split, items in splits.items()
        },
        tuple(classes),
    )


def pictures(folder: Path) -> list[Found]:
    """List the pictures under a folder, those in zip files included, in the order of their paths.

    The path of a picture in `a.zip` starts with `a`.

    Raises:
      ValueError: for a damaged zip file.
    """
    found: list[Found] = []
    for path in files(folder, *SUFFIXES):
        found.append((PurePosixPath(path.relative_to(folder).as_posix()), path.read_bytes))
    for path in files(folder, ".zip"):
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: damaged zip file ({error})") from error
        for name in archive.namelist():
            inner = PurePosixPath(name)
            if inner.suffix.lower() in SUFFIXES and not any(
                p.startswith((".", "__MACOSX")) for p in inner.parts
            ):
                found.append((PurePosixPath(path.stem) / inner, lambda a=archive, n=name: a.read(n)))
    return sorted(found, key=lambda f: f[0])


def decoded(found: Sequence[Found], *, size: int | None, grey: bool) -> np.ndarray:
    """Decode pictures to one uint8 array (n, h, w, c), grey or in three colours.

    Raises:
      ValueError: for a damaged picture, or pictures of several sizes while `size` is None.
    """
    out: list[np.ndarray] = []
    for item in found:
        picture = opened(item).convert("L" if grey else "RGB")
        out.append(np.asarray(picture if size is None else to_square(picture, size)))
        if out[-1].shape != out[0].shape:
            (h0, w0), (h, w) = out[0].shape[:2], out[-1].shape[:2]
            raise ValueError(f"{item[0]}: {h} x {w} pixels, the first picture has {h0} x {w0}; give a size")
    return np.stack(out).reshape(len(out), *out[0].shape[:2], 1 if grey else 3)


def opened(found: Found) -> Image.Image:
    """Open a picture and read all of it."""
    try:
        picture = Image.open(io.BytesIO(found[1]()))
        picture.load()
    except (OSError, SyntaxError, UnidentifiedImageError, zipfile.BadZipFile) as error:
        raise ValueError(f"{found[0]}: damaged picture ({error})") from error
    return picture
