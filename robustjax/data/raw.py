"""Turn a folder of raw files into the contents of a data set, verified where the set is known."""

from pathlib import Path

import numpy as np

from robustjax.data import cifar, layouts
from robustjax.data.decode import digest
from robustjax.data.extra import pseudo_labelled, unlabelled
from robustjax.data.gtsrb import gtsrb, tested
from robustjax.data.known import UNLABELLED, Known, extra_of, facts
from robustjax.data.omniglot import omniglot
from robustjax.data.ood_pictures import unlabelled_pictures
from robustjax.data.pictures import by_class
from robustjax.data.store import Contents, Part, Raw
from robustjax.data.svhn import svhn
from robustjax.data.tiny_imagenet import outliers, tiny_imagenet
from robustjax.data.tiny_images import sample


def contents(name: str, folder: Path, *, size: int | None = None) -> Contents:
    """Read a folder of raw files, whatever their layout.

    A name that is known (mnist, cifar10, ...) must hold what is known of it: classes, counts and checksums. Where the
    files say the official numbers of their images, a part of a known set will do; its checksums cannot be verified.

    Args:
      name: what to call it; any name, or a known one.
      folder: where the files are, folders inside it included.
      size: scale and crop pictures to so many pixels a side; needed where they differ in size.
    Raises:
      ValueError: if the folder is empty or of no known layout, a file is damaged, or the contents are not
        those of the named set.
    """
    if size is not None and size < 1:
        raise ValueError(f"{name}: size is {size}, must be at least 1 pixel")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not layouts.files(folder):
        raise ValueError(f"{folder}: holds no files")
    known = facts(name)
    raw = _read(name, folder, known.only, size)
    if raw is None:
        raise ValueError(
            f"{folder}: no raw files of a known layout; it must hold idx files, CIFAR pickles or binaries, "
            "SVHN's .mat, npy or npz arrays, or pictures in a folder or zip for each class"
        )
    gaps = [_gap(name, split, raw, known) for split in raw.parts]
    verified = [
        not gap and _verify(name, split, raw.parts[split], known)
        for split, gap in zip(raw.parts, gaps, strict=True)
    ]
    classes = known.classes or raw.classes or _numbered(raw)
    return Contents(
        name=name,
        version=known.version,
        classes=classes,
        parts=raw.parts,
        source=f"raw files of {name}" + (", checksums verified" if all(verified) else ""),
        note="; ".join(filter(None, (known.note, raw.note, *gaps))),
    )


def _read(name: str, folder: Path, only: str, size: int | None) -> Raw | None:
    """Try one layout after the other, the most particular first; None if there is none of them."""
    if name == "omniglot":
        return omniglot(folder, size=size or 28)
    if name in ("tiny_imagenet", "tiny_imagenet/outliers"):
        raw = tiny_imagenet(folder)
        return outliers(raw) if raw and name.endswith("outliers") else raw
    if name in UNLABELLED:
        return unlabelled_pictures(folder, size=size)
    if name in ("gtsrb", "gtsrb/aloe") and (raw := gtsrb(folder)) is not None:
        return tested(raw) if name.endswith("aloe") else raw
    if name == "random_images":
        return unlabelled(folder)
    if extra_of(name):
        return pseudo_labelled(folder)
    if name.startswith("tiny_images/"):
        count = name.partition("/")[2]
        if not count.isdecimal():
            raise ValueError(f"{name}: must end in how many images to draw, as in tiny_images/1000000")
        return sample(folder, int(count))
    if name.startswith("cifar10_corrupted/"):
        return cifar.corrupted(folder, name.partition("/")[2])
    for reader in (layouts.idx, cifar.pickles, cifar.binary, svhn, layouts.npz):
        if (raw := reader(folder, only)) is not None:
            return raw
    return by_class(folder, only, size=size)


def _gap(name: str, split: str, raw: Raw, known: Known) -> str:
    """Say how much of an official split is there, if less than all: "49,883 of 50,000 train images"."""
    index, total = raw.parts[split].index, known.counts.get(split, 0)
    if split not in raw.numbered or not total or len(index) >= total:
        return ""
    if index.min() < 0 or index.max() >= total:
        raise ValueError(
            f"{name}: {split} images are numbered {index.min()} to {index.max()}, must be in 0..{total - 1}"
        )
    return f"{len(index):,} of {total:,} {split} images"


def _verify(name: str, split: str, part: Part, known: Known) -> bool:
    """Compare a whole split with what is known; say whether its checksums agreed."""
    other = "choose another name for another data set"
    total = known.counts.get(split, 0)
    if known.counts and len(part.image) != total:
        raise ValueError(f"{name}: {len(part.image):,} {split} images found, must be {total:,}; {other}")
    if split not in known.sha256:
        return False
    have = digest(part.image), digest(part.label.astype(np.uint8))
    for what, found, must in zip(("pixels", "labels"), have, known.sha256[split], strict=True):
        if must is not None and found != must:
            raise ValueError(f"{name}: SHA-256 of the {split} {what} is {found}, must be {must}; {other}")
    return None not in known.sha256[split]


def _numbered(raw: Raw) -> tuple[str, ...]:
    return tuple(map(str, range(1 + max(int(part.label.max()) for part in raw.parts.values()))))
