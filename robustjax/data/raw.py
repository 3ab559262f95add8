"""Turn a folder of raw files into the contents of a data set, verified where the set is known."""

from pathlib import Path

import numpy as np

from robustjax.data import cifar, layouts
from robustjax.data.decode import digest
from robustjax.data.extra import pseudo_labelled, unlabelled
from robustjax.data.known import KNOWN, Known
from robustjax.data.mosaics import mosaics
from robustjax.data.omniglot import omniglot
from robustjax.data.pictures import by_class
from robustjax.data.store import Contents, Part, Raw
from robustjax.data.svhn import svhn
from robustjax.data.tiny_imagenet import outliers, tiny_imagenet
from robustjax.data.tiny_images import sample


def contents(name: str, folder: Path, *, size: int | None = None) -> Contents:
    """Read a folder of raw files, whatever their layout.

    A name that is known (mnist, cifar10, ...) must hold what is known of it: classes, counts and checksums.

    Args:
      name: what to call it; any name, or a known one.
      folder: where the files are, folders inside it included.
      size: scale and crop pictures to so many pixels a side; needed where they differ in size.
    Raises:
      ValueError: if the folder is empty or of no known layout, a file is damaged, or the contents are not
        those of the named set.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not layouts.files(folder):
        raise ValueError(f"{folder}: holds no files")
    known = KNOWN.get(name, Known())
    raw = _read(name, folder, known.only, size)
    if raw is None:
        raise ValueError(
            f"{folder}: no raw files of a known layout; it must hold idx files, CIFAR pickles or binaries, "
            "SVHN's .mat, npy or npz arrays, mosaics with labels.npz, or pictures in a folder or zip for each class"
        )
    for split, part in raw.parts.items():
        _verify(name, split, part, known)
    classes = known.classes or raw.classes or _numbered(raw)
    return Contents(
        name=name,
        version=known.version,
        classes=classes,
        parts={split: _without(part, raw.missing.get(split)) for split, part in raw.parts.items()},
        source=f"raw files of {name}"
        + (", checksums verified" if set(raw.parts) <= set(known.sha256) else ""),
        note="; ".join(filter(None, (known.note, *_gaps(raw, classes)))),
    )


def _read(name: str, folder: Path, only: str, size: int | None) -> Raw | None:
    """Try one layout after the other, the most particular first; None if there is none of them."""
    if name == "omniglot":
        return omniglot(folder, size=size or 28)
    if name in ("tiny_imagenet", "tiny_imagenet/outliers"):
        raw = tiny_imagenet(folder)
        return outliers(raw) if raw and name.endswith("outliers") else raw
    if name == "random_images":
        return unlabelled(folder)
    if name == "cifar10_extra":
        return pseudo_labelled(folder)
    if name.startswith("tiny_images/"):
        count = name.partition("/")[2]
        if not count.isdecimal():
            raise ValueError(f"{name}: must end in how many images to draw, as in tiny_images/1000000")
        return sample(folder, int(count))
    if name.startswith("cifar10_corrupted/"):
        return cifar.corrupted(folder, name.partition("/")[2])
    for reader in (mosaics, layouts.idx, cifar.pickles, cifar.binary, svhn, layouts.npz):
        if (raw := reader(folder, only)) is not None:
            return raw
    return by_class(folder, only, size=size)


def _verify(name: str, split: str, part: Part, known: Known) -> None:
    other = "choose another name for another data set"
    if known.counts and len(part.image) != known.counts.get(split, 0):
        must = f"{known.counts.get(split, 0):,}"
        raise ValueError(f"{name}: {len(part.image):,} {split} images found, must be {must}; {other}")
    if split not in known.sha256:
        return
    image = part.image
    if split in known.blank:
        image = image.copy()
        image[list(known.blank[split])] = 0
    found = digest(image), digest(part.label.astype(np.uint8))
    for what, have, must in zip(("pixels", "labels"), found, known.sha256[split], strict=True):
        if have != must:
            raise ValueError(f"{name}: SHA-256 of the {split} {what} is {have}, must be {must}; {other}")


def _without(part: Part, missing: np.ndarray | None) -> Part:
    if missing is None or not len(missing):
        return part
    keep = ~np.isin(part.index, missing)
    return Part(part.image[keep], part.label[keep], part.index[keep])


def _gaps(raw: Raw, classes: tuple[str, ...]) -> list[str]:
    """Say what is missing: "49,883 of 50,000 train images: 109 ship, 7 horse, 1 dog missing"."""
    said = []
    for split, missing in raw.missing.items():
        part = raw.parts[split]
        lost = np.bincount(part.label[np.isin(part.index, missing)], minlength=len(classes))
        if len(missing):
            most = ", ".join(f"{lost[k]} {classes[k]}" for k in np.argsort(-lost, kind="stable") if lost[k])
            left = f"{len(part.index) - len(missing):,} of {len(part.index):,}"
            said.append(f"{left} {split} images: {most} missing")
    return said


def _numbered(raw: Raw) -> tuple[str, ...]:
    return tuple(map(str, range(1 + max(int(part.label.max()) for part in raw.parts.values()))))
