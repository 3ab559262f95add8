"""Run a suite of attacks over a data set: each attack on what is still standing, interruptible at any time."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PRNGKeyArray

from robustjax import logit
from robustjax.attacks.autoattack import Trial, check_trials
from robustjax.attacks.compose import wrong_classes
from robustjax.evaluation import course as courses
from robustjax.evaluation import pool
from robustjax.evaluation.course import Course
from robustjax.evaluation.pool import Fresh, Network, Trials
from robustjax.evaluation.verdicts import BROKEN, RESISTED, Verdicts
from robustjax.threats import Threat


class Standing(NamedTuple):
    """How far a suite is."""

    attack: str
    number: int  # of the attack, from 1
    attacks: int
    standing: int  # images no attack has broken
    images: int
    share: float  # of this attack
    work: float  # passes through the network so far
    work_left: float  # at most; whoever breaks stops early


@runtime_checkable
class Memory(Protocol):
    """Where a suite keeps its progress, so that it can be killed and goes on."""

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was kept last."""
        ...

    def keep(self, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """Keep what `arrays` returns, if it is time; called after every segment."""
        ...


def over(
    network: Network,
    trials: Trials,
    *,
    batch_size: int = 512,
    smallest: int = 32,
    segment: int | None = None,
    sharding: NamedSharding | None = None,
    verdict: Network | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Verdicts]:
    """Build an evaluation that runs a suite of attacks on a data set.

    Every attack takes the images still standing, each in a number of runs (targets, restarts). A batch of rows
    on the device is kept full: between two segments of a few iterations, runs that are over leave, the next ones
    enter, and when none is left the batch shrinks. Each row is a search of its own, with random numbers that
    depend on the image's index, the attack's name and the run alone: batch size, order, padding, segment length
    and devices change nothing but the rounding of the network. An image broken in several runs counts with
    the first of them, as if they had run in turn.

    Args:
      network: (*arguments) -> logits function, such as `functools.partial(types.frozen, model)`: what is attacked.
      trials: the suite, from the threat, such as `functools.partial(autoattack.standard, classes=10)`; the radius
        is traced, so a sweep compiles once.
      batch_size: rows on the device; rounded up to a multiple of the devices of `sharding`.
      smallest: the batch is halved down to this while runs run out. Each size is compiled once per attack. A long
        search (Square) begins with as many eighths of a size as hold its images, which saves more than it compiles.
      segment: iterations between two looks at the rows; by default chosen on the way, by how many leave.
      sharding: of the rows, such as `runtime.over_data(mesh)`; `arguments` are replicated.
      verdict: like `network`; decides what counts as broken where another function should: in float32 for a
        network attacked in bfloat16, over more passes for a randomised one.
      clock: seconds, increasing.

    Returns:
      evaluate(key, images, labels, threat, *arguments, index=None, given=None, every=False, memory=None,
      watch=None) -> Verdicts.
      images: (n, ...) numpy, uint8 or floats in the box; labels: (n,); index: (n,) the numbers of the images in
      their data set, 0, 1, ... by default.
      given: a report on the same images at this radius or a smaller one; what it broke stays broken.
      every: run every attack on all images classified correctly, also on those broken before.
      memory: keeps progress and takes it up again; watch: called with `Standing` after every segment.
      It raises ValueError for arrays that do not fit and for progress kept by another evaluation, RuntimeError if a
      point lies outside the threat, which would be a bug.
    """
    if segment is not None and segment < 1:
        raise ValueError(f"suite: segment is {segment}, must be at least 1")
    devices = sharding.num_devices if sharding else 1
    sizes = pool.buckets(batch_size, min(smallest, batch_size), devices)
    turn = pool.turns(network, trials, sharding)
    look = _looks(verdict or network, sizes, sharding)

    def evaluate(
        key: PRNGKeyArray,
        images: np.ndarray,
        labels: np.ndarray,
        threat: Threat,
        *arguments: Any,
        index: np.ndarray | None = None,
        given: Verdicts | None = None,
        every: bool = False,
        memory: Memory | None = None,
        watch: Callable[[Standing], None] | None = None,
    ) -> Verdicts:
        labels = np.asarray(labels, np.int32)
        index = np.arange(len(labels)) if index is None else np.asarray(index)
        suite = tuple(trials(threat))
        check_trials(suite)
        width = max(max(trial.targets for trial in suite), 1)
        _check(images, labels, index, given)
        images = _floats(images)
        owner = _owner(key, images, labels, index, threat, suite, every, given)

        kept = memory.load() if memory else None
        if kept:
            course = courses.unpacked(kept, owner, suite, sharding)
        else:
            clean, value, targets = look(images, labels, width, arguments)
            course = courses.begin(images, clean, value, targets, len(suite))
            if given is not None:
                course.x[:], course.value[:] = given.x, given.value
        gone = np.zeros(len(labels), bool) if given is None else given.broken

        def one_turn(trial: Trial, able: np.ndarray, counted: np.ndarray) -> bool:
            """Make one segment; False if nothing is left to do for this attack."""
            began, rows = clock(), course.rows
            if segment is not None:
                rows.count = segment
            late = rows.live & (rows.run > course.broke[rows.example])
            rows.example[late] = pool.FREE
            busy = int(rows.live.sum())
            waiting = course.waiting(able, trial.runs, max(sizes[-1] - busy, 0))
            needed, held = busy + len(waiting), len(rows.example)
            if needed == 0:
                return False
            size = pool.fitting(sizes, needed)
            if held == 0 and trial.solver.length >= pool.TAILORED:
                size = pool.tailored(size, needed, devices)
            # A run that was begun in batches of another size has too few rows, or more than this one's largest.
            if held < needed or needed <= size < held:
                rows = course.rows = rows.resized(size, images.shape[1:], trial, sharding)
            entered = rows.enter(waiting % len(labels), waiting // len(labels))
            if len(waiting):
                course.next = int(waiting[-1]) + 1
            fresh = _fresh(course, trial, entered, images, labels, index)
            count = rows.segment(trial.solver.length) if segment is None else segment
            inputs = pool.spread(fresh, sharding), key, jnp.int32(count), threat, arguments
            rows.state, found, over_, step = turn(rows.state, *inputs, trial=course.trial)
            done, step, live = np.flatnonzero(np.asarray(over_) & rows.live), np.asarray(step), rows.live
            course.steps[course.trial] += int((step - rows.step)[live].sum())
            rows.step[:] = step
            if len(done):
                course.record(done, np.asarray(found.value), np.asarray(found.x), counted)
            rows.pace(len(done) / live.sum(), trial.solver.length)
            course.seconds[course.trial] += clock() - began
            return True

        def confirm(counted: np.ndarray) -> None:
            """Recompute what an attack claims in one more pass."""
            claimed = np.flatnonzero((course.broke != courses.NONE) & counted)
            if len(claimed):
                prediction, course.value[claimed], _ = look(
                    course.x[claimed], labels[claimed], width, arguments
                )
                refuted = claimed[prediction == labels[claimed]]
                course.outcome[course.trial, refuted] = RESISTED

        while course.trial < len(suite):
            trial = suite[course.trial]
            broken = (course.outcome[: course.trial] == BROKEN).any(axis=0) | gone
            right = course.clean == labels
            able, counted = right & (~broken | every), right & ~broken
            while one_turn(trial, able, counted):
                if memory:
                    memory.keep(lambda: courses.packed(course, owner))
                if watch:
                    watch(_standing(course, suite, able, counted))
            confirm(counted)
            course.conclude()

        prediction, value, _ = look(course.x, labels, width, arguments)
        return Verdicts(
            attacks=tuple(trial.name for trial in suite),
            index=index,
            label=labels,
            clean=course.clean,
            already=gone,
            outcome=course.outcome,
            margin=course.margin,
            x=course.x,
            prediction=prediction,
            value=value,
            distance=_validated(course.x, images, threat),
            steps=course.steps,
            seconds=course.seconds,
        )

    return evaluate


def _looks(
    network: Network, sizes: list[int], sharding: NamedSharding | None
) -> Callable[..., tuple[np.ndarray, ...]]:
    """Build (x, labels, targets, arguments) -> prediction (-1 where NaN), margin, wrong classes by falling logit."""

    def one(x, y, targets, arguments):
        logits = network(*arguments)(x).astype(jnp.float32)
        guess = logits.argmax(axis=-1).astype(jnp.int32)
        broken = jnp.isnan(logits).any(axis=-1)
        return (
            jnp.where(broken, -1, guess),
            logit.margin(logits, y),
            wrong_classes(logits, y, targets.shape[0]),
        )

    compiled = jax.jit(one)

    def look(x: np.ndarray, y: np.ndarray, targets: int, arguments: Any) -> tuple[np.ndarray, ...]:
        size, parts = pool.fitting(sizes, len(y)), []
        for first in range(0, len(y), size):
            rows = np.minimum(np.arange(first, first + size), len(y) - 1)
            batch = pool.spread((x[rows], y[rows]), sharding)
            parts.append(jax.tree.map(np.asarray, compiled(*batch, np.zeros(targets), arguments)))
        return tuple(np.concatenate(columns)[: len(y)] for columns in zip(*parts, strict=True))

    return look


def _fresh(
    course: Course,
    trial: Trial,
    entered: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
) -> Any:
    rows = course.rows
    example = np.maximum(rows.example, 0)
    load, x = np.zeros(len(example), bool), np.zeros((len(example), *images.shape[1:]), np.float32)
    load[entered], x[entered] = True, images[example[entered]]
    rank = np.minimum(rows.run // trial.restarts, course.targets.shape[1] - 1)
    target = course.targets[example, rank] if trial.targets else labels[example]
    numbers = (a.astype(np.int32) for a in (target, index[example], rows.run))
    fields: tuple[Any, ...] = (load, x, labels[example], *numbers)
    return Fresh(*fields)


def _standing(course: Course, suite: tuple[Trial, ...], able: np.ndarray, counted: np.ndarray) -> Standing:
    rows, trial = course.rows, suite[course.trial]
    unbroken = able & (course.broke == courses.NONE)
    begun, following = divmod(course.next, len(able))
    waiting = unbroken.sum() * (trial.runs - begun) - unbroken[:following].sum()
    steps = waiting * trial.solver.length + (trial.solver.length - rows.step)[rows.live].sum()
    left = int((counted & (course.broke == courses.NONE)).sum())
    later = sum(left * one.runs * one.solver.length * one.passes for one in suite[course.trial + 1 :])
    done = course.steps[course.trial]
    return Standing(
        attack=trial.name,
        number=course.trial + 1,
        attacks=len(suite),
        standing=left,
        images=len(able),
        share=float(done / max(done + steps, 1)),
        work=float(sum(n * one.passes for n, one in zip(course.steps, suite, strict=True))),
        work_left=float(steps * trial.passes + later),
    )


def _floats(images: np.ndarray) -> np.ndarray:
    """Turn bytes into floats in [0, 1], correctly rounded, which a compiled division is not."""
    images = np.asarray(images)
    return (
        images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)
    )


def _owner(key, images, labels, index, threat: Threat, suite, every: bool, given: Verdicts | None) -> str:
    settings = [str((trial.name, trial.runs, trial.solver.length)) for trial in suite]
    earlier = [] if given is None else [given.broken]
    bounds = [np.asarray(value, np.float64) for value in (threat.eps, threat.lower, threat.upper)]
    texts = np.array([threat.norm, str(every), *settings])
    return courses.owner(jax.random.key_data(key), images, labels, index, *bounds, texts, *earlier)


def _check(images: np.ndarray, labels: np.ndarray, index: np.ndarray, given: Verdicts | None) -> None:
    if len(labels) == 0 or len(images) != len(labels) or index.shape != labels.shape:
        raise ValueError(
            f"suite: {len(images)} images, {len(labels)} labels and {len(index)} indices given, must be as many of "
            "each and at least one"
        )
    if len(np.unique(index)) < len(index):
        raise ValueError("suite: index has the same number twice, must be different for every image")
    if given is not None and not np.array_equal(given.index, index):
        raise ValueError(
            "suite: given is a report on other images, must be on the same ones in the same order"
        )


def _validated(x: np.ndarray, images: np.ndarray, threat: Threat) -> np.ndarray:
    """Measure every point in float64, and refuse a result with one outside the threat."""
    delta = (x.astype(np.float64) - images).reshape(len(x), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.norm]
    distance = np.linalg.norm(delta, ord=order, axis=1)
    # Rounding x + delta to float32 moves a feature by up to 2^-25, and d of them in l1.
    slack = 1e-6 * np.asarray(threat.eps) + 1e-7 * (
        1 if threat.norm == "linf" else delta.shape[1] ** (1 / order)
    )
    bad = (distance > np.asarray(threat.eps) + slack) | ~np.isfinite(distance)
    bad |= ((x < threat.lower) | (x > threat.upper)).reshape(len(x), -1).any(axis=1) & (distance > 0)
    if bad.any():
        worst = int(np.argmax(np.where(bad, np.nan_to_num(distance, nan=np.inf), -1)))
        raise RuntimeError(
            f"suite: the point found for example {worst} is at distance {distance[worst]} of {threat.eps} or outside "
            "the box; this is a bug, please report it"
        )
    return distance
