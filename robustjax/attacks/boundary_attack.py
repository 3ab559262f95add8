"""The boundary attack: a random walk along the decision boundary towards the image, by decisions alone."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from robustjax import checks
from robustjax.attacks.decision import (
    Asked,
    Segment,
    Strategy,
    along,
    asking,
    halved,
    middle,
    normal_noise,
    require_norm,
    uniform_in_box,
    whole,
)
from robustjax.attacks.minimum_norm import unit
from robustjax.attacks.solver import Solver, select
from robustjax.attacks.starts import Start
from robustjax.numerics import constant, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Mask, PerExample

SIDEWAYS_EVERY = 10  # queries, of which one asks about the sideways part of a proposal alone
FIRST_WAY = 2.0**-10  # what is left of the way to the first adversarial point when the walk begins
BLOCK_SIDEWAYS, BLOCK_PROPOSALS = 10, 30  # answers between two changes of the steps
CONVERGED = 1e-7


class _Rate(NamedTuple):
    """How often a kind of proposal was adversarial since the steps last changed."""

    wins: PerExample
    asked: PerExample


class _Walk(NamedTuple):
    halving: Bool[Array, "b"]
    segment: Segment
    best: Array
    sideways: PerExample  # length of a step on the sphere, as a share of the distance
    inwards: PerExample  # length of a step to the image, likewise
    on_sphere: _Rate
    proposed: _Rate
    turn: Int[Array, "b"]


def boundary_attack(
    threat: Threat,
    *,
    queries: int = 25_000,
    sideways: float = 0.01,
    inwards: float = 0.01,
    adaptation: float = 1.5,
    start: Start | None = None,
) -> Solver:
    """Step sideways on the sphere around the image, then towards it, and stay adversarial.

    Every tenth query asks about the step sideways alone. Where that is adversarial more than half of the time both
    steps grow, where less than a fifth of the time both shrink; the step inwards also grows where more than a
    quarter of whole proposals are adversarial, and shrinks below a tenth.

    Args:
      threat: l2 and box. Its radius decides only what counts as found.
      queries: how many points each example may ask about.
      sideways, inwards: first lengths, as shares of the distance.
      adaptation: factor by which lengths change.
      start: draws points until one is adversarial; by default uniform noise in the box.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere.
    Raises:
      ValueError: for another norm, numbers out of range, or an infinite box without `start`.

    Reference: Brendel, Rauber and Bethge 2018, arXiv:1712.04248. Rates are over blocks of 10 and 30 answers, which
      suits thousands of queries; sliding windows of 100 and 30 of every tenth answer, as in foolbox, hardly change in
      them. The first point is brought to the boundary by halving.
    """
    require_norm("boundary_attack", threat, "l2")
    checks.setting("boundary_attack", "sideways", sideways, above=0)
    checks.setting("boundary_attack", "inwards", inwards, above=0, below=1)
    checks.setting("boundary_attack", "adaptation", adaptation, above=1)
    start = start or uniform_in_box("boundary_attack", threat)

    def begin(x: Array) -> _Walk:
        zero = constant(x, 0.0)
        rate = _Rate(zero, zero)
        halving = constant(x, True, jnp.bool)
        return _Walk(
            halving, whole(x), x, zero + sideways, zero + inwards, rate, rate, constant(x, 0, jnp.int32)
        )

    def enter(box: Threat, state: Asked, point: Array) -> _Walk:
        del box
        return state.memory._replace(segment=whole(point))

    def ask(box: Threat, state: Asked, keys: Keys) -> Array:
        walk: _Walk = state.memory
        half = along("l2", state.origin, walk.segment.far, middle(walk.segment))
        delta = walk.best - state.origin
        away, distance = unit(delta), per_example(norm(delta, "l2"), delta)
        noise = normal_noise(keys, state.origin)
        noise -= per_example(_dot(noise, away), noise) * away
        stepped = away + per_example(walk.sideways, noise) * unit(noise)
        sphere = jnp.clip(state.origin + distance * unit(stepped), box.lower, box.upper)
        # The box may have brought it nearer already; the step inwards is what is missing.
        off = sphere - state.origin
        now = per_example(norm(off, "l2"), off)
        missing = jnp.maximum(per_example(walk.inwards, off) * distance + now - distance, 0.0)
        nearer = sphere - missing * unit(off)
        alone = walk.turn % SIDEWAYS_EVERY == SIDEWAYS_EVERY - 1
        return select(walk.halving, half, select(alone, sphere, nearer))

    def learn(box: Threat, state: Asked, point: Array, wins: Mask) -> _Walk:
        del box
        walk: _Walk = state.memory
        segment = halved(walk.segment, wins)
        arrived = segment.high - segment.low <= FIRST_WAY
        at = along("l2", state.origin, segment.far, segment.high)
        first = walk._replace(segment=segment, halving=~arrived, best=select(arrived, at, walk.best))
        return select(walk.halving, first, _after_proposal(walk, state.origin, point, wins, adaptation))

    return asking("boundary_attack", threat, Strategy(begin, ask, learn, enter), queries=queries, start=start)


def _after_proposal(walk: _Walk, origin: Array, point: Array, wins: Mask, adaptation: float) -> _Walk:
    alone = walk.turn % SIDEWAYS_EVERY == SIDEWAYS_EVERY - 1
    closer = norm(point - origin, "l2") < norm(walk.best - origin, "l2")
    best = select(wins & closer & ~alone, point, walk.best)
    on_sphere, both = _counted(walk.on_sphere, wins, alone, BLOCK_SIDEWAYS, (0.2, 0.5))
    proposed, one = _counted(walk.proposed, wins, ~alone, BLOCK_PROPOSALS, (0.1, 0.25))
    inwards = walk.inwards * adaptation ** (both + one)
    return walk._replace(
        best=best,
        sideways=walk.sideways * adaptation**both,
        inwards=jnp.clip(inwards, CONVERGED, 0.5),
        on_sphere=on_sphere,
        proposed=proposed,
        turn=walk.turn + 1,
    )


def _counted(
    rate: _Rate, wins: Mask, counts: Mask, block: int, between: tuple[float, float]
) -> tuple[_Rate, PerExample]:
    """Count an answer; at the end of a block say whether steps should grow (1), shrink (-1) or stay, and begin anew."""
    rate = _Rate(rate.wins + (wins & counts).astype(jnp.float32), rate.asked + counts.astype(jnp.float32))
    full, share = rate.asked >= block, rate.wins / jnp.maximum(rate.asked, 1.0)
    change = jnp.where(share > between[1], 1.0, jnp.where(share < between[0], -1.0, 0.0))
    kept = jnp.where(full, 0.0, 1.0)
    return _Rate(rate.wins * kept, rate.asked * kept), jnp.where(full, change, 0.0)


def _dot(a: Array, b: Array) -> PerExample:
    return (a * b).reshape(len(a), -1).sum(axis=1)
