"""What searches for the nearest point of positive merit share: what they keep, and the loop around a rule."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robustjax import logit
from robustjax.attacks.gradient_ascent import evaluate
from robustjax.attacks.solver import (
    Count,
    OfLogits,
    Solver,
    ValueAndMerit,
    better,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import TINY, Norm, constant, divide, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Number, PerExample

DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
Look = Callable[[ValueAndMerit, Array], tuple[PerExample, PerExample, Array]]  # -> value, merit, gradient


class Kept(NamedTuple):
    """What a search has met, one row per example.

    `nearest` is the nearest point of positive merit, at `distance` (inf for none), however far, and `within` says
    whether the threat allows it; `found` is the point of highest merit within the radius.
    """

    nearest: Found
    distance: PerExample
    within: Bool[Array, "b"]
    found: Found


class Hunt(NamedTuple):
    """Where a search stands, one row per example: `x` is looked at next."""

    origin: Array
    x: Array
    kept: Kept
    step: Int[Array, "b"]
    memory: Any  # what the rule keeps


class Linearisation(NamedTuple):
    """What one gradient at a point shows."""

    value: PerExample
    merit: PerExample
    grad: Array


class Rule(NamedTuple):
    """How to go on.

    `begin(first, origin)` sets the memory, `follow(state, here)` gives the next point, inside the box, and the
    memory there. The state it sees has kept what is in here.
    """

    begin: Callable[[Array, Array], Any]
    follow: Callable[[Hunt, Linearisation], tuple[Array, Any]]


def hunt(
    name: str,
    threat: Threat,
    rule: Rule,
    *,
    steps: int,
    loss: OfLogits = logit.margin,
    needs: Literal["signed merit", "signed value"] = "signed value",
    start: Start = at_origin,
    look: Look = evaluate,
    above: Number = 0.0,
) -> Solver:
    """Follow a rule from point to point and keep the nearest one of positive merit.

    After its steps it looks once more, at the projection of what it found nearest onto the threat: where that
    was too far, this is the strongest point to return.

    Args:
      name: of the search, for errors.
      threat: norm and box. Its radius decides only what counts as found; with eps = inf, everything does.
      rule: where to go.
      steps: how often to ask the rule, each time after one gradient.
      loss, needs: as in `Solver`.
      start: the first point, projected.
      look: how to evaluate an objective, such as `facing`.
      above: the merit that a point must exceed to be the nearest.
    Returns:
      A solver whose result is the nearest point, where there is one within the radius, and the point of highest
      merit within the radius elsewhere.
    """

    def init(key: Keys, x: Array) -> Hunt:
        x = entered(name, threat, x)
        first = threat.project(start(key, x).astype(x.dtype), x)
        return Hunt(x, first, nobody(first), constant(x, 0, jnp.int32), rule.begin(first, x))

    def advance(objective: ValueAndMerit, state: Hunt, count: Count) -> Hunt:
        def move(state: Hunt) -> Hunt:
            outermost = select(jnp.isfinite(state.kept.distance), state.kept.nearest.x, state.x)
            x = select(state.step == steps, threat.project(outermost, state.origin), state.x)
            here = Linearisation(*look(objective, x))
            state = state._replace(x=x, kept=keep(threat, state.origin, state.kept, x, here.merit, above))
            x, memory = rule.follow(state, here)
            return state._replace(x=x, memory=memory)

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: answer(state.kept), steps + 1, name, needs, loss)


def nobody(first: Array) -> Kept:
    """Hold the feasible first point before anything was looked at."""
    return Kept(
        nothing_yet(first), constant(first, jnp.inf), constant(first, False, jnp.bool), nothing_yet(first)
    )


def keep(threat: Threat, origin: Array, kept: Kept, x: Array, merit: PerExample, above: Number = 0.0) -> Kept:
    """Keep a point that was looked at: if it is the nearest whose merit exceeds `above`, or the strongest allowed."""
    here, distance = Found(x, merit), threat.distance(x, origin)
    closer, allowed = (merit > above) & (distance < kept.distance), threat.contains(x, origin)
    return Kept(
        select(closer, here, kept.nearest),
        jnp.where(closer, distance, kept.distance),
        jnp.where(closer, allowed, kept.within),
        select(allowed, better(kept.found, here), kept.found),
    )


def answer(kept: Kept) -> Found:
    """Give the nearest point where it is within the radius, elsewhere the strongest one that is."""
    return select(kept.within, kept.nearest, kept.found)


def facing(kind: Norm) -> Look:
    """Look at the boundary that seems nearest among several: that of the smallest |value| / |gradient|_dual.

    The objective may have several values per example, (b, m), at the price of m gradients, or one, (b,).
    """

    def look(objective: ValueAndMerit, x: Array) -> tuple[PerExample, PerExample, Array]:
        values, pull, merit = jax.vjp(objective, x, has_aux=True)
        many = values if values.ndim == 2 else values[:, None]

        def consider(j, best):
            # Made from the values so that under shard_map it varies over the same mesh axes.
            chosen = jnp.where(jnp.arange(many.shape[1]) == j, jnp.ones_like(many), 0.0)
            (slope,) = pull(chosen.reshape(values.shape))
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            size = norm(slope, DUAL[kind])
            ratio = jnp.where(size > TINY, jnp.abs(many[:, j]) / jnp.maximum(size, TINY), jnp.inf)
            return select(ratio < best[0], (ratio, many[:, j], slope), best)

        none = (constant(x, jnp.inf), constant(x, 0.0), jnp.zeros_like(x))
        if many.shape[1] == 1:
            _, value, slope = consider(0, none)
        else:
            _, value, slope = jax.lax.fori_loop(0, many.shape[1], consider, none)
        return value, merit, slope

    return look


def unit(v: Array) -> Array:
    """Scale every example to length 1 in l2; zero stays zero."""
    return divide(v, per_example(norm(v, "l2"), v))


def annealed(step: Int[Array, "b"], steps: int, first: Number, last: Number) -> PerExample:
    """Go from `first` to `last` along half a cosine."""
    done = step.astype(jnp.float32) / steps
    return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
