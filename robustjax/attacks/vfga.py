"""VFGA: one pixel after the other, each by the best of a few folded normal draws up and down."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robustjax import checks, l0
from robustjax.attacks.gradient_ascent import evaluate
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.numerics import constant, fold, keys_for
from robustjax.threats import Threat
from robustjax.types import Found, Keys, PerExample


class Greedy(NamedTuple):
    """Where a search stands, one row per example: `x` has changed one more place than before."""

    key: Keys
    origin: Array
    x: Array
    found: Found
    step: Int[Array, "b"]


class Candidate(NamedTuple):
    """A point that was asked about."""

    x: Array
    value: PerExample
    merit: PerExample


def vfga(threat: Threat, *, steps: int = 100, samples: int = 10) -> Solver:
    """Change one pixel at a time, until one point is of positive merit.

    At each step the gradient names the untouched place with most to gain on the way to the upper edge of the box, and
    the one with most to gain on the way to the lower edge. Both are moved by |t| of that way, t normal, `samples`
    times; the best point is kept.

    Args:
      threat: l0 norm and a finite box. It stops at its radius.
      steps: places to change at most, each by one gradient and 2 `samples` forward passes.
      samples: draws of each move.
    Returns:
      A solver whose result is the first point of positive merit, where there is one within the radius, and the point
      of highest merit elsewhere. Its merit must be `signed`.
    Raises:
      ValueError: if the norm is not l0, the box is infinite, or steps or samples is less than 1.

    Reference: Hajri et al. 2020, arXiv:2011.12423. The paper counts features. Where pixels count, all channels move
      together, each by its own draw; a third candidate, for `samples` more passes, moves every channel to where it
      gains.
    """
    checks.threat("vfga", threat, l0=True)
    if threat.norm != "l0":
        raise ValueError(f"vfga: norm is {threat.norm!r}, must be 'l0'")
    checks.count("vfga", "steps", steps)
    checks.count("vfga", "samples", samples)
    checks.finite_box("vfga", threat.lower, threat.upper)

    def init(key: Keys, x: Array) -> Greedy:
        x = entered("vfga", threat, x)
        return Greedy(keys_for(key, len(x)), x, x, nothing_yet(x), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Greedy, count: Count) -> Greedy:
        def move(state: Greedy) -> Greedy:
            _, merit, grad = evaluate(objective, state.x)
            found = better(state.found, Found(state.x, merit))
            touched = l0.changed(state.x, state.origin, threat.channels)
            full = threat.distance(state.x, state.origin) >= jnp.floor(constant(state.x, threat.eps))
            rests = (merit > 0) | full | touched.all(axis=1)

            box = (jnp.asarray(edge, grad.dtype) for edge in (threat.upper, threat.lower))
            edges = [jnp.broadcast_to(edge, grad.shape) for edge in box]
            if l0.width(grad.shape, threat.channels) > 1:
                edges.append(jnp.where(grad > 0, *edges))
            ways = [_way(edge - state.x, grad, touched, threat.channels) for edge in edges]
            keys = jax.vmap(jax.random.fold_in)(state.key, state.step)

            def ask(i: Array, best: Candidate) -> Candidate:
                draw = jax.vmap(lambda k: jax.random.normal(k, grad.shape[1:], grad.dtype))(fold(keys, i))
                way = jax.lax.dynamic_index_in_dim(jnp.stack(ways), i // samples, keepdims=False)
                x = jnp.clip(state.x + jnp.abs(draw) * way, threat.lower, threat.upper)
                here = Candidate(x, *objective(x))
                ahead = here.merit > 0, best.merit > 0
                wins = jnp.where(ahead[0] == ahead[1], here.value > best.value, ahead[0])
                return select(wins, here, best)

            none = constant(state.x, -jnp.inf)
            best = jax.lax.fori_loop(0, len(ways) * samples, ask, Candidate(state.x, none, none))
            found = select(rests, found, better(found, Found(best.x, best.merit)))
            return state._replace(x=select(rests, state.x, best.x), found=found)

        return repeat(move, state, count, steps)

    return Solver(init, advance, lambda state: state.found, steps, "vfga", "signed merit")


def _way(way: Array, grad: Array, touched: Bool[Array, "b m"], channels: int | None) -> Array:
    """Keep the way of the one untouched place that gains most along it."""
    gain = l0.units(grad * way, channels).sum(axis=2)
    gain = jnp.where(touched, -jnp.inf, gain)
    chosen = jnp.arange(gain.shape[1])[None] == gain.argmax(axis=1)[:, None]
    return jnp.where(l0.spread(chosen, way), way, 0.0)
