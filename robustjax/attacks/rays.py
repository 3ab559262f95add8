"""RayS: the shortest ray to an adversarial point in linf, over vectors of signs and by decisions alone."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robustjax import checks
from robustjax.attacks.decision import Asked, Strategy, asking, require_box, require_norm
from robustjax.attacks.solver import Solver, select
from robustjax.numerics import constant, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Mask, PerExample


class _Rays(NamedTuple):
    sign: Array  # of the shortest ray
    radius: PerExample  # of its adversarial end; inf before any
    halving: Bool[Array, "b"]
    low: PerExample
    high: PerExample
    level: Int[Array, "b"]
    block: Int[Array, "b"]


def rays(threat: Threat, *, queries: int = 10_000, tolerance: float | None = None) -> Solver:
    """Flip the signs of one block of features at a time, smaller and smaller ones, and keep what shortens the ray.

    A flip costs one query, at the shortest length so far; only where that is adversarial the new ray is halved down to
    its own length. Without random numbers.

    Args:
      threat: linf and a finite box. Its radius decides only what counts as found.
      queries: how many points each example may ask about.
      tolerance: what may be left of a ray when halving ends, in the units of x; by default 0.001 / sqrt(d), as
        published, d the features.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere.
    Raises:
      ValueError: for another norm, an infinite box, or numbers out of range.

    Reference: Chen and Gu 2020, arXiv:2006.12792 (algorithm 3). Blocks follow our order of features, channels last, not
      channels first. Blocks of one feature are gone through again and again.
    """
    require_norm("rays", threat, "linf")
    require_box("rays", threat)
    if tolerance is not None:
        checks.setting("rays", "tolerance", tolerance, above=0)

    def begin(x: Array) -> _Rays:
        none = constant(x, 0, jnp.int32)
        far = constant(x, jnp.inf)
        return _Rays(jnp.ones_like(x), far, constant(x, False, jnp.bool), constant(x, 0.0), far, none, none)

    def ask(box: Threat, state: Asked, keys: Keys) -> Array:
        del keys
        memory: _Rays = state.memory
        length = jnp.where(memory.halving, 0.5 * (memory.low + memory.high), memory.radius)
        point = state.origin + per_example(length, state.origin) * _flipped(memory)
        return jnp.clip(point, box.lower, box.upper)

    def learn(box: Threat, state: Asked, point: Array, wins: Mask) -> _Rays:
        del point
        memory: _Rays = state.memory
        size = state.origin[0].size
        width = jnp.max(jnp.asarray(box.upper) - jnp.asarray(box.lower)).astype(jnp.float32)
        begun = memory._replace(
            halving=jnp.ones_like(memory.halving),
            low=jnp.zeros_like(memory.low),
            high=jnp.minimum(memory.radius, width),
        )
        tried = select(wins, begun, _next_block(memory, size))
        here = 0.5 * (memory.low + memory.high)
        low, high = jnp.where(wins, memory.low, here), jnp.where(wins, here, memory.high)
        done = high - low <= (tolerance if tolerance is not None else 1e-3 / math.sqrt(size))
        shorter = done & (high < memory.radius)
        settled = memory._replace(
            sign=select(shorter, _flipped(memory), memory.sign),
            radius=jnp.where(shorter, high, memory.radius),
            halving=jnp.zeros_like(memory.halving),
        )
        halved = select(done, _next_block(settled, size), memory._replace(low=low, high=high))
        return select(memory.halving, halved, tried)

    return asking("rays", threat, Strategy(begin, ask, learn), queries=queries)


def _side(level: Int[Array, "b"], size: int) -> Int[Array, "b"]:
    """Count the features in a block of a level."""
    return -(-size // (jnp.int32(1) << level))


def _flipped(memory: _Rays) -> Array:
    size = memory.sign[0].size
    side = _side(memory.level, size)[:, None]
    feature = jnp.arange(size)[None, :] - memory.block[:, None] * side
    inside = ((feature >= 0) & (feature < side)).reshape(memory.sign.shape)
    return jnp.where(inside, -memory.sign, memory.sign)


def _next_block(memory: _Rays, size: int) -> _Rays:
    side = _side(memory.level, size)
    block = memory.block + 1
    last = block * side >= size
    finest = math.ceil(math.log2(size)) if size > 1 else 0
    return memory._replace(
        block=jnp.where(last, 0, block), level=jnp.minimum(memory.level + last.astype(jnp.int32), finest)
    )
