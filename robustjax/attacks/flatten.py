"""Search states whose examples are flat rows: vector code on a CPU, many times as fast as (b, h, w, c)."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import l0
from robustjax.threats import Region, Threat

S = TypeVar("S")
R = TypeVar("R", bound=Region)


def flattened(state: S, shape: tuple[int, ...]) -> tuple[S, Callable[[S], S]]:
    """Lay out every leaf that has the `shape` of the examples, (b, ...), as rows (b, d).

    Returns:
      The state with such rows, and what undoes it to a state of the same structure.
    """
    leaves, structure = jax.tree.flatten(state)
    alike = [leaf.shape == shape and len(shape) > 2 for leaf in leaves]

    def back(state: S) -> S:
        found = zip(jax.tree.leaves(state), alike, strict=True)
        return structure.unflatten([leaf.reshape(shape) if one else leaf for leaf, one in found])

    flat = [leaf.reshape(len(leaf), -1) if one else leaf for leaf, one in zip(leaves, alike, strict=True)]
    return structure.unflatten(flat), back


def flat_box(threat: R, like: Array) -> R:
    """Lay out the box of a threat for the flat rows of `like` (b, ...)."""

    def flat(edge: float | Array) -> float | Array:
        if jnp.ndim(edge) == 0 or like.ndim <= 2:
            return edge
        whole = jnp.broadcast_to(edge, like.shape if jnp.ndim(edge) == like.ndim else like.shape[1:])
        return whole.reshape(len(like), -1) if jnp.ndim(edge) == like.ndim else whole.reshape(-1)

    edges: dict[str, Any] = {"lower": flat(threat.lower), "upper": flat(threat.upper)}
    if isinstance(threat, Threat) and threat.norm == "l0":
        edges["channels"] = l0.width(like.shape, threat.channels)  # flat rows do not show pixels
    return dataclasses.replace(threat, **edges)
