"""Bigger attacks from smaller ones: restarts, the worst of several, all targets, and attacks from ascents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks import objectives
from robustjax.attacks.signed import require_signed
from robustjax.attacks.solver import Solver, better
from robustjax.numerics import fold, keys_for
from robustjax.types import Ascent, Attack, Found, Keys, Labels, LogitsFn, Objective, SoftLabels

Surrogate = Callable[[LogitsFn, Labels], Objective]  # such as objectives.margin
TargetedSurrogate = Callable[[LogitsFn, Labels, Labels], Objective]  # such as objectives.targeted_margin


def against(ascent: Ascent, surrogate: Surrogate = objectives.margin) -> Attack:
    """Turn an ascent into an attack on a classifier: maximise `surrogate(logits_fn, y)` from x.

    Raises:
      ValueError: where the ascent looks for the nearest adversarial point and the surrogate is not `signed`; called
        with known values, for labels that are not 0..k-1 or points outside the box; for soft labels, unless the
        surrogate takes them, as `objectives.cross_entropy` does.
    """
    _check_surrogate(ascent, surrogate)

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels | SoftLabels) -> Found:
        checks.array("against", x)
        if checks.is_soft(y):
            checks.soft_labels("against", y, len(x))
            return ascent(key, surrogate(logits_fn, y), x)
        return ascent(key, surrogate(logits_fn, checks.classes("against", y, len(x))), x)

    return attack


def restarts(ascent: Ascent, restarts: int, *, chunk_size: int | None = None) -> Ascent:
    """Run an ascent several times with different keys and keep the best point per example.

    Args:
      ascent: what to repeat; restart r sees each example's key folded with r.
      restarts: how often.
      chunk_size: how many to fold into the batch axis of one pass (memory grows with it); all by default.

    Raises:
      ValueError: if restarts or chunk_size is less than 1.
    """
    checks.count("restarts", "restarts", restarts)
    _check_chunk_size("restarts", chunk_size)

    def ascend(key: Keys, objective: Objective, x: Array) -> Found:
        keys = keys_for(key, x.shape[0])
        found = _each(lambda r: ascent(fold(keys, r), objective, x), jnp.arange(restarts), chunk_size)
        return best_of(found)

    return ascend


def worst_of(*attacks: Attack, measure: Surrogate = objectives.margin) -> Attack:
    """Run several attacks and keep, per example, the point that is worst for the classifier.

    Args:
      attacks: what to run; attack i sees each example's key folded with i.
      measure: the common measure, since attacks may maximise different objectives; the value returned is its.

    Raises:
      ValueError: if no attack is given.
    """
    if not attacks:
        raise ValueError("worst_of: no attack given, must be at least 1")

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        checks.array("worst_of", x)
        y = checks.classes("worst_of", y, len(x))
        keys, value = keys_for(key, x.shape[0]), measure(logits_fn, y)
        worst = Found(jnp.asarray(x), value(x))
        for i, one in enumerate(attacks):
            point = one(fold(keys, i), logits_fn, x, y).x
            worst = better(worst, Found(point, value(point)))
        return jax.lax.stop_gradient(worst)

    return attack


def over_targets(
    ascent: Ascent,
    surrogate: TargetedSurrogate = objectives.targeted_margin,
    *,
    targets: int = 9,
    measure: Surrogate = objectives.margin,
    chunk_size: int | None = None,
) -> Attack:
    """Attack towards each of the most likely wrong classes in turn and keep the point worst for the classifier.

    Args:
      ascent: maximises `surrogate(logits_fn, y, target)`; rank r sees each example's key folded with r.
      surrogate: a targeted objective.
      targets: how many wrong classes, by falling logit at x; all of them if there are fewer.
      measure: the common measure across targets; the value returned is its.
      chunk_size: how many targets to fold into the batch axis of one pass; all by default.

    Raises:
      ValueError: if targets or chunk_size is less than 1, and as `against`.

    Reference: Gowal et al. 2019, arXiv:1910.09338, and Croce and Hein 2020, arXiv:2003.01690 (9 targets).
    """
    checks.count("over_targets", "targets", targets)
    _check_chunk_size("over_targets", chunk_size)
    _check_surrogate(ascent, surrogate)

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        checks.array("over_targets", x)
        y, logits = checks.classes("over_targets", y, len(x)), logits_fn(x)
        checks.answers("over_targets", logits, y)
        ranked = wrong_classes(logits, y, targets)
        keys, value = keys_for(key, x.shape[0]), measure(logits_fn, y)

        def target(rank: Array) -> Found:
            point = ascent(fold(keys, rank), surrogate(logits_fn, y, ranked[:, rank]), x).x
            return Found(point, value(point))

        return jax.lax.stop_gradient(best_of(_each(target, jnp.arange(ranked.shape[1]), chunk_size)))

    return attack


def wrong_classes(logits: Array, y: Labels, count: int) -> Array:
    """List the wrong classes by falling logit: (b, min(count, k - 1)) int32."""
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    # A masked class, at -inf, still comes before the label itself.
    others = jnp.where(own, -jnp.inf, jnp.maximum(logits, jnp.finfo(logits.dtype).min))
    _, ranked = jax.lax.top_k(others, min(count, logits.shape[-1] - 1))
    return ranked


def best_of(found: Found) -> Found:
    """Reduce several findings, stacked in front as (n, b, ...), to the best one per example."""
    value = jnp.where(jnp.isnan(found.value), -jnp.inf, found.value)
    winner = value.argmax(axis=0)
    rows = jnp.arange(winner.shape[0])
    return Found(found.x[winner, rows], found.value[winner, rows])


def _each(run: Callable[[Array], Found], items: Array, chunk_size: int | None) -> Found:
    if chunk_size is None or chunk_size >= items.shape[0]:
        return jax.vmap(run)(items)
    return jax.lax.map(run, items, batch_size=chunk_size)


def _check_chunk_size(name: str, chunk_size: int | None) -> None:
    if chunk_size is not None:
        checks.count(name, "chunk_size", chunk_size)


def _check_surrogate(ascent: Ascent, surrogate: Surrogate | TargetedSurrogate) -> None:
    if isinstance(ascent, Solver) and ascent.needs != "nothing":
        require_signed(ascent.name, surrogate)
