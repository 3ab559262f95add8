"""Sign-OPT: descend the distance to the boundary along a direction, by the signs of its changes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.decision import FINEST, Asked, Strategy, asking, normal_noise, require_norm
from robustjax.attacks.minimum_norm import unit
from robustjax.attacks.solver import Solver, select
from robustjax.numerics import constant, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Keys, Mask, PerExample

# Looking for a direction, along it, probing its surroundings, and three parts of a search along a new one.
LOOK, MEASURE, PROBE, TRY, SHORTEN, HALVE = range(6)
LONGEST = 15  # trials of a step size, upwards and then downwards


class _Descent(NamedTuple):
    phase: Int[Array, "b"]
    tally: Int[Array, "b"]  # what is counted in the phase: directions, probes or trials
    way: Array  # unit direction at which the turn began
    length: PerExample  # distance to the boundary along it; inf before any
    best: Array  # the best direction of the turn
    best_length: PerExample
    trial: Array
    low: PerExample
    high: PerExample
    slope: Array
    step: PerExample  # size of a step
    downwards: PerExample  # 1 while step sizes are tried downwards
    width: PerExample  # how far a probe is from the direction


def sign_opt(
    threat: Threat,
    *,
    queries: int = 20_000,
    directions: int = 100,
    probes: int = 200,
    step_size: float = 0.2,
    width: float = 0.001,
) -> Solver:
    """Minimise g(w), the distance to the boundary along w, over unit directions w.

    One query shows the sign of g(w + h u) - g(w), for random unit u; the mean of u times that sign over `probes`
    queries stands for the gradient. Step sizes are doubled while g falls, or else divided by four.

    Args:
      threat: l2 and box. Its radius decides only what counts as found.
      queries: how many points each example may ask about.
      directions: random ones to choose the first from.
      probes: queries for one gradient.
      step_size: the first.
      width: h, the first.
    Returns:
      A solver of one query per iteration, whose result is the nearest adversarial point where there is one within the
      radius, and the point of highest merit met within the radius elsewhere.
    Raises:
      ValueError: for another norm, or numbers out of range.

    Reference: Cheng et al. 2020, arXiv:1909.10773 (algorithm 1, and the line search of the authors' code). Points are
      clipped to the box. A step that is not adversarial at the shortest distance so far counts as failed at once; the
      authors go on to measure how far its boundary is, which changes nothing. Directions are looked for until one is
      adversarial, then up to `directions`.
    """
    require_norm("sign_opt", threat, "l2")
    checks.count("sign_opt", "directions", directions)
    checks.count("sign_opt", "probes", probes)
    checks.setting("sign_opt", "step_size", step_size, above=0)
    checks.setting("sign_opt", "width", width, above=0)

    def begin(x: Array) -> _Descent:
        none, zero, far, nothing = (
            constant(x, 0, jnp.int32),
            constant(x, 0.0),
            constant(x, jnp.inf),
            jnp.zeros_like(x),
        )
        return _Descent(
            phase=none + LOOK,
            tally=none,
            way=nothing,
            length=far,
            best=nothing,
            best_length=far,
            trial=nothing,
            low=zero,
            high=zero,
            slope=nothing,
            step=zero + step_size,
            downwards=zero,
            width=zero + width,
        )

    def ask(box: Threat, state: Asked, keys: Keys) -> Array:
        del box
        now: _Descent = state.memory
        noise = normal_noise(keys, state.origin)
        raw = norm(noise, "l2")
        around = unit(now.way + per_example(now.width, noise) * unit(noise))
        way = select(now.phase == LOOK, unit(noise), select(now.phase == PROBE, around, now.trial))
        # A direction that is longer than the shortest so far is only of interest if it is adversarial there.
        length = jnp.select(
            [now.phase == LOOK, now.phase == PROBE, now.phase == TRY, now.phase == SHORTEN],
            [jnp.minimum(raw, now.length), now.length, now.best_length, 0.99 * now.high],
            0.5 * (now.low + now.high),
        )
        return state.origin + per_example(length, way) * way

    def learn(box: Threat, state: Asked, point: Array, wins: Mask) -> _Descent:
        del box
        now: _Descent = state.memory
        here = norm(point - state.origin, "l2")
        way = unit(point - state.origin)
        found = [
            _after_look(now, way, here, wins, directions),
            _after_measure(now, wins, directions),
            _after_probe(now, way, wins, probes),
            _after_try(now, wins),
            _after_shorten(now, wins),
            _after_halve(now, wins),
        ]
        after = found[-1]
        for phase, one in enumerate(found[:-1]):
            after = select(now.phase == phase, one, after)
        return after

    return asking("sign_opt", threat, Strategy(begin, ask, learn), queries=queries)


def _to(now: _Descent, phase: int, **changes: Array) -> _Descent:
    return now._replace(phase=jnp.full_like(now.phase, phase), **changes)


def _probing(now: _Descent) -> _Descent:
    """Begin a turn at the best direction so far."""
    return _to(
        now,
        PROBE,
        tally=jnp.zeros_like(now.tally),
        way=now.best,
        length=now.best_length,
        slope=jnp.zeros_like(now.slope),
    )


def _looked(now: _Descent, directions: int) -> _Descent:
    """Go on looking, or begin the descent with the best direction."""
    now = now._replace(tally=now.tally + 1)
    enough = (now.tally >= directions) & jnp.isfinite(now.length)
    return select(enough, _probing(now._replace(best=now.way, best_length=now.length)), _to(now, LOOK))


def _after_look(now: _Descent, way: Array, here: PerExample, wins: Mask, directions: int) -> _Descent:
    measured = _to(now, MEASURE, trial=way, low=jnp.zeros_like(here), high=here)
    return select(wins, measured, _looked(now, directions))


def _halved(now: _Descent, wins: Mask) -> _Descent:
    here = 0.5 * (now.low + now.high)
    return now._replace(low=jnp.where(wins, now.low, here), high=jnp.where(wins, here, now.high))


def _after_measure(now: _Descent, wins: Mask, directions: int) -> _Descent:
    now = _halved(now, wins)
    done = now.high - now.low <= 1e-3
    shorter = now.high < now.length
    kept = now._replace(
        way=select(shorter, now.trial, now.way), length=jnp.where(shorter, now.high, now.length)
    )
    return select(done, _looked(kept, directions), now)


def _after_probe(now: _Descent, way: Array, wins: Mask, probes: int) -> _Descent:
    # The boundary is nearer along a probe that is adversarial at the old distance. The part along the old
    # direction changes no unit direction.
    around = unit(way - now.way)
    sign = per_example(jnp.where(wins, -1.0, 1.0), around)
    now = now._replace(slope=now.slope + sign * around / probes, tally=now.tally + 1)
    begun = now._replace(tally=jnp.zeros_like(now.tally), downwards=jnp.zeros_like(now.downwards))
    return select(now.tally >= probes, _trying(begun), now)


def _trying(now: _Descent) -> _Descent:
    return _to(now, TRY, trial=unit(now.way - per_example(now.step, now.way) * now.slope))


def _after_try(now: _Descent, wins: Mask) -> _Descent:
    shorten = _to(now, SHORTEN, high=now.best_length)
    return select(wins, shorten, _after_trial(now, jnp.zeros_like(wins)))


def _after_shorten(now: _Descent, wins: Mask) -> _Descent:
    here = 0.99 * now.high
    return select(wins, now._replace(high=here), _to(now, HALVE, low=here))


def _after_halve(now: _Descent, wins: Mask) -> _Descent:
    now = _halved(now, wins)
    done = now.high - now.low <= jnp.maximum(now.width / 500, FINEST * now.high)
    shorter = done & (now.high < now.best_length)
    better = now._replace(
        best=select(shorter, now.trial, now.best), best_length=jnp.where(shorter, now.high, now.best_length)
    )
    return select(done, _after_trial(better, shorter), now)


def _after_trial(now: _Descent, shorter: Mask) -> _Descent:
    """Choose the next step size, or end the turn."""
    now = now._replace(tally=now.tally + 1)
    down = now.downwards > 0
    improved, last = now.best_length < now.length, now.tally >= LONGEST
    # Upwards: twice the size after any trial; on while each is shorter than the last.
    onwards = ~down & shorter & ~last
    turning = ~down & ~onwards & ~improved
    downwards = down & ~shorter & ~last
    step = now.step * jnp.where(down, 1.0, 2.0)
    step = jnp.where(turning | downwards, 0.25 * step, step)
    now = now._replace(step=step, downwards=jnp.where(turning, 1.0, now.downwards))
    now = now._replace(tally=jnp.where(turning, 0, now.tally))
    stuck = step < 1e-4
    over = now._replace(
        step=jnp.where(stuck, 1.0, step),
        width=jnp.where(stuck, jnp.maximum(0.1 * now.width, 1e-5), now.width),
    )
    return select(onwards | turning | downwards, _trying(now), _probing(over))
