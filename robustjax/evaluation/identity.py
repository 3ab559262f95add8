"""Which network a report is about: a hash of its parameters and what it answers, to be compared with another's.

A name, of a run, a file or a function, says too little: what it names may have changed since.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.evaluation.suite import as_floats
from robustjax.evaluation.suite_state import fingerprint
from robustjax.types import Network

PROBED = 32  # images that the network is asked about
TOLERANCE = 1e-2  # of the largest answer: what another machine, or bfloat16, may round to


def identity(
    network: Network, images: np.ndarray, index: np.ndarray, *, random: bool = False
) -> dict[str, Any]:
    """Describe a network by what it is, as plain data.

    Args:
      network: to be described.
      images: (n, h, w, c) floats, or bytes, that it may be asked about; some of them, evenly spread, are.
      index: (n,) their numbers in the data set.
      random: its answers are random, so that they say nothing.
    Returns:
      parameters: a hash of all its arrays, None of a plain function; probed: numbers of the images; answers: one
      number for each, a fixed combination of its logits.
    """
    leaves = jax.tree.leaves((network.params, network.state))
    found: dict[str, Any] = {
        "parameters": fingerprint(*leaves) if leaves else None,
        "probed": [],
        "answers": [],
    }
    if random:
        return found
    rows = np.unique(np.linspace(0, len(index) - 1, min(PROBED, len(index))).round().astype(int))
    logits = np.asarray(network.logits_fn(jnp.asarray(as_floats(images[rows]))), np.float64)
    mixed = (logits * np.cos(1 + np.arange(logits.shape[1]))).sum(axis=1)
    answers = [float(f"{a:.6g}") if np.isfinite(a) else None for a in mixed]
    return found | {"probed": [int(i) for i in index[rows]], "answers": answers}


def difference(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> str | None:
    """Say why two descriptions are not of one network; None if they may be, or if a report has no description."""
    if not first or not second:
        return None
    parameters = first.get("parameters"), second.get("parameters")
    if parameters[0] != parameters[1]:
        return "its parameters are others"
    one, other = (dict(zip(d["probed"], d["answers"], strict=True)) for d in (first, second))
    common = sorted(one.keys() & other.keys())
    pairs = np.array([[one[i], other[i]] for i in common], np.float64).reshape(-1, 2)
    if (np.isnan(pairs[:, 0]) != np.isnan(pairs[:, 1])).any():
        return "it gives NaN for other images"
    known = pairs[~np.isnan(pairs).any(axis=1)]
    apart = np.abs(known[:, 0] - known[:, 1])
    off = int((apart > TOLERANCE * np.abs(known).max(initial=0.0)).sum())
    return f"it answers otherwise for {off} of {len(common)} images" if off else None
