"""Turn a folder of raw files into the contents of a data set, verified where the set is known."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustjax.data import layouts
from robustjax.data.decode import digest
from robustjax.data.known import KNOWN, Known
from robustjax.data.store import Contents, Part, Raw

# The first reader that finds its files wins; the most particular come first.
READERS: tuple[Callable[[Path, str], Raw | None], ...] = (layouts.idx, layouts.npz)


def contents(name: str, folder: Path) -> Contents:
    """Read a folder of raw files, whatever their layout.

    A name that is known (mnist, cifar10, ...) must hold what is known of it: classes, counts and checksums.

    Raises:
      ValueError: if the folder is empty or of no known layout, a file is damaged, or the contents are not those
        of the named set.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not layouts.files(folder):
        raise ValueError(f"{folder}: holds no files")
    known = KNOWN.get(name)
    if known:
        _verify_files(name, known, folder)
    found = (reader(folder, known.only if known else "") for reader in READERS)
    raw = next((r for r in found if r is not None), None)
    if raw is None:
        raise ValueError(
            f"{folder}: no raw files of a known layout; it must hold idx files, CIFAR pickles or binaries, "
            "npy or npz arrays, a mosaic with labels.npz, or pictures in a folder or zip for each class"
        )
    if known:
        _verify(name, known, raw)
    classes = known.classes if known and known.classes else raw.classes or _numbered(raw)
    parts = {split: _without(part, raw.missing.get(split)) for split, part in raw.parts.items()}
    return Contents(
        name=name,
        version=known.version if known else "1.0.0",
        classes=classes,
        parts=parts,
        source=f"raw files of {name}" + (", checksums verified" if known and known.sha256 else ""),
        note="; ".join(filter(None, (known.note if known else "", *_gaps(raw, classes)))),
    )


def _verify_files(name: str, known: Known, folder: Path) -> None:
    for path in layouts.files(folder):
        if path.name in known.md5:
            found = hashlib.md5(path.read_bytes()).hexdigest()
            if found != known.md5[path.name]:
                raise ValueError(f"{path}: MD5 is {found}, that of {name} is {known.md5[path.name]}")


def _verify(name: str, known: Known, raw: Raw) -> None:
    other = "choose another name for another data set"
    for split, part in raw.parts.items():
        if split not in known.counts:
            raise ValueError(f"{name}: {split} images found, it has {', '.join(known.counts)} alone; {other}")
        if len(part.image) != known.counts[split]:
            raise ValueError(
                f"{name}: {len(part.image):,} {split} images found, must be {known.counts[split]:,}; {other}"
            )
        if split in known.sha256:
            for what, array, must in zip(
                ("pixels", "labels"),
                (part.image, part.label.astype(np.uint8)),
                known.sha256[split],
                strict=True,
            ):
                if (found := digest(array)) != must:
                    raise ValueError(
                        f"{name}: SHA-256 of the {split} {what} is {found}, must be {must}; {other}"
                    )


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
            said.append(
                f"{len(part.index) - len(missing):,} of {len(part.index):,} {split} images: {most} missing"
            )
    return said


def _numbered(raw: Raw) -> tuple[str, ...]:
    return tuple(map(str, range(1 + max(int(part.label.max()) for part in raw.parts.values()))))
