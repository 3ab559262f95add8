"""GeoDA: a hyperplane for the boundary, its normal from decisions about noisy copies of one of its points."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.decision import (
    FINEST,
    Asked,
    Segment,
    Strategy,
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

HALVE, PROBE, REACH = 0, 1, 2
LONGEST = 20  # trials of a length along the normal
LONGER = 1.2


class _Plane(NamedTuple):
    phase: Int[Array, "b"]
    turn: Int[Array, "b"]
    tally: Int[Array, "b"]
    segment: Segment
    boundary: Array
    normal: Array  # sum over all probes so far
    length: PerExample


def geoda(
    threat: Threat,
    *,
    queries: int = 4000,
    sigma: float = 0.002,
    ratio: float = 0.6,
    tolerance: float = 1e-4,
    start: Start | None = None,
) -> Solver:
    """Estimate the normal at a point of the boundary, follow it from the image until the boundary, and begin again.

    Noisy copies of the point vote: the mean of the noise, signed by the answers, over all turns, is the normal. In linf
    its signs are followed. Later turns get more queries, each by `ratio^(-2/3)` times the one before.

    Args:
      threat: norm (linf or l2) and box. Its radius decides only what counts as found.
      queries: how many points each example may ask about.
      sigma: of the noise, in the units of x.
      ratio: by how much the distance is thought to fall each turn, in (0, 1).
      tolerance: what may be left of a way when halving ends, in l2 and the units of x.
      start: draws points until one is adversarial; by default uniform noise in the box.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere.
    Raises:
      ValueError: for another norm, numbers out of range, or an infinite box without `start`.

    Reference: Rahmati et al. 2020, arXiv:2003.06468 (algorithm 1). As in the authors' code 25 queries of each turn are
      set aside for its two searches, and there is one turn for 500 queries, here three at least. Noise is drawn in all
      features, not in low frequencies. From the image the authors step by a fixed length; here the first length is
      the distance so far, then 1.2 times that and so on.
    """
    require_norm("geoda", threat, "linf", "l2")
    checks.setting("geoda", "sigma", sigma, above=0)
    checks.setting("geoda", "ratio", ratio, above=0, below=1)
    checks.setting("geoda", "tolerance", tolerance, above=0)
    start = start or uniform_in_box("geoda", threat)
    kind: Literal["linf", "l2"] = "linf" if threat.norm == "linf" else "l2"
    allotted = np.asarray(shares(queries, ratio), np.int32)

    def begin(x: Array) -> _Plane:
        none, nothing = constant(x, 0, jnp.int32), jnp.zeros_like(x)
        return _Plane(none + HALVE, none - 1, none, whole(x), x, nothing, constant(x, 0.0))

    def enter(box: Threat, state: Asked, point: Array) -> _Plane:
        del box
        return state.memory._replace(segment=whole(point))

    def followed(plane: _Plane) -> Array:
        return jnp.sign(plane.normal) if kind == "linf" else unit(plane.normal)

    def ask(box: Threat, state: Asked, keys: Keys) -> Array:
        del box
        plane: _Plane = state.memory
        half = state.origin + per_example(middle(plane.segment), state.origin) * (
            plane.segment.far - state.origin
        )
        probe = plane.boundary + sigma * normal_noise(keys, state.origin)
        reach = state.origin + per_example(plane.length, state.origin) * followed(plane)
        return select(plane.phase == HALVE, half, select(plane.phase == PROBE, probe, reach))

    def learn(box: Threat, state: Asked, point: Array, wins: Mask) -> _Plane:
        del box
        plane: _Plane = state.memory
        # After halving: the next turn, with as many probes as are allotted to it.
        segment = halved(plane.segment, wins)
        long = norm(segment.far - state.origin, "l2")
        done = (segment.high - segment.low) <= jnp.maximum(tolerance / jnp.maximum(long, tolerance), FINEST)
        at = state.origin + per_example(segment.high, point) * (segment.far - state.origin)
        probing = plane._replace(
            phase=jnp.full_like(plane.phase, PROBE),
            turn=plane.turn + 1,
            tally=jnp.zeros_like(plane.tally),
            segment=segment,
            boundary=at,
        )
        halve = select(done, probing, plane._replace(segment=segment))
        # After a probe.
        sign = per_example(jnp.where(wins, 1.0, -1.0), point)
        asked = plane._replace(normal=plane.normal + sign * (point - plane.boundary), tally=plane.tally + 1)
        reaching = asked._replace(
            phase=jnp.full_like(plane.phase, REACH),
            tally=jnp.zeros_like(plane.tally),
            length=norm(plane.boundary - state.origin, kind),
        )
        wanted = jnp.asarray(allotted)[jnp.minimum(plane.turn, len(allotted) - 1)]
        probe = select(asked.tally >= wanted, reaching, asked)
        # After a trial along the normal: halve the way to it, or go further, or probe again.
        landed = plane._replace(phase=jnp.full_like(plane.phase, HALVE), segment=whole(point))
        further = plane._replace(length=LONGER * plane.length, tally=plane.tally + 1)
        again = plane._replace(phase=jnp.full_like(plane.phase, PROBE), tally=jnp.zeros_like(plane.tally))
        reach = select(wins, landed, select(further.tally >= LONGEST, again, further))
        return select(plane.phase == HALVE, halve, select(plane.phase == PROBE, probe, reach))

    return asking("geoda", threat, Strategy(begin, ask, learn, enter), queries=queries, start=start)


def shares(queries: int, ratio: float) -> list[int]:
    """Allot queries to turns: one for 500, three at least, each with ratio^(-2/3) times the probes of the last."""
    turns = max(3, round(queries / 500))
    weight = ratio ** (-2.0 / 3.0 * np.arange(turns))
    spare = max(queries - 25 * turns, turns)
    return [max(1, round(spare * share)) for share in weight / weight.sum()]
