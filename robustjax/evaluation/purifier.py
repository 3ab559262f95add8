"""Attack a classifier behind a gate and a translator, any of them, and judge every point by the defence itself."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax.attacks import gated_objectives
from robustjax.attacks.gated_objectives import Target
from robustjax.evaluation.assessments import Assessment as Assessment
from robustjax.evaluation.attempts import GatedCase
from robustjax.evaluation.defences import Look, as_argument, attempted, looked
from robustjax.numerics import keys_for
from robustjax.ood.translate import Defence
from robustjax.threats import Threat

Watch = Callable[[str, int, int, float], None]  # attack, attempt, attempts, accuracy left


def assess(
    key: PRNGKeyArray,
    defence: Defence,
    x: Any,
    y: Any,
    threat: Threat,
    plan: Sequence[GatedCase],
    *,
    batch_size: int = 128,
    passes: int | None = None,
    copy: Defence | None = None,
    pool: tuple[Any, Any] | None = None,
    every: bool = True,
    watch: Watch | None = None,
) -> Assessment:
    """Run attacks one after the other; whoever judges is the hard defence.

    An attempt works on the examples that those before it, of the same attack, did not bring where they should go, in
    full batches of one size, so that every kind of attempt compiles once; losses, penalties, radii and, for defences
    made of `jax.tree_util.Partial`s, parameters are arguments.

    Args:
      key: one key; example i uses `fold_in(key, i)`, a random translator fixed draws from it, unless `passes`.
      defence: f, T and gate; T may be random.
      x, y: images and labels.
      threat: where points may lie.
      plan: what to try, of `attempts`.
      batch_size: rows on the device.
      passes: for a random T, draws to average in every value, gradient and verdict (EOT); None to fix the draw.
      copy: another defence, for attempts of kind TM4, which see nothing else.
      pool: images and labels of benign examples, whose features are matched.
      every: run every attack on all examples, not only on those that resist the ones before it.
      watch: told after every attempt.
    Raises:
      ValueError: if an attempt needs a copy, a pool or features that are not given, or nothing is to be attacked.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)
    if not len(x) or not plan:
        raise ValueError(
            f"assess: {len(x)} images and {len(plan)} attempts given, must be at least one of each"
        )
    check(plan, defence, copy, pool)
    keys, size = keys_for(key, len(x)), min(batch_size, len(x))
    victim = as_argument(defence)
    source = victim if copy is None else as_argument(copy)

    def in_batches(program: Callable[..., Any], rows: np.ndarray, *arrays: Any) -> Any:
        parts = []
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            full = np.concatenate([some, np.full(size - len(some), some[0])])
            out = program(
                keys[full], *(jax.tree.map(lambda a, full=full: a[full], array) for array in arrays)
            )
            parts.append(jax.tree.map(lambda a, some=some: np.asarray(a)[: len(some)], out))
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)

    def judged(rows: np.ndarray, points: Any) -> Look:
        return in_batches(
            lambda k, z, o, t: looked(victim, k, z, o, t, threat, passes=passes), rows, points, x, y
        )

    everything = np.arange(len(x))
    clean = judged(everything, x)
    order = np.argsort(-np.where(np.eye(clean.plain.shape[1])[y] > 0, -np.inf, clean.plain), axis=1)
    names = list(dict.fromkeys(attempt.attack for attempt in plan))
    lines, broken = [], clean.merit > 0
    for name in names:
        began, made, runs = time.monotonic(), 0, 0
        best, tried = clean, clean.merit > 0
        points, todo = np.array(x), [a for a in plan if a.attack == name]
        for number, attempt in enumerate(todo):
            left = ~attempt.reached(best.merit) & (every | ~broken)
            rows = np.flatnonzero(left)
            if not rows.size:
                break
            seen = source if attempt.copied else victim
            target = _aim(attempt, seen, order, x, y, pool)
            run = partial(
                attempted,
                seen,
                threat=threat,
                parameters=attempt.parameters(),
                passes=passes,
                **attempt.program(),
            )
            at, made_now = in_batches(
                lambda k, z, t, a, run=run, number=number: run(k, z, t, a, number=jnp.int32(number)),
                rows,
                x,
                y,
                target,
            )
            found = judged_rows(judged, rows, at, len(x))
            # Of an example that resists, the strongest point is kept, never the image itself.
            wins = (found.merit[rows] > best.merit[rows]) | ((number == 0) & (best.merit[rows] <= 0))
            best = jax.tree.map(lambda old, new, r=rows[wins]: _put(old, r, new[r]), best, found)
            points[rows[wins]], tried = at[wins], tried | left
            made, runs = made + int(made_now.sum()), runs + 1
            if watch:
                watch(name, number + 1, len(todo), float(1 - (broken | (best.merit > 0)).mean()))
        broken = broken | (best.merit > 0)
        lines.append((best, tried, points, made, time.monotonic() - began, runs))
    models = {attempt.attack: attempt.model for attempt in plan}
    bests, tried, points, made, seconds, runs = zip(*lines, strict=True)
    stacked: Look = jax.tree.map(lambda *parts: np.stack(parts), *bests)
    return Assessment(
        tuple(names), tuple(models[name] for name in names), np.asarray(y), clean.plain, clean.through,
        ~(clean.gap <= 0), stacked.merit > 0,
        stacked.merit > 0.5 * gated_objectives.UNSEEN, np.stack(tried), stacked.margin,
        -stacked.gap, np.stack(points), stacked.inside.all(axis=1), np.array(made), np.array(seconds), np.array(runs),
    )  # fmt: skip


def check(plan: Sequence[GatedCase], defence: Defence, copy: Any, pool: Any) -> None:
    """Refuse a plan that asks for what is not there."""
    if copy is None and any(a.copied for a in plan):
        raise ValueError("assess: the plan attacks a copy, give one")
    if any(a.surrogate is gated_objectives.matched for a in plan) and (pool is None or not defence.features):
        raise ValueError(
            "assess: the plan matches features, give features in the defence and a pool of images"
        )


def judged_rows(judged: Callable[..., Look], rows: np.ndarray, at: np.ndarray, n: int) -> Look:
    """Judge points of some rows and spread the answers over all n, zeros elsewhere."""
    whole = np.zeros((n, *at.shape[1:]), at.dtype)
    whole[rows] = at
    found = judged(rows, whole)
    return jax.tree.map(lambda a: _put(np.zeros((n, *a.shape[1:]), a.dtype), rows, a), found)


def _put(old: np.ndarray, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    out = np.array(old)
    out[rows] = new
    return out


def _aim(attempt: GatedCase, defence: Defence, order: np.ndarray, x: Array, y: Array, pool: Any) -> Target:
    """Choose the class of this rank, and for matching the benign image of another class that is the rank-th nearest."""
    target = jnp.asarray(order[:, min(attempt.rank, order.shape[1] - 2)], jnp.int32)
    if attempt.surrogate is not gated_objectives.matched:
        return Target(target)
    images, labels = jnp.asarray(pool[0], jnp.float32), np.asarray(pool[1])
    ours, theirs = (tuple(np.asarray(one(z)) for one in defence.features) for z in (x, images))
    away = np.zeros((len(x), len(images)))
    for a, b in zip(ours, theirs, strict=True):
        lengths = np.square(b).sum(axis=1)
        away += (np.square(a).sum(axis=1)[:, None] + lengths - 2 * a @ b.T) / max(
            float(lengths.mean()), 1e-30
        )
    away = np.where(labels[None] == np.asarray(y)[:, None], np.inf, away)
    chosen = np.argsort(away, axis=1)[:, min(attempt.rank, len(labels) - 1)]
    return Target(jnp.asarray(labels[chosen], jnp.int32), tuple(jnp.asarray(b[chosen]) for b in theirs))
