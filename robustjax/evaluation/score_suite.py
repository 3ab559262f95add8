"""Attack the score of an OOD detector on both sides: in-distribution images down, out-of-distribution images up.

Every case may lower the worst case that the ones before it found, so no image stops early. Gradients of scores mislead:
on published networks trained against attacks on confidence, searches along gradients find next to nothing where random
search finds most. The default suite therefore ends with Square.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PRNGKeyArray

from robustjax import logit
from robustjax.attacks.apgd import apgd
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.solver import Solver, ValueAndMerit
from robustjax.attacks.square import square
from robustjax.evaluation.pool import Cases
from robustjax.evaluation.runner import Examples, Memory, Progress, require_feasible, runner
from robustjax.evaluation.suite import as_floats
from robustjax.ood import metrics
from robustjax.ood.logit_scores import entropy_log
from robustjax.ood.scores import Score
from robustjax.threats import Threat
from robustjax.types import LogitsFn, Mask, PerExample


class ScoredNetwork(NamedTuple):
    """A score and the network behind it: what attacks use. `ood.detectors.BuiltDetector` serves as well.

    Attributes:
      score: larger on ID images, in a form that does not saturate.
      logits_fn: of the network behind it, for surrogates; None where there is none.
    """

    score: Score
    logits_fn: LogitsFn | None = None


Surrogate = Callable[
    [ScoredNetwork, Rows, Array], PerExample
]  # to be ascended; `rows.data` says which images are ID


def on_score(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the score itself: minus the score on ID images, the score on OOD images."""
    return signed(detector.score(x), rows.data)


def on_entropy(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the logarithm of the entropy on ID images, and minus it on OOD images."""
    return signed(entropy_log(_logits(detector, x)), rows.data)


def on_uniform(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend mean_k log p_k on ID images, and minus it on OOD images: cross-entropy to the uniform distribution."""
    return signed(logit.ce_to_uniform(_logits(detector, x)), rows.data)


def on_class(detector: ScoredNetwork, rows: Rows, x: Array) -> PerExample:
    """Ascend the log odds of one class in each run on OOD images, and minus the log confidence on ID images.

    The likeliest class at the start need not be the one that can become surest.
    """
    logits = _logits(detector, x)
    own = jnp.arange(logits.shape[-1]) == rows.parameters.target[:, None]
    odds = jnp.where(own, logits, 0.0).sum(axis=-1) - jax.nn.logsumexp(
        jnp.where(own, -jnp.inf, logits), axis=-1
    )
    return jnp.where(rows.data, -logit.log_confidence(logits), odds)


class Target(NamedTuple):
    """Parameters of runs towards a class."""

    target: Any


def signed(score: PerExample, inside: Mask) -> PerExample:
    """Turn a score into what the adversary wants large: it falls on ID images and rises on OOD images."""
    return jnp.where(inside, -score, score)


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
        def both(x: Array) -> tuple[PerExample, PerExample]:
            return surrogate(detector, rows, x), signed(detector.score(x), rows.data)

        return both

    return Case(name, solver, objective, runs, **settings)


def standard(
    threat: Threat,
    *,
    classes: int | None = None,
    steps: int = 100,
    restarts: int = 1,
    queries: int = 1000,
) -> tuple[Case, ...]:
    """List the default cases: APGD on the score, on two surrogates and at every class, and Square on the score.

    Args:
      threat: where attacked images may lie.
      classes: how many logits the detector's network has; None for scores without logits, which leaves APGD and
        Square on the score.
      steps: of each run of APGD.
      restarts: runs of APGD on the score and on each surrogate; each class has one.
      queries: of Square, at least 200: some scores have gradients that say nothing.
    Raises:
      ValueError: if queries is less than 200.
    """
    if queries < 200:
        raise ValueError(
            f"score_suite.standard: queries is {queries}, must be at least 200: attacks along gradients alone can be "
            "blind on a score"
        )
    ascent = apgd(threat, steps=steps)
    cases = [score_case("apgd-score", ascent, runs=restarts)]
    if classes is not None:
        cases += [
            score_case("apgd-uniform", ascent, on_uniform, runs=restarts),
            score_case("apgd-entropy", ascent, on_entropy, runs=restarts),
            score_case(
                "apgd-class",
                ascent,
                on_class,
                runs=classes,
                parameters=Target(np.arange(classes, dtype=np.int32)),
            ),
        ]
    blind = score_case("square", square(threat, queries=queries), passes=1, black_box=True)
    return (*cases, blind)


@dataclasses.dataclass(frozen=True)
class ScoreResults:
    """What a suite did to the scores of ID and OOD images; rows are images, lines cases, on the host.

    Attributes:
      attacks: (a,) names of the cases, in the order they ran.
      index: (n,) number of each image; decides its random numbers.
      inside: (n,) bool, whether it is in-distribution.
      clean: (n,) its score.
      scores: (a, n) the worst score that each case reached: lowest on ID, highest on OOD images.
      x: (n, ...) the image of the worst score; the image itself where no case made it worse.
      worst: (n,) score at x, from one more pass.
      distance: (n,) norm of x minus the image, in float64.
      steps, seconds: (a,) iterations for all images together, and time spent.
    """

    attacks: tuple[str, ...]
    index: np.ndarray
    inside: np.ndarray
    clean: np.ndarray
    scores: np.ndarray
    x: np.ndarray
    worst: np.ndarray
    distance: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray

    def by_attack(self) -> list[tuple[str, np.ndarray]]:
        """List the worst scores without attack and after each case, over those so far: [(name, (n,)), ...]."""
        best, table = self.clean, [("clean", self.clean)]
        for name, scores in zip(self.attacks, self.scores, strict=True):
            best = np.where(self.inside, np.fmin(best, scores), np.fmax(best, scores))
            table.append((name, best))
        return table

    def summary(self) -> dict[str, dict[str, float]]:
        """Compute AUROC, FPR and the other metrics of `ood.metrics`: clean, ID, OOD, and both attacked.

        Raises:
          ValueError: if there are no ID or no OOD images.
        """
        sides = {
            "clean": (self.clean, self.clean),
            "ID attacked": (self.worst, self.clean),
            "OOD attacked": (self.clean, self.worst),
            "both attacked": (self.worst, self.worst),
        }
        return {
            name: metrics.summary(down[self.inside], up[~self.inside]) for name, (down, up) in sides.items()
        }


def score_suite(
    detector: Callable[..., ScoredNetwork],
    cases: Cases,
    *,
    batch_size: int = 512,
    smallest: int = 32,
    segment: int | None = None,
    sharding: NamedSharding | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., ScoreResults]:
    """Build an evaluation that attacks a score on both sides, ID and OOD images in the same batches.

    See `runner.runner` for how: full batches, random numbers per image, resumption.

    Args:
      detector: (*arguments) -> ScoredNetwork, the OOD detector.
      cases: from the threat, such as `functools.partial(score_suite.standard, classes=10)`.
      batch_size, smallest, segment, sharding, clock: as for `runner.runner`.
    Returns:
      evaluate(key, images, inside, threat, *arguments, index=None, given=None, memory=None, progress=None) ->
      ScoreResults.
      images: (n, ...) numpy, uint8 or floats in the box, ID and OOD; inside: (n,) bool, which are ID; index: (n,)
      numbers, all different, 0, 1, ... by default.
      given: results on the same images in a ball that lies in this one: a worst case stays one.
      memory: keeps progress and takes it up again; progress: called with `Progress` after every segment.
      It raises ValueError for arrays that do not fit and for progress kept by another evaluation, RuntimeError if a
      point lies outside the threat, which would be a bug.
    """

    def evaluate(
        key: PRNGKeyArray,
        images: np.ndarray,
        inside: np.ndarray,
        threat: Threat,
        *arguments: Any,
        index: np.ndarray | None = None,
        given: ScoreResults | None = None,
        memory: Memory | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> ScoreResults:
        inside = np.asarray(inside, bool)
        index = np.arange(len(inside)) if index is None else np.asarray(index)
        _check(images, inside, index, given)
        run = runner(
            detector,
            cases,
            _answer,
            _none,
            until=np.inf,
            batch_size=batch_size,
            smallest=smallest,
            segment=segment,
            sharding=sharding,
            clock=clock,
        )
        sign = np.where(inside, -1.0, 1.0).astype(np.float32)
        found = run(
            key,
            Examples(as_floats(images), inside, index),
            threat,
            *arguments,
            begin=None if given is None else (given.x, sign * given.worst),
            memory=memory,
            progress=progress,
        )
        require_feasible(found, threat)
        return ScoreResults(
            attacks=found.attacks,
            index=index,
            inside=inside,
            clean=found.clean["score"],
            scores=sign * found.merit,
            x=found.x,
            worst=found.final["score"],
            distance=found.distance,
            steps=found.steps,
            seconds=found.seconds,
        )

    return evaluate


def merge(reports: Sequence[ScoreResults]) -> ScoreResults:
    """Join results on one detector and threat: other images, or other cases on the same images.

    Raises:
      ValueError: if there is none, if images overlap in part or differ in score, or attacks do not fit.
    """
    if not reports:
        raise ValueError("merge: no report given, must be at least one")
    merged = reports[0]
    for other in reports[1:]:
        common = len(np.intersect1d(merged.index, other.index))
        if common == 0:
            merged = _beside(merged, other)
        elif common == len(merged.index) == len(other.index):
            merged = _above(merged, other)
        else:
            raise ValueError(
                f"merge: {common} images are in both reports, of {len(merged.index)} and {len(other.index)}; they "
                "must be the same or have none in common"
            )
    return merged


def _beside(first: ScoreResults, second: ScoreResults) -> ScoreResults:
    if first.attacks != second.attacks:
        raise ValueError(
            f"merge: the attacks are {first.attacks} and {second.attacks}, must be the same for other images"
        )
    order = np.argsort(np.concatenate([first.index, second.index]), kind="stable")

    def joined(name: str) -> np.ndarray:
        axis = 1 if name == "scores" else 0
        return np.take(np.concatenate([getattr(first, name), getattr(second, name)], axis), order, axis)

    rows = {name: joined(name) for name in ("index", "inside", "clean", "scores", "x", "worst", "distance")}
    steps, seconds = first.steps + second.steps, first.seconds + second.seconds
    return ScoreResults(first.attacks, **rows, steps=steps, seconds=seconds)


def _above(first: ScoreResults, second: ScoreResults) -> ScoreResults:
    order = np.argsort(second.index)[np.argsort(np.argsort(first.index))]
    same = np.array_equal(second.inside[order], first.inside)
    if not same or not np.allclose(second.clean[order], first.clean, rtol=1e-4, atol=1e-4):
        raise ValueError(
            "merge: the reports differ in images or scores, must be about one detector and one data set"
        )
    if twice := set(first.attacks) & set(second.attacks):
        raise ValueError(f"merge: both reports ran {', '.join(sorted(twice))} on the same images")
    take = np.where(first.inside, second.worst[order] < first.worst, second.worst[order] > first.worst)

    def worse(name: str) -> np.ndarray:
        one, two = getattr(first, name), getattr(second, name)[order]
        return np.where(take.reshape(-1, *[1] * (one.ndim - 1)), two, one)

    return dataclasses.replace(
        first,
        attacks=first.attacks + second.attacks,
        scores=np.concatenate([first.scores, second.scores[:, order]]),
        steps=np.concatenate([first.steps, second.steps]),
        seconds=np.concatenate([first.seconds, second.seconds]),
        **{name: worse(name) for name in ("x", "worst", "distance")},
    )


def _answer(detector: ScoredNetwork, keys: PRNGKeyArray, inside: Mask, x: Array) -> dict[str, Array]:
    del keys
    score = detector.score(x)
    return {"score": score, "merit": signed(score, inside)}


def _none(answers: dict[str, np.ndarray], inside: np.ndarray) -> np.ndarray:
    """Take no image for decided: a later case may find a worse score."""
    del answers
    return np.zeros(len(inside), bool)


def _logits(detector: ScoredNetwork, x: Array) -> Array:
    if detector.logits_fn is None:
        raise ValueError("score_suite: a case needs logits_fn, which the detector has not")
    return detector.logits_fn(x)


def _check(images: np.ndarray, inside: np.ndarray, index: np.ndarray, given: ScoreResults | None) -> None:
    if len(inside) == 0 or len(images) != len(inside) or index.shape != inside.shape:
        raise ValueError(
            f"score_suite: {len(images)} images, {len(inside)} sides and {len(index)} indices given, must be as many "
            "of each and at least one"
        )
    if len(np.unique(index)) < len(index):
        raise ValueError("score_suite: index has the same number twice, must be different for every image")
    if given is not None and not np.array_equal(given.index, index):
        raise ValueError(
            "score_suite: given is a report on other images, must be on the same ones in the same order"
        )
