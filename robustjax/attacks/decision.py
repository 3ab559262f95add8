"""Searches that see decisions only: whether a point is adversarial, never by how much.

Every row of the batch asks one query per iteration, whatever it is busy with: looking for a first adversarial point,
halving a segment, estimating a normal of the boundary. So one compiled program makes exactly the queries allowed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from robustjax import checks
from robustjax.attacks.flatten import flat_box, flattened
from robustjax.attacks.minimum_norm import Kept, answer, keep, nobody
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, entered, repeat, select
from robustjax.attacks.starts import Start
from robustjax.numerics import Norm, constant, fold, keys_for, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Mask, PerExample

# The shortest piece of a segment that float32 resolves with something to spare, as a share of the segment.
FINEST = 2.0**-21


class Asked(NamedTuple):
    """Where a search stands, one row per example.

    Attributes:
      key: one per example.
      origin: the examples.
      begun: whether an adversarial point is known to begin at.
      kept: the nearest adversarial point and the one of highest merit within the threat, so far.
      memory: what the strategy keeps.
      step: queries made.
    """

    key: Keys
    origin: Array
    begun: Bool[Array, "b"]
    kept: Kept
    memory: Any
    step: Int[Array, "b"]


class Strategy(NamedTuple):
    """What to ask, and what to make of the answer.

    `begin(origin)` makes the memory; `enter(threat, state, point)` the memory with the first adversarial point, where
    the search needs one; `ask(threat, state, keys)` gives the next point, which is clipped to the box;
    `learn(threat, state, point, adversarial)` the memory after the answer.
    """

    begin: Callable[[Array], Any]
    ask: Callable[[Threat, Asked, Keys], Array]
    learn: Callable[[Threat, Asked, Array, Mask], Any]
    enter: Callable[[Threat, Asked, Array], Any] | None = None


def asking(
    name: str, threat: Threat, strategy: Strategy, *, queries: int, start: Start | None = None
) -> Solver:
    """Make a solver of a strategy.

    The last query is for the projection of the nearest adversarial point onto the threat: where that point is too
    far away, this is the strongest to return.

    Args:
      name: of the search, for errors.
      threat: norm and box. Its radius decides only what counts as found.
      strategy: what to ask.
      queries: how many points each example may ask about.
      start: draws points until one is adversarial, where the strategy needs one to begin with.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere. It uses the sign of the merit alone.
    Raises:
      ValueError: if queries is less than 2.
    """
    checks.threat(name, threat)
    checks.count(name, "queries", queries, least=2)

    def init(key: Keys, x: Array) -> Asked:
        x = entered(name, threat, x)
        begun, step = constant(x, False, jnp.bool), constant(x, 0, jnp.int32)
        return Asked(keys_for(key, len(x)), x, begun, nobody(x), strategy.begin(x), step)

    def advance(objective: ValueAndMerit, state: Asked, count: Count) -> Asked:
        shape, box = state.origin.shape, flat_box(threat, state.origin)

        def move(state: Asked) -> Asked:
            keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
            x = strategy.ask(box, state, keys)
            if start is not None:
                first = start(fold(keys, 1), state.origin.reshape(shape))
                x = select(state.begun, x, first.reshape(x.shape))
            outermost = select(jnp.isfinite(state.kept.distance), state.kept.nearest.x, state.origin)
            at_last = box.project(outermost, state.origin)
            x = select(state.step == queries - 1, at_last, jnp.clip(x, box.lower, box.upper))

            merit = objective(x.reshape(shape))[1]
            wins = merit > 0
            memory = strategy.learn(box, state, x, wins)
            if strategy.enter is not None:
                first = select(wins, strategy.enter(box, state, x), state.memory)
                memory = select(state.begun, memory, first)
            kept = keep(box, state.origin, state.kept, x, merit)
            return state._replace(begun=state.begun | wins, kept=kept, memory=memory)

        rows, back = flattened(state, shape)
        return back(repeat(move, rows, count, queries))

    return Solver(init, advance, lambda state: answer(state.kept), queries, name)


def uniform_in_box(name: str, threat: Threat) -> Start:
    """Draw images of noise, uniform in the box.

    Raises:
      ValueError: if the box is not finite.
    """
    require_box(name, threat, hint="; or give the start")

    def start(keys: Keys, x: Array) -> Array:
        lower, upper = jnp.asarray(threat.lower, x.dtype), jnp.asarray(threat.upper, x.dtype)
        draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype))
        return lower + (upper - lower) * draw(keys)

    return start


def require_box(name: str, threat: Threat, *, hint: str = "") -> None:
    """Refuse a threat without a box.

    Raises:
      ValueError: if an edge is known to be infinite.
    """
    for edge in (checks.known(threat.lower), checks.known(threat.upper)):
        if edge is not None and not np.isfinite(edge).all():
            raise ValueError(
                f"{name}: the box is [{threat.lower}, {threat.upper}], must be finite: random images are drawn in "
                f"it{hint}"
            )


def require_norm(name: str, threat: Threat, *kinds: Norm) -> None:
    """Refuse a norm that a search was not made for.

    Raises:
      ValueError: for another norm.
    """
    if threat.norm not in kinds:
        raise ValueError(
            f"{name}: norm is {threat.norm!r}, must be {' or '.join(repr(kind) for kind in kinds)}"
        )


class Segment(NamedTuple):
    """A way from the origin to an adversarial point, halved until its crossing of the boundary is known.

    Attributes:
      far: (b, ...) the adversarial end.
      low, high: (b,) shares of the way; adversarial at `high`, not so at `low`.
    """

    far: Array
    low: PerExample
    high: PerExample


def whole(far: Array) -> Segment:
    """Begin with the whole way."""
    return Segment(far, constant(far, 0.0), constant(far, 1.0))


def middle(segment: Segment) -> PerExample:
    """Choose the share to ask about."""
    return 0.5 * (segment.low + segment.high)


def halved(segment: Segment, wins: Mask) -> Segment:
    """Keep the half that the boundary crosses, by the answer in the middle."""
    here = middle(segment)
    return segment._replace(low=jnp.where(wins, segment.low, here), high=jnp.where(wins, here, segment.high))


def along(kind: Norm, origin: Array, far: Array, share: PerExample) -> Array:
    """Go a share of the way from the origin to a point: straight, in linf by clipping to a smaller ball."""
    share = per_example(share, far)
    if kind == "linf":
        reach = share * per_example(norm(far - origin, "linf"), far)
        return jnp.clip(far, origin - reach, origin + reach)
    return origin + share * (far - origin)


def normal_noise(keys: Keys, like: Array) -> Array:
    """Draw standard normal noise for each example, by its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
