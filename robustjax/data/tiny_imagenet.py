"""Read Tiny ImageNet, as distributed or as validation pictures with a table; pick OOD images for CIFAR-10."""

import csv
from pathlib import Path

import numpy as np

from robustjax.checks import reading
from robustjax.data.layouts import files, part, text
from robustjax.data.pictures import Found, decoded, pictures
from robustjax.data.store import Part, Raw

AUXILIARY = 8_000  # official validation images below this index may be trained on, the others are for tests

# Classes that show what a CIFAR-10 class shows: cats and large cats, dogs, frogs, birds, an antelope (like a
# deer), cars, trucks, buses and boats. There are neither aeroplanes nor horses.
LIKE_CIFAR10 = frozenset(
    (
        *(
            "n02123045",
            "n02123394",
            "n02124075",
            "n02125311",
            "n02129165",
        ),  # tabby, Persian, Egyptian, cougar, lion
        *("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),  # dogs
        *("n01641577", "n01644900"),  # frogs
        *("n01855672", "n02002724", "n02056570", "n02058221"),  # goose, stork, penguin, albatross
        "n02423022",  # gazelle
        *(
            "n02814533",
            "n03100240",
            "n03670208",
            "n04285008",
        ),  # estate car, convertible, limousine, sports car
        *("n03796401", "n03977966", "n04146614", "n04487081", "n04465501"),  # vans, buses, tractor
        *("n03447447", "n03662601"),  # gondola, lifeboat
    )
)


def tiny_imagenet(folder: Path) -> Raw | None:
    """Read the official folders, or `val_images.zip` with `val_labels.tsv` and `classes.tsv`.

    Classes are named by their wnid and words, in the order of `wnids.txt` or `class_index`.

    Raises:
      ValueError: for a damaged file, or pictures without a label.
    """
    found = [
        f for f in pictures(folder) if "test" not in f[0].parts
    ]  # the official test images have no labels
    if not found:
        return None
    wnids, words = _classes(folder)
    if not wnids:
        return None
    number = {wnid: i for i, wnid in enumerate(wnids)}
    labels = _validation_labels(folder)
    splits: dict[str, list[tuple[int, Found, int]]] = {"train": [], "validation": []}
    for item in found:
        path = item[0]
        own = next((p for p in path.parts if p in number), None)
        wnid = own or labels.get(path.name)
        if wnid is None:
            raise ValueError(f"{folder}: {path} has no label")
        items = splits["train" if own else "validation"]
        # val_123.JPEG has the official index 123; training pictures are counted in the order of their paths.
        digits = path.stem.rpartition("_")[2]
        if not own and not digits.isdecimal():
            raise ValueError(f"{folder}: {path} has no number, must be named like val_123.JPEG")
        if wnid not in number:
            raise ValueError(f"{folder}: the label of {path} is {wnid}, which is no class")
        order = len(items) if own else int(digits)
        items.append((order, item, number[wnid]))
    parts = {}
    for split, items in splits.items():
        items.sort(key=lambda i: i[0])
        if items:
            image = decoded([item for _, item, _ in items], size=None, grey=False)
            parts[split] = part(
                image,
                [label for _, _, label in items],
                np.asarray([order for order, _, _ in items]),
                where=folder,
            )
    return Raw(parts, tuple(f"{w} {words[w]}".strip() for w in wnids))


def outliers(raw: Raw) -> Raw:
    """Leave out what looks like CIFAR-10; the first 8,000 validation images are train, the rest test."""
    whole = raw.parts["validation"]
    fine = np.asarray([name.split()[0] not in LIKE_CIFAR10 for name in raw.classes])[whole.label]
    first = whole.index < AUXILIARY
    return Raw(
        {
            split: Part(whole.image[chosen], whole.label[chosen], whole.index[chosen])
            for split, chosen in (("train", fine & first), ("test", fine & ~first))
        },
        raw.classes,
    )


def _classes(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Find the wnids in order, and the words for them."""
    words: dict[str, str] = {}
    for path in files(folder, ".txt"):
        if path.name == "words.txt":
            words = dict(line.split("\t", 1) for line in text(path).splitlines() if "\t" in line)
    for path in files(folder, ".tsv", ".txt"):
        if path.name == "classes.tsv":
            with reading(path, "must be a table of class_index, wnid and words"):
                rows = sorted(_table(path), key=lambda row: int(row["class_index"]))
                return [row["wnid"] for row in rows], {row["wnid"]: row.get("words") or "" for row in rows}
        if path.name == "wnids.txt":
            wnids = text(path).split()
            return wnids, {w: words.get(w, "") for w in wnids}
    return [], {}


def _validation_labels(folder: Path) -> dict[str, str]:
    """Map names of validation pictures to wnids, from whichever table there is."""
    for path in files(folder, ".tsv", ".txt"):
        if path.name == "val_labels.tsv":
            with reading(path, "must be a table of file and wnid"):
                return {row["file"]: row["wnid"] for row in _table(path)}
        if path.name == "val_annotations.txt":
            with reading(path, "must be lines of file and wnid"):
                return dict(line.split("\t")[:2] for line in text(path).splitlines() if line)
    return {}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
