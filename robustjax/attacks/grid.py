"""Exhaustive search of a low-dimensional box, and a search that goes on from what another one found."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    check_finite,
    entered,
    nothing_yet,
    repeat,
)
from robustjax.attacks.starts import Start
from robustjax.numerics import constant, fold, keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Attack, Found, Keys, Labels, LogitsFn


class Visit(NamedTuple):
    """Where a search of a grid stands, one row per example."""

    origin: Array
    low: Array
    high: Array
    found: Found
    step: Int[Array, "b"]


def grid(threat: Threat, *, counts: Sequence[int]) -> Solver:
    """Try the origin, then every point of a regular grid over the linf ball inside its box.

    Feature j takes counts[j] values at equal distances, both ends included; a single one is the middle. The
    last feature changes fastest.

    Args:
      threat: an linf ball of finite radius around vectors (b, d).
      counts: values of each of the d features, all at least 1.
    Returns:
      An ascent that can also be driven in segments: prod(counts) + 1 forward passes, no gradients, nothing
      random. Its result is never worse than the origin.
    Raises:
      ValueError: if the norm is not linf, the radius is infinite, or counts is empty or has one below 1.

    Reference: Engstrom et al. 2019, arXiv:1712.02779, who take 5 x 5 translations and 31 rotations. The
      origin counts as a point too.
    """
    if threat.norm != "linf":
        raise ValueError(f"grid: norm is {threat.norm!r}, must be 'linf', whose balls are boxes")
    check_finite("grid", threat)
    if not counts or min(counts) < 1:
        raise ValueError(
            f"grid: counts is {tuple(counts)}, must hold one number per feature, each at least 1"
        )
    axes = [np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5]) for n in counts]
    shares = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1).astype(np.float32)
    total = math.prod(counts) + 1

    def init(key: Keys, x: Array) -> Visit:
        del key
        x = entered("grid", threat, x)
        if x.shape[1:] != (len(counts),):
            raise ValueError(
                f"grid: x has shape {x.shape}, must be (b, {len(counts)}), one feature per count"
            )
        eps = per_example(threat.eps, x)
        low, high = (threat.project(x + side * eps, x) for side in (-1.0, 1.0))
        return Visit(x, low, high, nothing_yet(threat.project(x, x)), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Visit, count: Count) -> Visit:
        def move(state: Visit) -> Visit:
            share = jnp.asarray(shares, state.origin.dtype)[jnp.maximum(state.step - 1, 0)]
            point = (1.0 - share) * state.low + share * state.high
            point = jnp.where(per_example(state.step == 0, point), state.origin, point)
            # Weighted sums of the two ends may leave the box by a rounding error.
            point = threat.project(point, state.origin)
            return state._replace(found=better(state.found, Found(point, objective(point)[1])))

        return repeat(move, state, count, total)

    return Solver(init, advance, lambda state: state.found, total, "grid")


def refined(first: Attack, then: Callable[[Start], Attack]) -> Attack:
    """Start one attack where another one ended, and keep the better of the two results per example.

    Args:
      first: a coarse search, such as `as_attack(grid(threat, counts=...))`; it sees each example's key folded
        with 0.
      then: builds the second attack from its start, such as
        `lambda start: as_attack(apgd(threat, steps=20, start=start))`; it sees each key folded with 1. Both
        must give values of one kind, as margins.
    """

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        checks.array("refined", x)
        keys = keys_for(key, x.shape[0])
        found = first(fold(keys, 0), logits_fn, x, y)
        second = then(lambda key, x: found.x)
        return jax.lax.stop_gradient(better(found, second(fold(keys, 1), logits_fn, x, y)))

    return attack
