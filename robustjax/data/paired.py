"""Pairs of pictures of the same content from a user's folder: an image, and perturbed views of it."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from robustjax.data.pictures import decoded, pictures, read_picture


class Paired(NamedTuple):
    """Pairs side by side in one array, so that they shuffle, stream and count like images.

    Attributes:
      image: uint8 (n, h, 2 w, c): on the left the image, on the right a perturbed view of it.
      number: int32 (n,): which image; an image with several views comes several times. Split by it, never by
        pair, or views of the same image end up on both sides.
      names: of the images.
    """

    image: np.ndarray
    number: np.ndarray
    names: tuple[str, ...]


def paired(folder: str | Path, *, size: int | None = None) -> Paired:
    """Read `image/NAME.png` with `perturbed/NAME.png`, `perturbed/NAME/ANY.png`, or both, for every NAME.

    NAME may contain folders. Any format of `pictures` will do, and zip files in place of the two folders. Pictures are
    turned as their EXIF orientation says: of a pair one may carry it and the other not.

    Args:
      folder: where `image` and `perturbed` are.
      size: scale and crop to so many pixels a side; needed if pictures differ in size.
    Raises:
      ValueError: if there is no pair, a picture on one side has none on the other, or one is damaged.
    """
    found = [
        (path.parts[0], _name(path), read) for path, read in pictures(Path(folder)) if len(path.parts) > 1
    ]
    images = {str(name): (name, read) for side, name, read in found if side == "image"}
    views = [(name, read) for side, name, read in found if side == "perturbed"]
    owners = [next((n for n in (str(v), str(v.parent)) if n in images), None) for v, _ in views]
    lost = [str(v) for (v, _), owner in zip(views, owners, strict=True) if owner is None]
    lost += sorted(set(images) - set(owners))
    if lost or not views:
        what = f"{lost[0]} has no partner" if lost else "there is no pair"
        raise ValueError(
            f"paired: {folder}: {what}, must hold image/NAME and perturbed/NAME or perturbed/NAME/..."
        )
    names = tuple(sorted(images))
    grey = all(read_picture(item).mode in ("1", "L") for item in [*images.values(), *views])
    left = decoded([images[name] for name in names], size=size, grey=grey, turned=True)
    right = decoded(views, size=size, grey=grey, turned=True)
    if left.shape[1:] != right.shape[1:]:
        raise ValueError(
            f"paired: {folder}: images are {left.shape[1:]}, views {right.shape[1:]}; give a size"
        )
    number = np.asarray([names.index(str(owner)) for owner in owners], np.int32)
    return Paired(np.concatenate([left[number], right], axis=2), number, names)


def _name(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*path.parts[1:]).with_suffix("")
