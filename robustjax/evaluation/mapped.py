"""Apply a per-example function to a whole data set, batch by batch, padding removed."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray, PyTree

from robustjax.numerics import in_float32
from robustjax.types import Labels, Mask


@runtime_checkable
class Labelled(Protocol):
    """Examples with their labels, as a `Batch` has them, and whatever else belongs to them."""

    @property
    def label(self) -> Labels: ...


Evaluate = Callable[..., PyTree]  # (key, batches, *arguments) -> numpy arrays over the whole data set


def mapped(fn: Callable[..., PyTree]) -> Evaluate:
    """Compile a per-example function once and run it over any number of data sets and arguments, in float32.

    Args:
      fn: (keys (b,), batch, *arguments) -> arrays that lead with b. What differs from call to call, such as
        parameters or a radius, belongs in the arguments: it is traced, so a sweep compiles once.

    Returns:
      evaluate(key, batches, *arguments) -> numpy arrays that lead with the number of examples. `batches` yields
      (batch, mask); rows where the mask is false are padding. Example i, counted over the whole data set, gets
      `fold_in(key, i)`, whatever the batch size. Raises ValueError if there is no batch.
    """

    def one(words, first, batch: Labelled, arguments):
        index = first + jnp.arange(batch.label.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.wrap_key_data(words), index)
        return fn(keys, batch, *arguments)

    compiled = jax.jit(in_float32(one))

    def evaluate(key: PRNGKeyArray, batches: Iterable[tuple[Labelled, Mask]], *arguments: Any) -> PyTree:
        # The host's copy of the key belongs to no device, so it joins batches that several processes share.
        words = np.asarray(jax.random.key_data(key))
        rows, waiting, seen = [], None, 0
        for batch, mask in batches:
            now = compiled(words, np.int32(seen), batch, arguments), mask
            # Fetching the previous batch only now lets the device work on this one meanwhile.
            if waiting is not None:
                rows.append(_fetch(*waiting))
            waiting, seen = now, seen + mask.shape[0]
        if waiting is None:
            raise ValueError("evaluation: no batch given, the data set is empty")
        rows.append(_fetch(*waiting))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

    return evaluate


def _fetch(result: PyTree, mask: Mask) -> PyTree:
    keep = _on_host(mask)
    return jax.tree.map(lambda a: _on_host(a)[keep], result)


def _on_host(value: jax.Array) -> np.ndarray:
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))
