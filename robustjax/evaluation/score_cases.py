"""Attacks on the score of an OOD detector as cases of the runner, on both sides at once.

ID images are to score lower, OOD images higher. Gradients of scores mislead: on published networks trained against
attacks on confidence, searches along gradients find next to nothing where random search finds most. Every default
therefore ends with Square.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from robustjax import logit
from robustjax.attacks.apgd import apgd
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, nothing_yet, repeat, select
from robustjax.attacks.square import square
from robustjax.numerics import constant, keys_for
from robustjax.ood.detectors import ScoredNetwork, logits_of
from robustjax.ood.logit_scores import entropy_log
from robustjax.ood.score_attacks import ScoreAttack, Search
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Mask, PerExample

LEAST_QUERIES = 200  # of Square in every default: fewer find little
Surrogate = Callable[
    [ScoredNetwork, Rows, Array], PerExample
]  # to be ascended; `rows.data` says which images are ID


def on_score(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the score itself: minus the score on ID images, the score on OOD images."""
    return signed(detector.score(x), rows.data)


def on_surrogate(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend what the detector names where the gradient of its score misleads, such as ODIN without its step."""
    if detector.surrogate is None:
        raise ValueError("score_cases: a case needs the surrogate of the detector, which it has not")
    return signed(detector.surrogate(x), rows.data)


def on_entropy(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the logarithm of the entropy on ID images, and minus it on OOD images."""
    return signed(entropy_log(logits_of(detector)(x)), rows.data)


def on_uniform(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend mean_k log p_k on ID images, and minus it on OOD images: cross-entropy to the uniform distribution."""
    return signed(logit.ce_to_uniform(logits_of(detector)(x)), rows.data)


def on_class(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the log odds of one class in each run on OOD images, and minus the log confidence on ID images.

    The likeliest class at the start need not be the one that can become surest.
    """
    logits = logits_of(detector)(x)
    own = jnp.arange(logits.shape[-1])[None] == rows.parameters.target[:, None]
    odds = jnp.where(own, logits, 0.0).sum(axis=-1) - jax.nn.logsumexp(
        jnp.where(own, -jnp.inf, logits), axis=-1
    )
    return jnp.where(rows.data, -logit.log_confidence(logits), odds)


class Chosen(NamedTuple):
    """Cases with their settings, from the threat: equal for equal settings, so that compiled programs are found again.

    Attributes:
      build: such as `standard`: (threat, *, classes, surrogate, steps, restarts, ...) -> cases.
      classes: of the network behind the score, None where it has no logits.
      surrogate: whether the detector names one.
      steps, restarts: of the searches.
      more: other settings by name.
    """

    build: Callable[..., tuple[Case, ...]]
    classes: int | None
    surrogate: bool
    steps: int
    restarts: int = 1
    more: tuple[tuple[str, int], ...] = ()

    def __call__(self, threat: Threat) -> tuple[Case, ...]:
        """List the cases."""
        settings = {"classes": self.classes, "surrogate": self.surrogate, "steps": self.steps}
        return self.build(threat, **settings, restarts=self.restarts, **dict(self.more))


class Target(NamedTuple):
    """Parameters of runs towards a class."""

    target: Any


def signed(score: PerExample, is_id: Mask) -> PerExample:
    """Turn a score into what the adversary wants large: it falls on ID images and rises on OOD images."""
    return jnp.where(is_id, -score, score)


def score_case(
    name: str, solver: Solver, surrogate: Surrogate = on_score, *, runs: int = 1, **settings: Any
) -> Case:
    """Make a case on a score: ascend a surrogate, keep points by the score itself.

    Args:
      name: of the case.
      solver: the search.
      surrogate: (detector, rows, x) -> what is ascended, per image.
      runs: how often.
      settings: `passes`, `parameters`, `start`, `black_box` and `note` of `Case`.
    """

    def objective(detector: ScoredNetwork, rows: Rows) -> ValueAndMerit:
        if surrogate is on_score:

            def own(x: Array) -> tuple[PerExample, PerExample]:
                value = signed(detector.score(x), rows.data)
                return value, value

            return own

        def both(x: Array) -> tuple[PerExample, PerExample]:
            return surrogate(detector, rows, x), signed(detector.score(x), rows.data)

        return both

    return Case(name, solver, objective, runs, **settings)


def adaptive(
    threat: Threat, *, surrogate: bool = False, steps: int = 100, restarts: int = 1, queries: int = 300
) -> tuple[Case, ...]:
    """List the cheapest attacks to be trusted: APGD on the score, on the detector's surrogate, and Square.

    Args:
      threat: where attacked images may lie.
      surrogate: whether the detector names one.
      steps: of each run of APGD.
      restarts: runs of APGD on each.
      queries: of Square, at least 200.
    Raises:
      ValueError: if queries is less than 200.
    """
    ascent = apgd(threat, steps=steps)
    cases = [score_case("apgd-score", ascent, runs=restarts)]
    if surrogate:
        cases.append(score_case("apgd-surrogate", ascent, on_surrogate, runs=restarts))
    return (*cases, random_search(threat, queries))


def standard(
    threat: Threat,
    *,
    classes: int | None = None,
    surrogate: bool = False,
    steps: int = 100,
    restarts: int = 1,
    queries: int = 1000,
) -> tuple[Case, ...]:
    """List the default cases: APGD on the score, on two surrogates and at every class, and Square on the score.

    Args:
      threat: where attacked images may lie.
      classes: how many logits the detector's network has; None for scores without logits, which leaves APGD and
        Square on the score.
      surrogate: whether the detector names one.
      steps: of each run of APGD.
      restarts: runs of APGD on the score, on each surrogate and at each class.
      queries: of Square, at least 200: some scores have gradients that say nothing.
    Raises:
      ValueError: if queries is less than 200.
    """
    *cases, blind = adaptive(threat, surrogate=surrogate, steps=steps, restarts=restarts, queries=queries)
    if classes is not None:
        ascent = apgd(threat, steps=steps)
        cases += [
            score_case("apgd-uniform", ascent, on_uniform, runs=restarts),
            score_case("apgd-entropy", ascent, on_entropy, runs=restarts),
            score_case(
                "apgd-class",
                ascent,
                on_class,
                runs=classes * restarts,
                parameters=Target(np.tile(np.arange(classes, dtype=np.int32), restarts)),
            ),
        ]
    return (*cases, blind)


def random_search(threat: Threat, queries: int) -> Case:
    """Ask for scores only: Square.

    Raises:
      ValueError: if queries is less than 200.
    """
    if queries < LEAST_QUERIES:
        raise ValueError(
            f"score_cases: queries is {queries}, must be at least {LEAST_QUERIES}: attacks along gradients alone can "
            "be blind on a score"
        )
    return score_case("square", square(threat, queries=queries), passes=1, black_box=True)


def searched(name: str, build: Callable[[Threat, ScoredNetwork], ScoreAttack], threat: Threat) -> Case:
    """Run an attack of `ood.score_attacks`, such as a published one, whole: one iteration of the runner.

    Args:
      name: of the case.
      build: (threat, detector) -> ScoreAttack. A side that it leaves alone keeps its scores.
      threat: where attacked images may lie.
    """

    def init(key: Keys, x: Array) -> _Search:
        return _Search(keys_for(key, len(x)), x, nothing_yet(x), constant(x, 0, jnp.int32))

    def advance(objective: Any, state: _Search, count: Count) -> _Search:
        return repeat(lambda now: now._replace(found=objective.search(now.key, now.origin)), state, count, 1)

    def objective(detector: ScoredNetwork, rows: Rows) -> ValueAndMerit:
        return _Sides(build(threat, detector), detector, rows.data)

    return Case(name, Solver(init, advance, lambda state: state.found, 1), objective)


class _Search(NamedTuple):
    key: Keys
    origin: Array
    found: Found
    step: Int[Array, "b"]


class _Sides(NamedTuple):
    attack: ScoreAttack
    detector: ScoredNetwork
    is_id: Mask

    def __call__(self, x: Array) -> tuple[PerExample, PerExample]:
        value = signed(self.detector.score(x), self.is_id)
        return value, value

    def search(self, keys: Keys, x: Array) -> Found:
        """Search on the side of each row; a batch of one side costs one search."""

        def side(search: Search | None, present: Array, sign: float) -> Found:
            def found(_: None) -> Found:
                best = Found(x, self.detector.score(x)) if search is None else search(keys, x)
                return Found(best.x, sign * best.value.astype(jnp.float32))

            return jax.lax.cond(present, found, lambda _: nothing_yet(x), None)

        down = side(self.attack.on_id, self.is_id.any(), -1.0)
        up = side(self.attack.on_ood, (~self.is_id).any(), 1.0)
        return select(self.is_id, down, up)
