"""Decode a prepared split once to plain arrays, and keep them beside the prepared data.

The second reading maps the arrays from disk and checks them against their checksum.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

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
    kept = folder / (f"decoded-{split}" if size is None else f"decoded-{split}-{size}")
    if kept.is_dir():
        return _kept(kept)
    try:
        with scratch(folder) as temporary:
            made = temporary / "decoded"
            made.mkdir()
            part = _decode(folder, split, size, made)
            settle(made, kept)
    except PermissionError:
        return _decode(folder, split, size, None)
    return part


def digest(image: np.ndarray) -> str:
    """Compute the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(image).reshape(-1).view(np.uint8).data).hexdigest()


def _kept(folder: Path) -> Part:
    image = np.load(folder / "image.npy", mmap_mode="r")
    if digest(image) != json.loads((folder / "decoded.json").read_text())["sha256"]:
        raise ValueError(
            f"load: {folder} is damaged (its checksum differs), delete that folder and load again"
        )
    return Part(image, np.load(folder / "label.npy"), np.load(folder / "index.npy"))


def _decode(folder: Path, split: str, size: int | None, made: Path | None) -> Part:
    builder = tfds.builder_from_directory(folder)
    features: Any = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(f"load: {folder} holds {', '.join(features)}, must hold image and label")
    if size is None and None in features["image"].shape:
        raise ValueError(f"load: the images of {folder} differ in size, give `size` to scale and crop them")
    # Bytes are decoded here: TFDS would want OpenCV, or warn for its absence.
    records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    channels = features["image"].shape[-1] or 3
    shape = (len(records), *((size, size) if size else features["image"].shape[:2]), channels)
    image = (
        np.empty(shape, np.uint8)
        if made is None
        else np.lib.format.open_memmap(made / "image.npy", "w+", np.uint8, shape)
    )
    label, index = np.empty(len(records), np.int32), np.empty(len(records), np.int64)
    for i, record in enumerate(records):
        label[i], index[i] = record["label"], _official(record, i)
    place = np.empty_like(index)
    place[np.argsort(index, kind="stable")] = np.arange(len(index))
    for i, record in enumerate(records):
        picture = Image.open(io.BytesIO(record["image"])).convert("L" if channels == 1 else "RGB")
        image[place[i]] = np.asarray(picture if size is None else to_square(picture, size)).reshape(shape[1:])
    order = np.argsort(index, kind="stable")
    part = Part(image, label[order], index[order])
    if made is not None:
        np.save(made / "label.npy", part.label)
        np.save(made / "index.npy", part.index)
        (made / "decoded.json").write_text(json.dumps({"sha256": digest(image)}))
    return part


def _official(record: dict[str, Any], position: int) -> int:
    """Find the official index: our own feature, or the number in an id such as "train_00042"."""
    if "index" in record:
        return int(record["index"])
    name = record.get("id", b"")
    number = (name.decode() if isinstance(name, bytes) else str(name)).rpartition("_")[2]
    return int(number) if number.isdigit() else position
