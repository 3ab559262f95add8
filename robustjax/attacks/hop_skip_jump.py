"""HopSkipJump: the nearest adversarial point by decisions alone, from normals that random probes show."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.decision import (
    FINEST,
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
from robustjax.numerics import constant, divide, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Mask, PerExample

HALVE, PROBE, STEP = 0, 1, 2
SMALLEST_PROBE = 2.0**-17  # of the distance, per feature: below that float32 rounds probes away
GIVE_UP = 2.0**-16  # of the distance: a step that short has no effect


class _Probes(NamedTuple):
    """Sums over the probes around a point of the boundary; `signed` has the answers as signs."""

    noise: Array
    signed: Array
    wins: PerExample
    asked: Int[Array, "b"]


class _Hop(NamedTuple):
    phase: Int[Array, "b"]
    turn: Int[Array, "b"]  # from 1
    segment: Segment
    reach: PerExample  # distance of the far end of the last segment
    boundary: Array
    probes: _Probes
    way: Array
    length: PerExample


def hop_skip_jump(
    threat: Threat,
    *,
    queries: int = 5000,
    probes: int = 100,
    most_probes: int = 10_000,
    gamma: float = 1.0,
    start: Start | None = None,
) -> Solver:
    """Halve the way to an adversarial point, estimate the normal there, step along it, and begin again.

    Turn t asks about `probes sqrt(t)` points around the boundary, at distance delta; the answers' signs, less their
    mean, weigh the directions. The step along the sum (linf: its signs) begins at |d| / sqrt(t) and is halved until it
    ends at an adversarial point.

    Args:
      threat: norm (linf or l2) and box. Its radius decides only what counts as found.
      queries: how many points each example may ask about.
      probes: of the first turn.
      most_probes: of any turn.
      gamma: the way is halved until less than gamma / d^1.5 of it is left (l2; linf: gamma / d^2), d the features.
      start: draws points until one is adversarial; by default uniform noise in the box.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere.
    Raises:
      ValueError: for another norm, numbers out of range, or an infinite box without `start`.

    Reference: Chen, Jordan and Wainwright 2020, arXiv:1904.02144 (algorithm 2, geometric progression). Differences:
      what is left of a way is at least 2^-21 of it, and probes change a feature by at least 2^-17 of the distance,
      since float32 rounds smaller ones away; one search along the first way, not two; a step halved to 2^-16 of the
      distance is given up for new probes.
    """
    require_norm("hop_skip_jump", threat, "linf", "l2")
    checks.count("hop_skip_jump", "probes", probes)
    checks.count("hop_skip_jump", "most_probes", most_probes)
    checks.setting("hop_skip_jump", "gamma", gamma, above=0)
    start = start or uniform_in_box("hop_skip_jump", threat)
    kind: Literal["linf", "l2"] = "linf" if threat.norm == "linf" else "l2"

    def begin(x: Array) -> _Hop:
        none, zero, nothing = constant(x, 0, jnp.int32), constant(x, 0.0), jnp.zeros_like(x)
        sums = _Probes(nothing, nothing, zero, none)
        return _Hop(none + HALVE, none + 1, whole(x), zero, x, sums, nothing, zero)

    def enter(box: Threat, state: Asked, point: Array) -> _Hop:
        del box
        return _halving(state.memory, state.origin, point, kind)

    def delta(box: Threat, hop: _Hop) -> PerExample:
        """Choose how far from the boundary to ask."""
        size = hop.boundary[0].size
        upper, lower = (jnp.asarray(edge, hop.boundary.dtype) for edge in (box.upper, box.lower))
        tenth = jnp.broadcast_to(0.1 * (upper - lower), hop.boundary.shape)
        first = tenth.reshape(len(tenth), -1).mean(axis=1)
        first = jnp.where(jnp.isfinite(first), first, 0.1 * hop.reach)
        later = hop.reach * max(gamma / size, SMALLEST_PROBE * size**0.5)
        return jnp.where(hop.turn == 1, first, later)

    def ask(box: Threat, state: Asked, keys: Keys) -> Array:
        hop: _Hop = state.memory
        noise = unit(
            normal_noise(keys, state.origin)
            if kind == "l2"
            else jax.vmap(lambda key: jax.random.uniform(key, hop.way.shape[1:], hop.way.dtype, -1.0))(keys)
        )
        probe = hop.boundary + per_example(delta(box, hop), noise) * noise
        step = hop.boundary + per_example(hop.length, noise) * hop.way
        half = along(kind, state.origin, hop.segment.far, middle(hop.segment))
        return select(hop.phase == HALVE, half, select(hop.phase == PROBE, probe, step))

    def learn(box: Threat, state: Asked, point: Array, wins: Mask) -> _Hop:
        hop: _Hop = state.memory
        halve = _after_half(hop, state.origin, wins, kind, gamma)
        probe = _after_probe(hop, state.origin, point, wins, delta(box, hop), kind, (probes, most_probes))
        step = _after_step(hop, state.origin, point, wins, kind)
        return select(hop.phase == HALVE, halve, select(hop.phase == PROBE, probe, step))

    return asking("hop_skip_jump", threat, Strategy(begin, ask, learn, enter), queries=queries, start=start)


def _halving(hop: _Hop, origin: Array, far: Array, kind: Literal["linf", "l2"]) -> _Hop:
    return hop._replace(
        phase=jnp.full_like(hop.phase, HALVE), segment=whole(far), reach=norm(far - origin, kind)
    )


def _probing(hop: _Hop) -> _Hop:
    empty = jax.tree.map(jnp.zeros_like, hop.probes)
    return hop._replace(phase=jnp.full_like(hop.phase, PROBE), probes=empty)


def _after_half(hop: _Hop, origin: Array, wins: Mask, kind: Literal["linf", "l2"], gamma: float) -> _Hop:
    segment, size = halved(hop.segment, wins), origin[0].size
    left = gamma / size**1.5 if kind == "l2" else gamma / size**2
    # In linf the authors stop at theta or theta times the distance, whichever is less: of the way, at 1 or 1 / |d|.
    relative = left * (1.0 if kind == "l2" else jnp.minimum(1.0, divide(jnp.ones_like(hop.reach), hop.reach)))
    done = segment.high - segment.low <= jnp.maximum(relative, FINEST)
    hop = hop._replace(segment=segment)
    boundary = along(kind, origin, segment.far, segment.high)
    return select(done, _probing(hop._replace(boundary=boundary)), hop)


def _after_probe(
    hop: _Hop,
    origin: Array,
    point: Array,
    wins: Mask,
    delta: PerExample,
    kind: Literal["linf", "l2"],
    counts: tuple[int, int],
) -> _Hop:
    noise = (point - hop.boundary) / per_example(delta, point)  # what the box left of it
    sign = per_example(jnp.where(wins, 1.0, -1.0), point)
    probes = _Probes(
        hop.probes.noise + noise,
        hop.probes.signed + sign * noise,
        hop.probes.wins + wins.astype(jnp.float32),
        hop.probes.asked + 1,
    )
    hop, asked = hop._replace(probes=probes), probes.asked.astype(jnp.float32)
    mean = 2.0 * probes.wins / asked - 1.0
    agree = jnp.abs(mean) == 1.0  # then the mean is all there is
    normal = unit(probes.signed - per_example(jnp.where(agree, 0.0, mean), point) * probes.noise)
    way = jnp.sign(normal) if kind == "linf" else normal
    length = norm(hop.boundary - origin, kind) / jnp.sqrt(hop.turn.astype(jnp.float32))
    stepping = hop._replace(phase=jnp.full_like(hop.phase, STEP), way=way, length=length)
    wanted = jnp.minimum(jnp.floor(counts[0] * jnp.sqrt(hop.turn.astype(jnp.float32))), counts[1])
    return select(asked >= wanted, stepping, hop)


def _after_step(hop: _Hop, origin: Array, point: Array, wins: Mask, kind: Literal["linf", "l2"]) -> _Hop:
    following = hop._replace(turn=hop.turn + 1)
    landed = _halving(following, origin, point, kind)
    shorter = hop._replace(length=0.5 * hop.length)
    hopeless = shorter.length < GIVE_UP * norm(hop.boundary - origin, kind)
    return select(wins, landed, select(hopeless, _probing(following), shorter))
