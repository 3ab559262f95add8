"""Attacks on a score: OOD images raised, ID images lowered, and the worst that any of several searches found.

A search takes (key, x) and gives the point and its score, per example. It may maximise surrogates, but the score
itself decides which point is kept. Attack a score that does not saturate, such as `logit_scores.msp_margin` for MSP:
the order is the same, and a gradient is left where the probability is 1.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from robustjax import checks
from robustjax.attacks.compose import best_of
from robustjax.attacks.solver import Solver, better, nothing_yet
from robustjax.attacks.starts import Start
from robustjax.numerics import fold, keys_for
from robustjax.ood import surrogates
from robustjax.ood.scores import Score
from robustjax.types import Ascent, Found, Inputs, Keys, LogitsFn, Objective, PerExample

# `attacks.compose` joins attacks on classifiers: they have labels, and keep the point of highest value. Searches here
# have none, and keep points by the score whatever they maximise; what both do alike, `best_of` and `better`, is shared.
Direction = Literal["raise", "lower"]
Search = Callable[[Keys, Inputs], Found]  # `value` is the score at the point


class ScoreAttack(NamedTuple):
    """An attack on a detector; None where a side is not attacked.

    Attributes:
      on_id: lowers the scores of ID images.
      on_ood: raises those of OOD images.
    """

    on_id: Search | None
    on_ood: Search | None


def raised(
    ascent: Ascent,
    score: Score,
    *,
    surrogates: Sequence[Objective] = (),
    restarts: int = 1,
    clean: bool = True,
) -> Search:
    """Look for the highest score around each example, so that an OOD image passes for an ID one.

    Args:
      ascent: how to search. A `Solver` keeps the point of highest score that it met; any other ascent keeps what
        its own objective preferred.
      score: what the detector reads.
      surrogates: objectives to maximise one after the other, such as those of `surrogates`; the score alone by default.
      restarts: random starts of each. Objective i and start r see each example's key folded with i, then r.
      clean: let x itself compete, so that an attack never helps the detector.
    Returns:
      A search (key, x) -> Found, cut from the gradient; `key` is one key or one per example.
    Raises:
      ValueError: if restarts is less than 1.
    """
    return _search("raised", ascent, score, surrogates or (score,), restarts, clean)


def lowered(
    ascent: Ascent,
    score: Score,
    *,
    surrogates: Sequence[Objective] = (),
    restarts: int = 1,
    clean: bool = True,
) -> Search:
    """Look for the lowest score around each example, so that an ID image is taken for an OOD one.

    Args:
      ascent, restarts, clean: as in `raised`.
      score: what the detector reads.
      surrogates: objectives to maximise, usually falling where the score rises; minus the score by default.
    Returns:
      A search (key, x) -> Found with the score itself, not its negative, as value.
    """
    negative = _negative(score)
    return _negated(_search("lowered", ascent, negative, surrogates or (negative,), restarts, clean))


def over_classes(
    ascent: Ascent, score: Score, logits_fn: LogitsFn, *, restarts: int = 1, clean: bool = True
) -> Search:
    """Maximise the log odds of each class in turn and keep the highest score.

    The likeliest class at the start need not be the one that can become surest. All classes share one compiled search.

    Args:
      ascent, score, restarts, clean: as in `raised`.
      logits_fn: whose classes are the targets of `surrogates.toward_class`.
    """
    _check("over_classes", restarts)

    def search(key: Keys, x: Inputs) -> Found:
        classes = jax.eval_shape(logits_fn, x).shape[-1]
        keys = keys_for(key, x.shape[0])

        def one(run: Array) -> Found:
            target, start = run // restarts, run % restarts
            objective = surrogates.toward_class(logits_fn, target)
            return _found(ascent, fold(fold(keys, target), start), objective, score, x)

        best = best_of(jax.lax.map(one, jnp.arange(classes * restarts)))
        return jax.lax.stop_gradient(better(Found(x, score(x)), best) if clean else best)

    return search


def highest(*searches: Search) -> Search:
    """Keep the highest score that any of several searches finds; search i sees each key folded with i.

    Raises:
      ValueError: if there is none.
    """
    if not searches:
        raise ValueError("highest: no search given, must be at least 1")

    def search(key: Keys, x: Inputs) -> Found:
        keys = keys_for(key, x.shape[0])
        best = nothing_yet(x)
        for i, one in enumerate(searches):
            best = better(best, one(fold(keys, i), x))
        return best

    return search


def lowest(*searches: Search) -> Search:
    """Keep the lowest score that any of several searches finds."""
    return _negated(highest(*(_negated(one) for one in searches)))


def over_radii(
    search_at: Callable[[Scalar, Start], Search],
    radii: Sequence[float],
    *,
    direction: Direction,
) -> Search:
    """Search at rising radii, each from what the last one found, so that results are monotone in the radius.

    `over_radii(lambda eps, warm: raised(pgd(Threat("linf", eps), steps=40, step_size=eps / 16, start=warm), score),
    radii, direction="raise")`.
    What was found in a smaller ball lies in the larger one and stays if nothing better is found there. One
    program is compiled for all radii.

    Args:
      search_at: (radius, start) -> search. The start gives the best point so far, x itself at first; a search may
        use it, for all its starts or for some, or leave it.
      radii: rising; radius i sees each example's key folded with i.
      direction: whether the searches raise or lower scores.
    Returns:
      A search whose results lead with the radii: x (r, b, ...) and value (r, b).
    Raises:
      ValueError: if radii is empty, negative or not rising, or direction is unknown.
    """
    if not radii or radii[0] < 0 or not all(a < b for a, b in itertools.pairwise(radii)):
        raise ValueError(f"over_radii: radii are {tuple(radii)}, must rise from 0 or more")
    if direction not in ("raise", "lower"):
        raise ValueError(f"over_radii: direction is {direction!r}, must be 'raise' or 'lower'")
    sign = 1.0 if direction == "raise" else -1.0

    def search(key: Keys, x: Inputs) -> Found:
        keys = keys_for(key, x.shape[0])

        def widen(best: Found, at: tuple[Array, Scalar]) -> tuple[Found, Found]:
            index, eps = at
            found = search_at(eps, lambda key, origin: best.x)(fold(keys, index), x)
            best = better(best, Found(found.x, sign * found.value))
            return best, best

        steps = jnp.arange(len(radii)), jnp.asarray(radii, jnp.float32)
        _, found = jax.lax.scan(widen, nothing_yet(x), steps)
        return Found(found.x, sign * found.value)

    return search


def _search(
    name: str, ascent: Ascent, merit: Objective, surrogates: Sequence[Objective], restarts: int, clean: bool
) -> Search:
    _check(name, restarts)

    def search(key: Keys, x: Inputs) -> Found:
        keys = keys_for(key, x.shape[0])

        def maximised(objective: Objective, own: Keys) -> Found:
            starts = jnp.arange(restarts)
            return best_of(jax.lax.map(lambda r: _found(ascent, fold(own, r), objective, merit, x), starts))

        best = Found(x, merit(x)) if clean else nothing_yet(x)
        for i, objective in enumerate(surrogates):
            best = better(best, maximised(objective, fold(keys, i)))
        return jax.lax.stop_gradient(best)

    return search


def _found(ascent: Ascent, key: Keys, objective: Objective, merit: Objective, x: Inputs) -> Found:
    """Maximise an objective and return the point with its merit."""
    if objective is merit:
        return ascent(key, merit, x)
    if isinstance(ascent, Solver):
        both = ascent.advance(lambda z: (objective(z), merit(z)), ascent.init(key, x), ascent.length)
        return ascent.finish(both)
    point = ascent(key, objective, x).x
    return Found(point, merit(point))


def _negative(score: Score) -> Objective:
    def negative(x: Inputs) -> PerExample:
        return -score(x)

    return negative


def _negated(search: Search) -> Search:
    def negated(key: Keys, x: Inputs) -> Found:
        found = search(key, x)
        return Found(found.x, -found.value)

    return negated


def _check(name: str, restarts: int) -> None:
    checks.count(name, "restarts", restarts)
