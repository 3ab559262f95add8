"""Read CIFAR-10 and CIFAR-100 as distributed: binary, or pickles without running what a pickle may hold."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.data.layouts import files, part, split_of
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
        parts.setdefault(split, []).append((image, np.asarray(label)))
    meta = [unpickled(p) for p in files(folder) if p.name in ("batches.meta", "meta")]
    names = next((m.get("fine_label_names", m.get("label_names", ())) for m in meta), ())
    return Raw({s: _joined(found) for s, found in parts.items()}, tuple(map(_text, names)))


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
        parts.setdefault(split, []).append((rows[:, 1 + coarse :], rows[:, coarse]))
    tables = ("batches.meta.txt", "fine_label_names.txt")
    names = [p.read_text().split() for p in files(folder, ".txt") if p.name in tables]
    return (
        Raw({s: _joined(found) for s, found in parts.items()}, tuple(names[0] if names else ()))
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
    try:
        image, label = (np.load(found[name], mmap_mode="r", allow_pickle=False) for name in (file, "labels"))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{folder}: {file}.npy or labels.npy cannot be read as numbers ({error})") from error
    share = len(image) // 5
    rows = slice((int(severity) - 1) * share, int(severity) * share)
    return Raw({"test": part(np.asarray(image[rows]), np.asarray(label[rows]))})


def _batches(folder: Path, only: str) -> list[Path]:
    return [p for p in files(folder) if _BATCH.fullmatch(p.name) and only in p.name]


def _joined(found: list[tuple[np.ndarray, np.ndarray]]) -> Part:
    """Turn rows of three colour planes into images."""
    rows = np.concatenate([image for image, _ in found])
    return part(
        rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate([label for _, label in found])
    )


class _Arrays(pickle.Unpickler):
    """Unpickle numbers, strings, lists, dicts and numpy arrays; refuse every other name."""

    _array: Any = np.empty(0).__reduce__()[0]
    _number: Any = np.int64(0).__reduce__()[0]

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"): self._array,
            ("multiarray", "scalar"): self._number,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        where = "multiarray" if module_name.endswith("multiarray") else module_name
        if (where, global_name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, only arrays are allowed")
        return allowed[where, global_name]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def unpickled(path: Path) -> dict[str, Any]:
    """Read a dictionary of arrays and numbers.

    Raises:
      ValueError: if the file is damaged or asks for anything else.
    """
    try:
        loaded = _Arrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        return {_text(k): v for k, v in loaded.items()}
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path}: not a CIFAR pickle ({error})") from error


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
