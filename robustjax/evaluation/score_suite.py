"""Attack the score of an OOD detector on both sides: in-distribution images down, out-of-distribution images up.

Every case may lower the worst case that the ones before it found, so no image stops early. `score_cases` has the cases.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PRNGKeyArray

from robustjax.evaluation.pool import Cases
from robustjax.evaluation.runner import Examples, Memory, Progress, require_feasible, runner
from robustjax.evaluation.score_cases import signed
from robustjax.evaluation.suite import as_floats
from robustjax.numerics import constant
from robustjax.ood import metrics
from robustjax.ood.detectors import ScoredNetwork
from robustjax.threats import Threat
from robustjax.traced import ByBatch, Steps
from robustjax.types import Keys, Mask

PER_IMAGE = ("index", "is_id", "clean", "scores", "x", "worst", "prediction", "confidence", "distance")
LARGEST_SET = 2**20  # images of one set that can be numbered


@dataclasses.dataclass(frozen=True)
class ScoreResults:
    """What a suite did to the scores of ID and OOD images; rows are images, lines cases, on the host.

    Attributes:
      attacks: (a,) names of the cases, in the order they ran.
      index: (n,) number of each image; decides its random numbers.
      is_id: (n,) bool, whether it is in-distribution.
      clean: (n,) its score.
      scores: (a, n) the worst score that each case reached: lowest on ID, highest on OOD images.
      x: (n, ...) the image of the worst score; the image itself where no case made it worse.
      worst: (n,) score at x, from one more pass.
      prediction: (n,) class at x; -1 where the detector has no logits.
      confidence: (n,) largest softmax probability at x; NaN where the detector has no logits.
      distance: (n,) norm of x minus the image, in float64.
      steps, seconds: (a,) iterations for all images together, and time spent.
    """

    attacks: tuple[str, ...]
    index: np.ndarray
    is_id: np.ndarray
    clean: np.ndarray
    scores: np.ndarray
    x: np.ndarray
    worst: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray

    def by_attack(self) -> list[tuple[str, np.ndarray]]:
        """List the worst scores without attack and after each case, over those so far: [(name, (n,)), ...]."""
        best, table = self.clean, [("clean", self.clean)]
        for name, scores in zip(self.attacks, self.scores, strict=True):
            best = np.where(self.is_id, np.fmin(best, scores), np.fmax(best, scores))
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
            name: metrics.summary(down[self.is_id], up[~self.is_id]) for name, (down, up) in sides.items()
        }

    def part(self, index: np.ndarray) -> "ScoreResults":
        """Take the results of some images, by their numbers and in their order; steps and seconds stay those of all.

        Raises:
          ValueError: if an image is not there.
        """
        place = {number: row for row, number in enumerate(self.index.tolist())}
        if missing := [number for number in np.asarray(index).tolist() if number not in place]:
            raise ValueError(f"ScoreResults.part: image {missing[0]} is not among the {len(place)} attacked")
        rows = np.array([place[number] for number in np.asarray(index).tolist()], int)
        return dataclasses.replace(
            self, **{name: np.take(getattr(self, name), rows, _axis(name)) for name in PER_IMAGE}
        )


def score_suite(
    detector: Callable[..., ScoredNetwork],
    cases: Cases,
    *,
    batch_size: int = 512,
    smallest: int = 32,
    segment: int | None = None,
    sharding: NamedSharding | None = None,
    compete: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., ScoreResults]:
    """Build an evaluation that attacks a score on both sides, ID and OOD images in the same batches.

    See `runner.runner` for how: full batches, random numbers per image, resumption.

    Args:
      detector: (*arguments) -> ScoredNetwork, the OOD detector. It is traced in every call; detectors that do the same
        with other arrays, given as arguments or closed over, share programs.
      cases: from the threat, such as `functools.partial(score_cases.standard, classes=10)`.
      batch_size, smallest, segment, sharding, clock: as for `runner.runner`.
      compete: let the image itself compete, so that no attack helps the detector; False to see what published attacks
        leave that keep their last point.
    Returns:
      evaluate(key, images, is_id, threat, *arguments, index=None, given=None, memory=None, progress=None) ->
      ScoreResults.
      images: (n, ...) numpy, uint8 or floats in the box, ID and OOD; is_id: (n,) bool, which are ID; index: (n,)
      numbers, all different, 0, 1, ... by default.
      given: results on the same images in a ball that lies in this one: a worst case stays one.
      memory: keeps progress and takes it up again; progress: called with `Progress` after every segment.
      It raises ValueError for arrays that do not fit and for progress kept by another evaluation, RuntimeError if a
      point lies outside the threat, which would be a bug.
    """

    def evaluate(
        key: PRNGKeyArray,
        images: np.ndarray,
        is_id: np.ndarray,
        threat: Threat,
        *arguments: Any,
        index: np.ndarray | None = None,
        given: ScoreResults | None = None,
        memory: Memory | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> ScoreResults:
        is_id = np.asarray(is_id, bool)
        index = np.arange(len(is_id)) if index is None else np.asarray(index)
        _check(images, is_id, index, given)
        run = runner(
            _by_batch(detector, as_floats(images), arguments),
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
        sign = np.where(is_id, -1.0, 1.0).astype(np.float32)
        begin = None
        if given is not None:
            begin = given.x, sign * given.worst
        elif not compete:
            begin = as_floats(images), np.full(len(is_id), -np.inf, np.float32)
        found = run(
            key,
            Examples(as_floats(images), is_id, index),
            threat,
            begin=begin,
            memory=memory,
            progress=progress,
        )
        require_feasible(found, threat)
        return ScoreResults(
            attacks=found.attacks,
            index=index,
            is_id=is_id,
            clean=found.clean["score"],
            scores=sign * found.merit,
            x=found.x,
            worst=found.final["score"],
            prediction=found.final["prediction"],
            confidence=found.final["confidence"],
            distance=found.distance,
            steps=found.steps,
            seconds=found.seconds,
        )

    return evaluate


class _Traced(NamedTuple):
    """A traced score and what is known besides: equal for equal steps."""

    results: tuple[str, ...]
    classes: int | None
    of_activations: bool
    steps: Steps

    def __call__(self, arrays: list[Any]) -> ScoredNetwork:
        """Close it over its arrays."""

        def result(place: int) -> Callable[[Array], Array]:
            return lambda x: self.steps.results(arrays, x)[place]

        functions: dict[str, Any] = {name: result(place) for place, name in enumerate(self.results)}
        return ScoredNetwork(**functions, classes=self.classes, of_activations=self.of_activations)


def _by_batch(
    detector: Callable[..., ScoredNetwork], images: np.ndarray, arguments: tuple[Any, ...]
) -> ByBatch:
    """Trace a score, its logits and its surrogate together, so that they share what they have in common."""
    whole = detector(*arguments)
    names = tuple(name for name in ("score", "logits_fn", "surrogate") if getattr(whole, name) is not None)

    def results(*inputs: Any) -> tuple[Array, ...]:
        one = detector(*inputs[:-1])
        return tuple(getattr(one, name)(inputs[-1]) for name in names)

    return ByBatch(
        results, images.shape[1:], arguments, partial(_Traced, names, whole.classes, whole.of_activations)
    )


def numbered(sets: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Number the images of several sets, so that those of one keep their numbers when other sets join.

    Args:
      sets: how many images each has.
    Returns:
      (count,) numbers by set, all different, which depend on the name and the place in the set alone (unless two
      names fall together).
    Raises:
      ValueError: if a set has more than 2^20 images.
    """
    found, taken = {}, set()
    for name, count in sets.items():
        if count > LARGEST_SET:
            raise ValueError(f"numbered: {name} has {count} images, must be at most {LARGEST_SET}")
        block = zlib.crc32(name.encode()) % 2047
        while block in taken:
            block = (block + 1) % 2047
        taken.add(block)
        found[name] = block * LARGEST_SET + np.arange(count)
    return found


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
        axis = _axis(name)
        return np.take(np.concatenate([getattr(first, name), getattr(second, name)], axis), order, axis)

    rows = {name: joined(name) for name in PER_IMAGE}
    steps, seconds = first.steps + second.steps, first.seconds + second.seconds
    return ScoreResults(first.attacks, **rows, steps=steps, seconds=seconds)


def _above(first: ScoreResults, second: ScoreResults) -> ScoreResults:
    order = np.argsort(second.index)[np.argsort(np.argsort(first.index))]
    same = np.array_equal(second.is_id[order], first.is_id)
    if not same or not np.allclose(second.clean[order], first.clean, rtol=1e-4, atol=1e-4):
        raise ValueError(
            "merge: the reports differ in images or scores, must be about one detector and one data set"
        )
    if twice := set(first.attacks) & set(second.attacks):
        raise ValueError(f"merge: both reports ran {', '.join(sorted(twice))} on the same images")
    take = np.where(first.is_id, second.worst[order] < first.worst, second.worst[order] > first.worst)

    def worse(name: str) -> np.ndarray:
        one, two = getattr(first, name), getattr(second, name)[order]
        return np.where(take.reshape(-1, *[1] * (one.ndim - 1)), two, one)

    return dataclasses.replace(
        first,
        attacks=first.attacks + second.attacks,
        scores=np.concatenate([first.scores, second.scores[:, order]]),
        steps=np.concatenate([first.steps, second.steps]),
        seconds=np.concatenate([first.seconds, second.seconds]),
        **{name: worse(name) for name in ("x", "worst", "prediction", "confidence", "distance")},
    )


def _answer(detector: ScoredNetwork, keys: Keys, is_id: Mask, x: Array) -> dict[str, Array]:
    del keys
    score = detector.score(x).astype(jnp.float32)
    found = {"score": score, "merit": signed(score, is_id)}
    if detector.logits_fn is None:
        return found | {"prediction": constant(x, -1, jnp.int32), "confidence": constant(x, jnp.nan)}
    logits = detector.logits_fn(x).astype(jnp.float32)
    known = logits[:, : detector.classes]
    return found | {
        "prediction": known.argmax(axis=-1).astype(jnp.int32),
        "confidence": jnp.exp(known.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1)),
    }


def _axis(name: str) -> int:
    return 1 if name == "scores" else 0


def _none(answers: dict[str, np.ndarray], is_id: np.ndarray) -> np.ndarray:
    """Take no image for decided: a later case may find a worse score."""
    del answers
    return np.zeros(len(is_id), bool)


def _check(images: np.ndarray, is_id: np.ndarray, index: np.ndarray, given: ScoreResults | None) -> None:
    if len(is_id) == 0 or len(images) != len(is_id) or index.shape != is_id.shape:
        raise ValueError(
            f"score_suite: {len(images)} images, {len(is_id)} sides and {len(index)} indices given, must be as many "
            "of each and at least one"
        )
    if len(np.unique(index)) < len(index):
        raise ValueError("score_suite: index has the same number twice, must be different for every image")
    if given is not None and not np.array_equal(given.index, index):
        raise ValueError(
            "score_suite: given is a report on other images, must be on the same ones in the same order"
        )
