"""ObjectNet: household objects in unusual places, turns and views, as a test set for ImageNet's classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from robustjax.data import trees
from robustjax.data.pictures import SUFFIXES
from robustjax.data.scenes import Scenes

BORDER = 2  # pixels of red around every picture


def objectnet(root: str | Path, *, size: int = 224) -> tuple[Scenes, np.ndarray]:
    """Read <root>/images/<class>/*.png and <root>/mappings, for the classes that ImageNet shares.

    Args:
      root: objectnet-1.0.
      size: pixels a side; the red border is cut off first, then pictures are scaled and cropped as ImageNet's.
    Returns:
      Scenes of the shared classes, and for each of the 1000 ImageNet classes, in PyTorch's order, its class here or
      -1, for `backgrounds.coarse`.
    Raises:
      ValueError: if files are absent or not as published.

    Reference: Barbu et al. 2019, ObjectNet, NeurIPS.
    """
    root = Path(root)
    names = (
        "folder_to_objectnet_label.json",
        "objectnet_to_imagenet_1k.json",
        "pytorch_to_imagenet_2012_id.json",
    )
    paths = [trees.needed("objectnet", root / "mappings" / name, "objectnet-1.0") for name in names]
    titles, shared, numbers = (trees.mapping(path) for path in paths)
    path = trees.needed("objectnet", root / "mappings" / "imagenet_to_label_2012_v2", "objectnet-1.0")
    line = {text.strip(): i for i, text in enumerate(path.read_text(encoding="utf-8").splitlines())}
    pytorch = {int(number): int(index) for index, number in numbers.items()}
    folders = sorted(folder for folder, title in titles.items() if title in shared)
    to_class = np.full(1000, -1, np.int32)
    for k, folder in enumerate(folders):
        for text in shared[titles[folder]].split("; "):
            if text not in line or line[text] not in pytorch:
                raise ValueError(
                    f"objectnet: {text!r} of {titles[folder]} is no ImageNet class of the mappings"
                )
            to_class[pytorch[line[text]]] = k
    files, label = [], []
    for k, folder in enumerate(folders):
        inside = trees.needed("objectnet", root / "images" / folder, "objectnet-1.0")
        found = sorted(p for p in inside.iterdir() if p.suffix.lower() in SUFFIXES)
        files += found
        label += [k] * len(found)
    scenes = trees.scenes(
        "ObjectNet", files, label, classes=[titles[f] for f in folders], fit=_without_border, size=size
    )
    return scenes, to_class


def _without_border(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    inside = picture.crop((BORDER, BORDER, width - BORDER, height - BORDER))
    return trees.scaled_larger_and_cropped(inside, size)
