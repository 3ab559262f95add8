"""Bigger attacks from smaller ones: restarts, the worst of several, all targets, and attacks from ascents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax.attacks import objectives
from robustjax.attacks.pgd import better
from robustjax.numerics import fold, keys_for
from robustjax.types import Ascent, Attack, Found, Labels, LogitsFn, Objective

Wish = Callable[[LogitsFn, Labels], Objective]  # such as objectives.margin
TargetedWish = Callable[[LogitsFn, Labels, Labels], Objective]  # such as objectives.targeted_margin


def against(ascent: Ascent, wish: Wish = objectives.margin) -> Attack:
    """Turn an ascent into an attack on a classifier: climb `wish(logits_fn, y)` from x."""

    def attack(key: PRNGKeyArray, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        return ascent(key, wish(logits_fn, y), x)

    return attack


def restarts(ascent: Ascent, times: int, *, at_once: int | None = None) -> Ascent:
    """Run an ascent several times with different keys and keep the best point per example.

    Args:
      ascent: what to repeat; restart r sees each example's key folded with r.
      times: how often.
      at_once: how many to fold into the batch axis of one pass (memory grows with it); all by default.

    Raises:
      ValueError: if times or at_once is less than 1.
    """
    if times < 1:
        raise ValueError(f"restarts: times is {times}, must be at least 1")
    _check_at_once("restarts", at_once)

    def ascend(key: PRNGKeyArray, objective: Objective, x: Array) -> Found:
        keys = keys_for(key, x.shape[0])
        found = _each(lambda r: ascent(fold(keys, r), objective, x), jnp.arange(times), at_once)
        return best_of(found)

    return ascend


def worst_of(*attacks: Attack, judge: Wish = objectives.margin) -> Attack:
    """Run several attacks and keep, per example, the point that is worst for the classifier.

    Args:
      attacks: what to run; attack i sees each example's key folded with i.
      judge: the common measure, since attacks may climb different objectives; the value returned is its.

    Raises:
      ValueError: if no attack is given.
    """
    if not attacks:
        raise ValueError("worst_of: no attack given, must be at least 1")

    def attack(key: PRNGKeyArray, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        keys, verdict = keys_for(key, x.shape[0]), judge(logits_fn, y)
        worst = Found(x, verdict(x))
        for i, one in enumerate(attacks):
            point = one(fold(keys, i), logits_fn, x, y).x
            worst = better(worst, Found(point, verdict(point)))
        return jax.lax.stop_gradient(worst)

    return attack


def over_targets(
    ascent: Ascent,
    wish: TargetedWish = objectives.targeted_margin,
    *,
    targets: int = 9,
    judge: Wish = objectives.margin,
    at_once: int | None = None,
) -> Attack:
    """Aim at each of the most likely wrong classes in turn and keep the point worst for the classifier.

    Args:
      ascent: climbs `wish(logits_fn, y, target)`; rank r sees each example's key folded with r.
      wish: a targeted objective.
      targets: how many wrong classes, by falling logit at x; all of them if there are fewer.
      judge: the common measure across targets; the value returned is its.
      at_once: how many targets to fold into the batch axis of one pass; all by default.

    Raises:
      ValueError: if targets or at_once is less than 1.

    Reference: Gowal et al. 2019, arXiv:1910.09338, and Croce and Hein 2020, arXiv:2003.01690 (9 targets).
    """
    if targets < 1:
        raise ValueError(f"over_targets: targets is {targets}, must be at least 1")
    _check_at_once("over_targets", at_once)

    def attack(key: PRNGKeyArray, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        ranked = wrong_classes(logits_fn(x), y, targets)
        keys, verdict = keys_for(key, x.shape[0]), judge(logits_fn, y)

        def aim(rank: Array) -> Found:
            point = ascent(fold(keys, rank), wish(logits_fn, y, ranked[:, rank]), x).x
            return Found(point, verdict(point))

        return jax.lax.stop_gradient(best_of(_each(aim, jnp.arange(ranked.shape[1]), at_once)))

    return attack


def wrong_classes(logits: Array, y: Labels, count: int) -> Array:
    """List the wrong classes by falling logit: (b, min(count, k - 1)) int32."""
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    _, ranked = jax.lax.top_k(jnp.where(own, -jnp.inf, logits), min(count, logits.shape[-1] - 1))
    return ranked


def best_of(found: Found) -> Found:
    """Reduce several findings, stacked in front as (n, b, ...), to the best one per example."""
    value = jnp.where(jnp.isnan(found.value), -jnp.inf, found.value)
    winner = value.argmax(axis=0)
    rows = jnp.arange(winner.shape[0])
    return Found(found.x[winner, rows], found.value[winner, rows])


def _each(run: Callable[[Array], Found], items: Array, at_once: int | None) -> Found:
    if at_once is None or at_once >= items.shape[0]:
        return jax.vmap(run)(items)
    return jax.lax.map(run, items, batch_size=at_once)


def _check_at_once(name: str, at_once: int | None) -> None:
    if at_once is not None and at_once < 1:
        raise ValueError(f"{name}: at_once is {at_once}, must be at least 1")
