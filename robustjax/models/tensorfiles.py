"""Files of tensors, read without PyTorch: .safetensors, and what `torch.save` writes, in the zip and older formats.

Nothing in a file is executed, see `pickles`. Arrays come as they are stored, except that bfloat16, which numpy
lacks, is widened to float32. They are read-only.
"""

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes as ml_dtypes  # gives numpy the bfloat16 that safetensors asks it for
import numpy as np
import safetensors

from robustjax.models import pickles

Array = np.ndarray
Path = str | os.PathLike[str]
SAFETENSORS = {"F64", "F32", "F16", "BF16", "BOOL", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "BoolStorage": "?", "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C  # opens what torch.save wrote before version 1.6
EXPANDED = 2**28  # numbers of a tensor that repeats those of its storage
DEPTH = 3  # of dictionaries around a state dict


def state_dict(path: Path, entry: str | None = None) -> dict[str, Array]:
    """Read the one state dict that a file holds: the dictionary from dotted names to tensors.

    It may lie within other dictionaries, next to anything else, which is not read.

    Args:
      path: of a file of safetensors or of torch.save.
      entry: which one to take where there are several, by its key, or keys joined by "/".
    Raises:
      ValueError: in one line, if the file is missing, of another format, damaged, asks for code to be run, or
        holds no state dict, or several and `entry` names none of them.
    """
    try:
        found, numbers = _opened(path)
        chosen = _chosen(found, entry)
        for name, value in chosen.items():
            if isinstance(value, pickles.StandIn) and str(value.kind).startswith("torch._"):
                raise ValueError(f"{name} is made by {value.kind}, must be a dense tensor")
        return {
            name: value if isinstance(value, Array) else _strided(value, numbers(value.storage))
            for name, value in chosen.items()
            if isinstance(value, pickles.Tensor | Array)
        }
    except Exception as error:  # damage shows as any of a dozen kinds, in zipfile, json, numpy and here
        reason = f"it is damaged ({type(error).__name__}: {error})"
        if isinstance(error, ValueError | zipfile.BadZipFile | OSError):
            reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"load: {os.fspath(path)} cannot be read: {' '.join(reason.split())[:300]}"
        ) from None


def _chosen(found: Any, entry: str | None) -> dict[Any, Any]:
    nested = list(_state_dicts(found))
    everywhere = {"/".join(at): tree for at, tree, _ in nested}
    beside = {id(tree): last for _, tree, last in nested}
    if entry is not None:
        if entry not in everywhere:
            raise ValueError(f"it has no entry {entry!r}, must be one of {', '.join(map(repr, everywhere))}")
        return beside[id(everywhere[entry])] | everywhere[entry]
    if isinstance(found, pickles.StandIn):
        raise ValueError(f"it holds an object of class {found.kind}, must be saved as its state_dict()")
    if not everywhere:
        raise ValueError("it holds no state dict")
    if len({id(tree) for tree in everywhere.values()}) > 1:
        raise ValueError(f"it holds several state dicts, name one as entry: {', '.join(everywhere)}")
    chosen = next(iter(everywhere.values()))
    return beside[id(chosen)] | chosen


def _state_dicts(
    tree: Any, at: tuple[str, ...] = (), around: Any = None
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any], dict[str, Any]]]:
    """Find each state dict: where it lies, itself, and the last BatchNorm's statistics beside it, as "bn"."""
    if not isinstance(tree, dict):
        return
    if any(
        isinstance(k, str) and "." in k and isinstance(v, pickles.Tensor | Array) for k, v in tree.items()
    ):
        last = around.get("bn") if isinstance(around, dict) else None
        yield at, tree, {f"bn.{k}": v for k, v in last.items()} if isinstance(last, dict) else {}
    elif len(at) < DEPTH:
        for key, value in tree.items():
            yield from _state_dicts(value, (*at, str(key)), tree)


# --- formats ------------------------------------------------------------------------------------------

Numbers = Callable[[pickles.Storage], Array]  # the flat contents of a storage


def _opened(path: Path) -> tuple[Any, Numbers]:
    with open(path, "rb") as stream:
        start = stream.read(16)
    if start.startswith(b"PK"):
        return _zipped(path)
    if start[8:9] == b"{":
        return _safetensors(path)
    if start.startswith(b"\x80"):
        return _legacy(path)
    kind = "a web page" if start.lstrip()[:1] == b"<" else "neither safetensors nor a file of torch.save"
    raise ValueError(f"it is {kind if start else 'empty'}")


def _safetensors(path: Path) -> tuple[Any, Numbers]:
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            tensors = {name: _plain(name, file) for name in file.offset_keys()}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is damaged ({error})") from None
    # A tensor of several names is stored under one; the others are metadata: from the name to the one that is stored.
    shared = {
        name: tensors[kept] for name, kept in metadata.items() if kept in tensors and name not in tensors
    }
    return tensors | shared, lambda storage: np.empty(0)


def _plain(name: str, file: Any) -> Array:
    kind = file.get_slice(name).get_dtype()
    if kind not in SAFETENSORS:
        raise ValueError(f"{name} has the type {kind}, must be one of {', '.join(sorted(SAFETENSORS))}")
    value = file.get_tensor(name)
    value = value.astype(np.float32) if kind == "BF16" else value
    value.setflags(write=False)
    return value


def _zipped(path: Path) -> tuple[Any, Numbers]:
    def content(entry: str) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(entry)

    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    roots = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise ValueError("it is a zip archive that torch.save did not write")
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise ValueError("it is a program of TorchScript, must be a saved state dict")
    order = content(f"{root}byteorder").decode() if f"{root}byteorder" in names else "little"

    def numbers(storage: pickles.Storage) -> Array:
        if (entry := f"{root}data/{storage.key}") not in names:
            raise ValueError(f"it lacks {entry}")
        return _numbers(np.frombuffer(content(entry), np.uint8), _type(storage), order)

    return pickles.read(io.BytesIO(content(f"{root}data.pkl"))), numbers


def _legacy(path: Path) -> tuple[Any, Numbers]:
    """Read five pickles (magic number, version, platform, the object, keys of storages), then the storages."""
    raw, storages, places = np.memmap(path, np.uint8, mode="r"), {}, {}
    with open(path, "rb") as stream:
        if pickles.read(stream) != MAGIC:
            raise ValueError("it is a pickle, but not of torch.save")
        _, platform, found, keys = (pickles.read(stream, storages) for _ in range(4))
        at = stream.tell()
    order = "little" if platform["little_endian"] else "big"
    for key in keys:
        width = _width(_type(storages[key]))
        end = (
            at + 8 + width * int.from_bytes(raw[at : at + 8].tobytes(), order)
        )  # a count precedes the numbers
        if end > len(raw):
            raise ValueError("it is cut off")
        places[key], at = raw[at + 8 : end], end
    return found, lambda storage: _numbers(places[storage.key], _type(storage), order)


# --- numbers ------------------------------------------------------------------------------------------


def _type(storage: pickles.Storage) -> str:
    if storage.kind not in STORAGES:
        raise ValueError(f"it has a {storage.kind}, must be one of {', '.join(STORAGES)}")
    return STORAGES[storage.kind]


def _width(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


def _numbers(raw: Array, kind: str, order: str = "little") -> Array:
    dtype = np.dtype("u2" if kind == "bfloat16" else kind)
    if len(raw) % dtype.itemsize:
        raise ValueError("it is cut off within a number")
    flat = np.asarray(raw).view(dtype.newbyteorder("<" if order == "little" else ">"))
    if kind == "bfloat16":
        return (flat.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32
    return flat


def _strided(tensor: pickles.Tensor, flat: Array) -> Array:
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    numbers = (offset, *shape, *strides)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not all(isinstance(n, int) and n >= 0 for n in numbers) or (math.prod(shape) and last >= len(flat)):
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {len(flat)} numbers")
    if math.prod(shape) > max(len(flat), EXPANDED):
        raise ValueError(f"a tensor of shape {shape} repeats its storage of {len(flat)} numbers without end")
    if not math.prod(shape):
        return np.empty(shape, flat.dtype)
    # Without the check above this would read memory that is not the file's.
    steps = [s * flat.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
