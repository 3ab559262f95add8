"""Pickles of plain values and numpy arrays, read without running anything that they may ask for."""

import io
import pickle
import pickletools
from typing import Any

import numpy as np


def loads(content: bytes) -> Any:
    """Read a pickle of dictionaries, lists, strings, numbers and arrays of numbers.

    Strings of Python 2 are read as Latin-1. Numpy is not asked to restore its own objects: what a damaged pickle says
    of them could crash it.

    Raises:
      ValueError: if it asks for anything else, or is damaged.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            # A place in the memo makes room for all places below it.
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise ValueError(f"its memo has {argument} places")
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin1").load())
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(str(error) or type(error).__name__) from error


class _Dtype:
    """A numpy dtype of numbers, as a pickle describes it."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        found = np.dtype(str(self.code))
        if found.kind not in "biufU" or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds {self.code}, only numbers are read")
        return found if self.order == "|" else found.newbyteorder(self.order)


class _Array:
    """An array, as a pickle describes it."""

    value: np.ndarray

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, data = state
        flat = np.frombuffer(_bytes(data), dtype.numpy())
        # A copy: what is read from bytes could not be written to.
        self.value = flat.reshape(shape, order="F" if columns_first else "C").copy()


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.numpy(), count=1)[0].item()


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))


def _encode(text: str, encoding: str) -> bytes:
    del encoding  # numpy pickles bytes for Python 2 as Latin-1
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"): _Array,
            ("multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _encode,
        }
        where = "multiarray" if module_name.endswith("multiarray") else module_name
        if (where, global_name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, only arrays are allowed")
        return allowed[where, global_name]


def _plain(tree: Any) -> Any:
    """Replace descriptions of arrays by arrays, in the containers that a data set is made of."""
    if isinstance(tree, _Array):
        return tree.value
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list) and any(isinstance(value, _Array) for value in tree):
        return [_plain(value) for value in tree]
    return tree
