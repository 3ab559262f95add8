"""Read GTSRB, German traffic signs of 32 x 32 pixels, from the three pickles that ALOE takes them from."""

from pathlib import Path

import numpy as np

from robustjax.data.cifar import unpickled
from robustjax.data.layouts import files, part
from robustjax.data.store import Part, Raw

CLASSES = 43
SPLITS = {"train.p": "train", "valid.p": "validation", "test.p": "test"}
TESTED = 10_000  # of the test images


def gtsrb(folder: Path) -> Raw | None:
    """Read `train.p`, `valid.p` and `test.p`, dictionaries with `features` (n, 32, 32, 3) and `labels` (n,).

    Raises:
      ValueError: for a file that is damaged, asks to run anything or holds something else.
    """
    parts: dict[str, Part] = {}
    for path in (p for p in files(folder, ".p") if p.name in SPLITS):
        content = unpickled(path)
        image, label = content.get("features"), content.get("labels")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 4 or label is None:
            raise ValueError(f"{path}: must hold `features`, uint8[n h w c], and `labels`")
        found = part(image, label, where=path)
        if found.label.max() >= CLASSES:
            raise ValueError(f"{path}: holds label {found.label.max()}, must be below {CLASSES}")
        parts[SPLITS[path.name]] = found
    return Raw(parts, tuple(f"{k:02d}" for k in range(CLASSES))) if parts else None


def tested(raw: Raw) -> Raw:
    """Keep the test images that ALOE tests on: the first 10,000 after scikit-learn shuffled them with seed 1.

    Reference: Chen et al. 2020, arXiv:2003.09711.
    """
    test = raw.parts["test"]
    chosen = np.sort(np.random.RandomState(1).permutation(len(test.label))[:TESTED])
    kept = Part(test.image[chosen], test.label[chosen], test.index[chosen])
    return Raw({**raw.parts, "test": kept}, raw.classes)
