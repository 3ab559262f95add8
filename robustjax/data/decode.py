"""Decode a prepared split once to plain arrays, and keep them beside the prepared data.

The second reading maps the images from disk and checks them against their checksum.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from robustjax.checks import reading
from robustjax.data.lazy_pictures import LazyPictures, numbers
from robustjax.data.picture_records import PictureRecords, listed, listing, source
from robustjax.data.pictures import from_bytes
from robustjax.data.resize import to_square
from robustjax.data.store import Part, scratch, settle


def arrays(folder: Path, split: str, *, size: int | None = None) -> Part:
    """Read one stored split in the order of its official index.

    Data prepared by others may carry no official index; then the position in the prepared files is the index.

    Args:
      folder: a prepared data set, the folder that holds dataset_info.json.
      split: its name there.
      size: scale every image to so many pixels a side.
    Raises:
      ValueError: if it holds no images with labels, images of several sizes and `size` is None, or if the
        kept arrays are damaged.
    """
    kept = _home(folder, split, size)
    if kept.is_dir():
        return _kept(kept)
    part = _decoded(folder, split, size)
    try:
        with scratch(folder) as temporary:
            made = temporary / "decoded"
            made.mkdir()
            for field in dataclasses.fields(part):
                np.save(made / f"{field.name}.npy", getattr(part, field.name))
            sums = {"sha256": digest(part.image), "label": digest(part.label), "index": digest(part.index)}
            (made / "decoded.json").write_text(json.dumps(sums))
            settle(made, kept)
    except OSError:
        pass  # prepared data that others own, or a full disk: decoded again every time
    return part


def kept(folder: Path, split: str, size: int | None) -> bool:
    """Say whether a stored split lies beside the prepared data as decoded arrays."""
    return _home(folder, split, size).is_dir()


def _home(folder: Path, split: str, size: int | None) -> Path:
    return folder / (f"decoded-{split}" if size is None else f"decoded-{split}-{size}")


def differ(folder: Path) -> bool:
    """Say whether a prepared set holds colour pictures of several sizes, with labels: what can be streamed."""
    with reading(folder, "not a prepared data set, delete that folder and prepare it again"):
        features: Any = tfds.builder_from_directory(folder).info.features
    found: Any = features["image"] if {"image", "label"} <= set(features) else None
    return isinstance(found, tfds.features.Image) and found.shape == (None, None, 3)


def lazy(folder: Path, split: str, preprocess: str) -> Part:
    """Find the pictures of one stored split, which are decoded when rows are asked for.

    The index is the official one where the set holds it, else the number at the end of the name of each file, as
    ImageNet's have it, and otherwise the position in the prepared files. Names and labels are kept beside the prepared
    data; reading them the first time takes a minute for 50,000 pictures.

    Args:
      folder: a prepared data set.
      split: its name there.
      preprocess: by name, see `data.preprocessing`.
    Raises:
      ValueError: if it holds no pictures with labels.
    """
    with reading(folder, "not a prepared data set, delete that folder and prepare it again"):
        features: Any = tfds.builder_from_directory(folder).info.features
    found: Any = features["image"] if {"image", "label"} <= set(features) else None
    shape: Any = found.shape if isinstance(found, tfds.features.Image) else (None,)
    if shape[-1] != 3:
        raise ValueError(
            f"load: preprocess is {preprocess}, must be left out: {folder} holds no pictures in colour"
        )
    with reading(folder, f"its {split} images cannot be read, delete that folder and prepare it again"):
        records, kept = source(folder, split), listed(folder, split)
        if not kept:
            label, names = _names(records)
            kept = {"label": label, "names": names}
            with contextlib.suppress(OSError):  # prepared data that others own: read again every time
                keep(listing(folder, split), kept)
        label, names = kept["label"], kept["names"]
        if len(label) != len(records):
            raise ValueError(
                f"{listing(folder, split).name} is about {len(label)} pictures, there are {len(records)}: delete it"
            )
    number = kept["index"] if "index" in kept else numbers(names.tolist())
    order = np.arange(len(label)) if number is None else np.argsort(number, kind="stable")
    image: Any = LazyPictures(names[order], PictureRecords(folder, split, order), preprocess)
    return Part(image, label[order], order if number is None else number[order])


def keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to a file, all or nothing."""
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    with scratch(path.parent) as temporary:
        (temporary / "listed").write_bytes(out.getvalue())
        (temporary / "listed").replace(path)


def _names(records: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read label and name of every record."""
    label, names = np.empty(len(records), np.int32), []
    for first in range(0, len(records), 256):
        rows = range(first, min(first + 256, len(records)))
        for i, record in zip(rows, records.__getitems__(list(rows)), strict=True):
            label[i] = record["label"]
            name = record.get("file_name", record.get("id", b""))
            names.append(name.decode() if isinstance(name, bytes) else str(name))
    if len(set(names)) < len(names):
        names = [f"picture_{i}" for i in range(len(names))]
    return label, np.asarray(names, dtype=np.str_)


def labelled(folder: Path, split: str) -> bool:
    """Say whether the first images of a stored split have labels."""
    with reading(folder, f"its {split} images cannot be read, delete that folder and prepare it again"):
        records = source(folder, split)
        first = records.__getitems__(list(range(min(len(records), 16))))
        return not first or any(int(record.get("label", 0)) >= 0 for record in first)


def digest(image: np.ndarray) -> str:
    """Compute the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(image).reshape(-1).view(np.uint8).data).hexdigest()


def _kept(folder: Path) -> Part:
    with reading(folder, "damaged, delete that folder and load again"):
        sums = json.loads((folder / "decoded.json").read_text())
        image = np.load(folder / "image.npy", mmap_mode="r")
        label, index = (np.load(folder / f"{name}.npy") for name in ("label", "index"))
        # Earlier folders have a checksum of the images alone.
        for name, array in (("sha256", image), ("label", label), ("index", index)):
            if name in sums and digest(array) != sums[name]:
                raise ValueError("its checksum differs")
        if not len(image) == len(label) == len(index):
            raise ValueError("its arrays differ in length")
    return Part(image, label, index)


def _decoded(folder: Path, split: str, size: int | None) -> Part:
    with reading(folder, "not a prepared data set, delete that folder and prepare it again"):
        builder: Any = tfds.builder_from_directory(folder)
        features: Any = builder.info.features
        names = set(features)
    if not {"image", "label"} <= names or not isinstance(features["image"], tfds.features.Image):
        raise ValueError(
            f"load: {folder} holds {', '.join(features)}, must hold pictures as image, and label"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        kind = getattr(builder.info.file_format, "value", "another format")
        raise ValueError(f"load: {folder} is stored as {kind}, prepare it with file_format='array_record'")
    height, width, channels = features["image"].shape
    if features["image"].np_dtype != np.uint8 or channels not in (1, 3, None):
        form = f"{features['image'].dtype} with {channels} channels"
        raise ValueError(f"load: the images of {folder} are {form}, must be uint8 with 1 or 3")
    if size is None and (height is None or width is None):
        raise ValueError(f"load: the images of {folder} differ in size, give `size` to scale and crop them")
    with reading(folder, f"its {split} images cannot be read, delete that folder and prepare it again"):
        image, label, index = _pixels(folder, split, (size or height, size or width, channels or 3), size)
    if len(np.unique(index)) < len(index):  # ids that number something else
        index = np.arange(len(index))
    order = np.argsort(index, kind="stable")
    return Part(image[order], label[order], index[order])


def _pixels(
    folder: Path, split: str, shape: tuple[int, int, int], size: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode the pictures of a split, in the order they are stored in; with labels and official indices."""
    records = source(folder, split)
    total, mode = len(records), "L" if shape[-1] == 1 else "RGB"
    label, index = np.empty(total, np.int32), np.empty(total, np.int64)
    image = np.empty((total, *shape), np.uint8)
    for first in range(0, total, 512):
        for i, record in enumerate(records.__getitems__(list(range(first, min(first + 512, total)))), first):
            label[i], index[i] = record["label"], _official(record, i)
            picture = from_bytes(record["image"], f"{folder}: {split} image {i}").convert(mode)
            pixels = np.asarray(picture if size is None else to_square(picture, size))
            if pixels.size != image[i].size:
                raise ValueError(
                    f"{folder}: {split} image {i} is {picture.height} x {picture.width}, unlike its features"
                )
            image[i] = pixels.reshape(shape)
    return image, label, index


def _official(record: dict[str, Any], position: int) -> int:
    """Find the official index: our own feature, or the number in an id such as "train_00042"."""
    if "index" in record:
        return int(record["index"])
    name = record.get("id", b"")
    number = (name.decode() if isinstance(name, bytes) else str(name)).rpartition("_")[2]
    return int(number) if number.isdigit() else position
