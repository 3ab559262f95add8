"""Read pictures that belong to no class: the OOD sets that papers test on, as their authors distribute them."""

from pathlib import Path

import numpy as np

from robustjax.data.layouts import part
from robustjax.data.pictures import Found, decoded, pictures
from robustjax.data.store import Raw

SIZE = 32  # pixels a side, where none is asked for


def unlabelled_pictures(folder: Path, *, size: int | None = None) -> Raw | None:
    """Read all pictures under a folder as test images of one class, scaled and cropped.

    They are in the order of the numbers that their names are, or else of their paths.

    Args:
      folder: where they are, in folders or zip files.
      size: pixels a side, 32 by default, since some copies of these sets have others.
    Raises:
      ValueError: for a damaged picture.

    Reference: the sets of ODIN, Liang et al. 2018, arXiv:1706.02690, which ALOE and ATOM take. RATIO squeezes
      pictures of classrooms into a square; here as elsewhere the centre is cropped.
    """
    found = sorted(pictures(folder), key=_place)
    if not found:
        return None
    image = decoded(found, size=size or SIZE, grey=False)
    return Raw({"test": part(image, np.zeros(len(image), np.int32), where=folder)}, ("unlabelled",))


def _place(item: Found) -> tuple[int, str]:
    path = item[0]
    return int(path.stem) if path.stem.isdecimal() else -1, path.as_posix()
