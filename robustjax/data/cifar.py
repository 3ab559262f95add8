"""Read CIFAR-10 and CIFAR-100 as distributed: binary, or pickles without running what a pickle may hold."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from robustjax import checks
from robustjax.checks import reading
from robustjax.data import array_pickles
from robustjax.data.layouts import arrays, files, part, split_of, text
from robustjax.data.store import Part, Raw

_BATCH = re.compile(r"(data_batch_\d+|test_batch|train|test)(\.bin)?")


def pickles(folder: Path, only: str = "") -> Raw | None:
    """Read `data_batch_1` .. and `test_batch`, or `train` and `test`, joined in the order of their names.

    Raises:
      ValueError: for a file that is damaged or asks for anything but arrays.
    """
    found = [p for p in _batches(folder, only) if not p.suffix and p.read_bytes()[:1] == b"\x80"]
    if not found:
        return None
    batches = [(split_of(p.name) if "data" not in p.name else "train", unpickled(p), p) for p in found]
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for split, batch, path in batches:
        label = batch.get("fine_labels", batch.get("labels"))
        image = batch.get("data")
        if not isinstance(image, np.ndarray) or image.ndim != 2 or image.shape[1] != 3072 or label is None:
            raise ValueError(f"{path}: must hold `data` of rows of 3072 bytes and `labels` or `fine_labels`")
        parts.setdefault(split, []).append(_rows(path, image, label))
    meta = [unpickled(p) for p in files(folder) if p.name in ("batches.meta", "meta")]
    names = next((m.get("fine_label_names", m.get("label_names", ())) for m in meta), ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError(f"{folder}: the names of the classes in its meta file are no strings")
    return Raw({s: _joined(folder, found) for s, found in parts.items()}, tuple(map(_text, names)))


def binary(folder: Path, only: str = "") -> Raw | None:
    """Read `data_batch_1.bin` .. and `test_batch.bin`, or CIFAR-100's `train.bin` and `test.bin`.

    Raises:
      ValueError: for a file whose length is not a whole number of records.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for path in (p for p in _batches(folder, only) if p.suffix == ".bin"):
        coarse = 0 if "batch" in path.name else 1  # CIFAR-100 has a coarse label before the fine one
        record = 3073 + coarse
        content = np.fromfile(path, np.uint8)
        if not content.size or content.size % record:
            raise ValueError(f"{path}: {content.size} bytes, must be a whole number of records of {record}")
        rows = content.reshape(-1, record)
        split = "train" if "data" in path.name else split_of(path.name)
        parts.setdefault(split, []).append(_rows(path, rows[:, 1 + coarse :], rows[:, coarse]))
    tables = ("batches.meta.txt", "fine_label_names.txt")
    names = [text(p).split() for p in files(folder, ".txt") if p.name in tables]
    return (
        Raw({s: _joined(folder, found) for s, found in parts.items()}, tuple(names[0] if names else ()))
        if parts
        else None
    )


def corrupted(folder: Path, config: str) -> Raw | None:
    """Read one corruption at one severity from the arrays of CIFAR-10-C: "fog_3" is images 20,000 to 29,999.

    Raises:
      ValueError: if the name does not end in a severity, or a file is damaged.
    """
    kind, _, severity = config.rpartition("_")
    if severity not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"cifar10_corrupted/{config}: must end in a severity, _1 to _5")
    # TFDS has two names of its own.
    file = {"elastic": "elastic_transform", "frosted_glass_blur": "glass_blur"}.get(kind, kind)
    found = {p.stem: p for p in files(folder, ".npy")}
    if not {file, "labels"} <= set(found):
        raise ValueError(f"{folder}: must hold {file}.npy and labels.npy")
    image, label = (arrays(found[name], mapped=True).get("") for name in (file, "labels"))
    if image is None or label is None or image.ndim != 4 or label.shape != image.shape[:1] or len(image) < 5:
        raise ValueError(
            f"{found[file]}: must hold images (n, h, w, c), five severities of as many, and labels.npy (n,)"
        )
    share = len(image) // 5
    rows = slice((int(severity) - 1) * share, int(severity) * share)
    return Raw({"test": part(np.asarray(image[rows]), np.asarray(label[rows]), where=found[file])})


def _batches(folder: Path, only: str) -> list[Path]:
    return [p for p in files(folder) if _BATCH.fullmatch(p.name) and only in p.name]


def _rows(path: Path, image: np.ndarray, label: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check the rows of one file."""
    with reading(path, "damaged"):
        if image.dtype != np.uint8:
            raise ValueError(f"its data are {image.dtype}, must be bytes")
        return image, checks.labels(path.name, label, count=len(image))


def _joined(folder: Path, found: list[tuple[np.ndarray, np.ndarray]]) -> Part:
    """Turn rows of three colour planes into images."""
    rows = np.concatenate([image for image, _ in found])
    label = np.concatenate([label for _, label in found])
    return part(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), label, where=folder)


def unpickled(path: Path) -> dict[str, Any]:
    """Read a dictionary of arrays and numbers.

    Raises:
      ValueError: if the file is damaged or asks for anything else.
    """
    with reading(path, "not a CIFAR pickle"):
        loaded = array_pickles.loads(path.read_bytes())
        if not isinstance(loaded, dict):
            raise ValueError(f"it holds a {type(loaded).__name__}, must be a dictionary")
        return {_text(k): v for k, v in loaded.items()}


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
