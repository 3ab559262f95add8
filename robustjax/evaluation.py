"""Apply a per-example function to a whole data set, batch by batch, padding removed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from robustjax.types import Batch, Mask

PerExampleFn = Callable[[PRNGKeyArray, Batch], PyTree]  # keys (b,) and a batch -> arrays that lead with b


def over(fn: PerExampleFn, key: PRNGKeyArray, batches: Iterable[tuple[Batch, Mask]]) -> PyTree:
    """Collect `fn` over batches as numpy arrays that lead with the number of examples.

    Args:
      fn: a compiled function of one key per example and a batch; its arrays must lead with the batch.
      key: example i, counted over the whole data set, gets `fold_in(key, i)`, whatever the batch size.
      batches: (batch, mask) pairs; rows where the mask is false are padding.
    Raises:
      ValueError: if there is no batch.
    """
    rows, seen = [], 0
    waiting: Any = None
    for batch, mask in batches:
        size = mask.shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(seen, seen + size))
        now = fn(keys, batch), mask
        # Fetching the previous batch only now lets the device work on this one meanwhile.
        if waiting is not None:
            rows.append(_fetch(*waiting))
        waiting, seen = now, seen + size
    if waiting is None:
        raise ValueError("evaluation.over: no batch given, the data set is empty")
    rows.append(_fetch(*waiting))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


def _fetch(result: PyTree, mask: Mask) -> PyTree:
    keep = np.asarray(mask)
    return jax.tree.map(lambda a: np.asarray(a)[keep], result)
