"""A pytree as named plain arrays, which is what a checkpoint holds: names, kinds, checksums, mismatches."""

import json
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def named(tree: Any) -> dict[str, Any]:
    """Name the leaves by their dotted path, in the order of `jax.tree.leaves`; None is no leaf.

    Raises:
      ValueError: if two leaves have the same path.
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    if len(leaves) != len(paths):
        raise ValueError("named: two leaves have the same dotted path, they must be different")
    return leaves


def kind(leaf: Any) -> tuple[str, list[int]]:
    """Say the dtype and shape of a leaf: an array, the struct of one, or a Python number."""
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return str(array.dtype), list(array.shape)


def raw(leaf: Any) -> Any:
    """Strip a leaf to what can be stored: keys to their data, Python numbers to arrays."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def wanted(like: Any) -> Any:
    """Describe the stored form of a leaf and where to put it: its sharding, or numpy on the host."""
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return np.asarray(like)
    sharding = like.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stored = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    if _is_key(like) and isinstance(like, jax.Array):
        sharding = jax.random.key_data(like).sharding
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)


def rewrap(stored: Any, like: Any) -> Any:
    """Undo `raw`: give a stored array the type of the leaf it replaces."""
    if _is_key(like):
        found: list[Any] = []
        jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)  # a struct has no impl
        return jax.random.wrap_key_data(stored, impl=found[0])
    return stored if hasattr(like, "dtype") else type(like)(stored)


def checksum(stored: Any) -> int:
    """CRC-32 of the values, whichever way they are sharded."""
    if isinstance(stored, jax.Array) and not (stored.is_fully_addressable or stored.is_fully_replicated):
        stored = multihost_utils.process_allgather(stored, tiled=True)
    return zlib.crc32(np.ascontiguousarray(np.asarray(stored)).reshape(-1).view(np.uint8).data)


def mismatch(expected: dict[str, Any], found: dict[str, Any], *, others: bool) -> str | None:
    """Say which leaf is the first to differ between what is expected and found; None if none does.

    Args:
      expected: leaves by name.
      found: by name, entries that begin with dtype and shape.
      others: whether leaves may be found that nobody expects.
    """
    for name, leaf in expected.items():
        if name not in found:
            return f"{name} is absent, expected {_text(*kind(leaf))}"
        if kind(leaf) != (found[name][0], found[name][1]):
            return f"{name} is {_text(*found[name][:2])}, expected {_text(*kind(leaf))}"
    if not others:
        for name in found:
            if name not in expected:
                return f"{name} is {_text(*found[name][:2])}, expected no such leaf"
    return None


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _text(dtype: str, shape: list[int]) -> str:
    return f"{dtype}{json.dumps(shape)}"
