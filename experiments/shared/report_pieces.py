"""Tables and pictures that several reports share."""

from typing import Any

import numpy as np

from robustjax import data
from robustjax.analysis import curves
from robustjax.data import subsets
from robustjax.runtime import image_grids


def images(*splits: data.Split) -> str:
    """Say on which images a result was found: which of which split, how many of each class, their checksums."""
    return f"Images: {'; '.join(dict.fromkeys(subsets.in_words(split.info) for split in splits))}."


def accuracy_rows(curve: curves.Curve) -> list[dict[str, Any]]:
    """Tabulate a curve: radius, accuracy and its 95 % interval, in percent."""
    return [
        {
            "radius": float(eps),
            "accuracy %": 100 * a.value,
            "95 % interval": f"{100 * a.low:.1f} to {100 * a.high:.1f}",
        }
        for eps, a in zip(curve.eps, curve.accuracy(), strict=True)
    ]


def attacked_images(split: data.Split, curve: curves.Curve, *, radius: int = -1, count: int = 8) -> bytes:
    """Draw the first images, what the attack made of them at one radius, and the difference."""
    count = min(count, len(split.label))
    clean = np.asarray(split.image[:count], np.float32) / 255
    names = split.info.classes
    before, after = (curve.logits[i, :count].argmax(axis=1) for i in (0, radius))
    captions = [f"{names[b]} → {names[a]}" for b, a in zip(before, after, strict=True)]
    return image_grids.attacked(clean, curve.x[radius, :count], captions=captions)
