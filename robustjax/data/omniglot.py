"""Read Omniglot: handwritten characters of many alphabets, brought to the look of MNIST."""

from pathlib import Path

import numpy as np
from PIL import Image

from robustjax.data.layouts import part
from robustjax.data.pictures import Found, pictures, read_picture
from robustjax.data.resize import to_square
from robustjax.data.store import Raw


def omniglot(folder: Path, *, size: int = 28) -> Raw | None:
    """Read `images_background.zip` as train; `images_evaluation.zip` or the small background sets as test.

    The black strokes on white are inverted and scaled down by averaging areas. A class is an alphabet with a
    character; pictures that are in both small sets count once.

    Raises:
      ValueError: for a damaged file, or pictures that do not lie in alphabet/character.
    """
    parts: dict[str, dict[tuple[str, str, str], Found]] = {}
    for found in pictures(folder):
        path = found[0]
        if len(path.parts) < 3:
            raise ValueError(f"{folder}: {path} must lie in alphabet/character")
        split = "train" if "images_background" in path.parts else "test"
        alphabet, character, name = path.parts[-3:]
        parts.setdefault(split, {})[alphabet, character, name] = found
    if not parts:
        return None
    classes = sorted({f"{a}/{c}" for items in parts.values() for a, c, _ in items})
    number = {name: i for i, name in enumerate(classes)}

    def drawn(found: Found) -> np.ndarray:
        ink = Image.fromarray(255 - np.asarray(read_picture(found).convert("L")))
        return np.asarray(to_square(ink, size))

    return Raw(
        {
            split: part(
                np.stack([drawn(items[key]) for key in sorted(items)]),
                [number["/".join(key[:2])] for key in sorted(items)],
                where=folder,
            )
            for split, items in parts.items()
        },
        tuple(classes),
    )
