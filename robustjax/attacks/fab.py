"""FAB: the nearest point beyond a decision boundary, by projections onto its linear approximations."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import checks, logit
from robustjax.attacks.compose import best_of, wrong_classes
from robustjax.attacks.flatten import flat_box, flattened
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.minimum_norm import Kept, answer, facing, keep, nobody
from robustjax.attacks.signed import signed
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    as_attack,
    checked_attack,
    classified,
    entered,
    repeat,
    select,
)
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, fold, keys_for, norm, per_example
from robustjax.threats import Threat
from robustjax.types import Attack, Found, Keys, Labels, Logits, LogitsFn, Number, PerExample


class Search(NamedTuple):
    """Where a search stands, one row per example."""

    origin: Array
    x: Array
    kept: Kept
    step: Int[Array, "b"]


def boundary(
    threat: Threat,
    *,
    steps: int = 100,
    alpha_max: Number = 0.1,
    eta: Number = 1.05,
    beta: Number = 0.9,
    start: Start = at_origin,
    compat: Literal["official"] | None = None,
) -> Solver:
    """Look for the nearest point where an objective is positive.

    Every step linearises the objective, projects the iterate and the origin onto the boundary and the box, and
    goes a little beyond a mixture of both. From a point of positive merit it steps back towards the origin.

    The objective (the `ValueAndMerit` of `advance`) may also have several values per example, (b, m): several
    boundaries, of which each step takes the nearest, at the price of m gradients.

    Args:
      threat: norm and box. Its radius decides only what counts as found: a point of positive merit further away
        is kept in the state but not returned. With eps = inf, every one counts.
      steps: iterations, each a gradient and one more forward pass.
      alpha_max: largest weight of the origin's projection.
      eta: how far to go, as a multiple of the way to the boundary.
      beta: what part of the way to keep when stepping back.
      start: the first point, projected; x itself, or `starts.halfway(threat)` for restarts.
      compat: "official" does not keep the point stepped back to, as the authors' code does not.
    Returns:
      A solver whose result is the nearest point of positive merit, where there is one within the radius, and
      the point of highest merit within the radius elsewhere.
    Raises:
      ValueError: if steps is less than 1 or compat is unknown.

    Reference: Croce and Hein 2020, arXiv:1907.02044, with the constants of arXiv:2003.01690, without the final
      search along the line. The point stepped back to is linearised next, and here also kept if its merit is positive:
      nearer by the factor beta than what it came from, so a little stronger than the authors' code (see compat).
    """
    checks.threat("boundary", threat)
    kind = checks.norm("boundary", threat.norm)
    checks.count("boundary", "steps", steps)
    checks.setting("boundary", "alpha_max", alpha_max, least=0, most=1)
    checks.setting("boundary", "eta", eta, least=0)
    checks.setting("boundary", "beta", beta, least=0, most=1)
    if compat not in (None, "official"):
        raise ValueError(f"boundary: compat is {compat!r}, must be 'official' or None")

    look = facing(kind)

    def init(key: Keys, x: Array) -> Search:
        x = entered("boundary", threat, x)
        first = threat.project(start(key, x).astype(x.dtype), x)
        return Search(x, first, nobody(first), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Search, count: Count) -> Search:
        shape, box = state.x.shape, flat_box(threat, state.x)

        def seen(x: Array) -> tuple[Array, PerExample]:
            return objective(x.reshape(shape))

        def record(state: Search, x: Array, merit: PerExample) -> Search:
            return state._replace(kept=keep(box, state.origin, state.kept, x, merit))

        def move(state: Search) -> Search:
            value, merit, slope = look(seen, state.x)
            # After the first point, x is one that was kept when it was reached, or one stepped back to.
            here = record(state, state.x, merit)
            state = here if compat is None else select(state.step == 0, here, state)
            way = state.origin - state.x
            # Both projections in one loop, as rows of one batch.
            gaps = jnp.concatenate([value, value + (slope * way).reshape(len(way), -1).sum(axis=1)])
            slopes, points = jnp.concatenate([slope, slope]), jnp.concatenate([state.x, state.origin])
            lower, upper = (_twice(edge, way) for edge in (box.lower, box.upper))
            moves = onto_hyperplane(kind, slopes, gaps, points, lower, upper)
            ours, origins = moves[: len(way)], moves[len(way) :]
            near, far = (jnp.maximum(norm(d, kind), 1e-8) for d in (ours, origins))
            alpha = per_example(jnp.minimum(near / (near + far), alpha_max), way)
            x = (1.0 - alpha) * (state.x + eta * ours) + alpha * (state.origin + eta * origins)
            x = jnp.clip(x, box.lower, box.upper)
            merit = seen(x)[1]
            back = state.origin + beta * (x - state.origin)
            return record(state, x, merit)._replace(x=select(merit > 0, back, x))

        rows, back = flattened(state, shape)
        return back(repeat(move, rows, count, steps))

    def finish(state: Search) -> Found:
        return answer(state.kept)

    return Solver(init, advance, finish, steps, "boundary", "signed value", logit.margin)


def fab(
    threat: Threat,
    *,
    steps: int = 100,
    alpha_max: Number = 0.1,
    eta: Number = 1.05,
    beta: Number = 0.9,
    start: Start = at_origin,
    compat: Literal["official"] | None = None,
) -> Attack:
    """Look for the nearest misclassified point, each step towards the nearest of all classes.

    Its value is the margin. A step costs as many gradients as there are classes; `fab_targeted` is cheaper.
    See `boundary` for the settings; with eps = inf it is a minimum-norm attack.
    """
    solver = boundary(
        threat, steps=steps, alpha_max=alpha_max, eta=eta, beta=beta, start=start, compat=compat
    )
    return as_attack(solver, leads)


def fab_targeted(
    threat: Threat,
    *,
    targets: int = 9,
    chunk_size: int | None = None,
    steps: int = 100,
    alpha_max: Number = 0.1,
    eta: Number = 1.05,
    beta: Number = 0.9,
    start: Start = at_origin,
    compat: Literal["official"] | None = None,
) -> Attack:
    """Look for the nearest misclassified point beyond the boundary to each of the most likely wrong classes.

    Args:
      threat, steps, alpha_max, eta, beta, start, compat: as for `boundary`.
      targets: how many wrong classes, by falling logit at x; all of them if there are fewer.
      chunk_size: how many targets to fold into the batch axis of one pass; all by default.
    Raises:
      ValueError: if targets, chunk_size or steps is less than 1.

    Reference: Croce and Hein 2020, arXiv:2003.01690 (9 targets).
    """
    checks.count("fab_targeted", "targets", targets)
    if chunk_size is not None:
        checks.count("fab_targeted", "chunk_size", chunk_size)
    solver = boundary(
        threat, steps=steps, alpha_max=alpha_max, eta=eta, beta=beta, start=start, compat=compat
    )

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        keys, ranked = keys_for(key, x.shape[0]), wrong_classes(logits_fn(x), y, targets)

        def aim(rank: Array) -> Search:
            target = ranked[:, rank]
            objective = classified(logits_fn, y, lambda z, y: logit.targeted_margin(z, y, target))
            return solver.advance(objective, solver.init(fold(keys, rank), x), solver.length)

        ranks = jnp.arange(ranked.shape[1])
        states = jax.lax.map(aim, ranks, batch_size=min(chunk_size or len(ranks), len(ranks)))
        winner, rows = states.kept.distance.argmin(axis=0), jnp.arange(x.shape[0])
        state = jax.tree.map(lambda a: a[winner, rows], states)
        kept = state.kept._replace(found=best_of(states.kept.found))
        return solver.finish(state._replace(kept=kept))

    return checked_attack("fab_targeted", attack)


def _twice(edge: float | Array, like: Array) -> float | Array:
    """Repeat the edge of a box for two batches in one, where it differs between examples."""
    return jnp.concatenate([edge, edge]) if jnp.ndim(edge) == like.ndim else edge


@signed
def leads(logits: Logits, y: Labels) -> Logits:
    """Compute z_j - z_y for every class: as many boundaries; that of the label itself has no slope."""
    return logits - jnp.take_along_axis(logits, y[:, None], axis=-1)
