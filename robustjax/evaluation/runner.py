"""Run cases over a set of examples: each on what is not decided yet, in full batches, interruptible at any time.

The runner knows of no classifier. It takes cases, examples, a system under attack and what the system answers, and
gives the strongest point that was found for every example. `suite` runs it on classifiers, `score_suite` on the scores
of OOD detectors, `purifier` on classifiers behind a gate and a translator.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PRNGKeyArray

from robustjax import l0
from robustjax.attacks.case import Case, check_cases
from robustjax.evaluation import pool, suite_state
from robustjax.evaluation.ahead import cancel, compile_ahead, wait
from robustjax.evaluation.pool import CaseAt, Cases, Fresh, Segment
from robustjax.evaluation.suite_state import BROKEN, NONE, NOT_RUN, ROBUST, SuiteState
from robustjax.numerics import in_float32
from robustjax.threats import Threat
from robustjax.traced import SMALL, ByBatch, Steps, operations

System = Callable[..., Any]  # (*arguments) -> what objectives and `Answer` take
Answer = Callable[[Any, PRNGKeyArray, Any, Array], dict[str, Array]]  # (system, keys, data, x) -> by name


class Progress(NamedTuple):
    """How far a suite is."""

    attack: str
    number: int  # of the case, from 1
    attacks: int
    robust: int  # examples that no case has decided
    images: int
    share: float  # of this case
    work: float  # passes through the network so far
    work_left: float  # at most; whatever is decided stops early


@runtime_checkable
class Memory(Protocol):
    """Where a suite keeps its progress, so that it can be killed and goes on."""

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was kept last."""
        ...

    def keep(self, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """Keep what `arrays` returns, if it is time; called after every segment."""
        ...


class Examples(NamedTuple):
    """What is attacked; arrays on the host that lead with n.

    Attributes:
      x: (n, ...) float32.
      data: pytree of what is known of each example, such as its label.
      number: (n,) of each in its data set; with the key it decides its random numbers.
    """

    x: np.ndarray
    data: Any
    number: np.ndarray


class Attacked(NamedTuple):
    """What the cases did to every example.

    Attributes:
      attacks: (a,) names of the cases.
      clean, final: by name, (n, ...) what the system answers for the examples and for the points found.
      outcome: (a, n) int8: BROKEN, ROBUST, or NOT_RUN.
      merit: (a, n) the largest merit that each case reached; NaN where it was not run.
      x: (n, ...) the first point met that decides the example; where there is none, that of largest merit.
      distance: (n,) from the example, in the norm of the threat, in float64.
      feasible: (n,) whether the point lies in the threat.
      steps, seconds: (a,) iterations made for all examples together, and time spent.
      runs: (a,) runs that were begun for some example.
    """

    attacks: tuple[str, ...]
    clean: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    outcome: np.ndarray
    merit: np.ndarray
    x: np.ndarray
    distance: np.ndarray
    feasible: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray
    runs: np.ndarray


def runner(
    system: System | ByBatch,
    cases: Cases,
    answer: Answer,
    decided: Callable[[dict[str, np.ndarray], Any], np.ndarray],
    *,
    reference: System | ByBatch | None = None,
    until: float = 0.0,
    batch_size: int = 512,
    smallest: int = 32,
    segment: int | None = None,
    sharding: NamedSharding | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Attacked]:
    """Build an evaluation that runs cases over examples.

    Every case takes the examples that are not decided yet, each in a number of runs. A batch of rows on the device
    is kept full: between two segments of a few iterations, runs that are over leave, the next ones enter, and when
    none is left the batch shrinks. Each row is a search of its own, with random numbers that depend on the example's
    index, the case and the run alone: batch size, order, padding, segment length and devices change nothing but the
    rounding of the network. An example decided in several runs counts with the first of them, as if they had run in
    turn.

    Args:
      system: (*arguments) -> what is attacked, as the objectives of the cases take it; or a traced function.
      cases: from the threat to the cases; the radius is traced, so a sweep compiles once.
      answer: (system, keys, data, x) -> what the system under evaluation says of points, by name, per example;
        "merit" among it, in the units of the cases. It has the last word on what was found.
      decided: (answers, data) on the host -> (n,) bool: which examples need no further search, such as those that
        are misclassified.
      reference: the system that answers, where it is another one than is attacked.
      until: the merit above which a run stops; inf to let every case improve on the last.
      batch_size: rows on the device; rounded up to a multiple of the devices of `sharding`.
      smallest: the batch is halved down to this while runs run out, where that saves more than it costs to compile
        a program for another size: not for a small network, for which every program has one size, whatever the radius
        is. A long search (Square) then begins with as many eighths of a size as hold its examples.
      segment: iterations between two looks at the rows; by default chosen on the way, by how many leave.
      sharding: of the rows, such as `runtime.over_data(mesh)`; `arguments` are replicated.
      clock: seconds, increasing.

    Returns:
      run(key, examples, threat, *arguments, clean=None, already=None, begin=None, every=False, memory=None,
      progress=None) -> Attacked.
      clean: what `answer` says of the examples, where that is known; already: (n,) bool, decided before; begin:
      points and merits to go on from.
      every: run every case on all examples that are not decided from the start, also on those that others decided.
      memory: keeps progress and takes it up again; progress: called with `Progress` after every segment.
      It raises ValueError for progress kept by another evaluation.
    """
    if segment is not None and segment < 1:
        raise ValueError(f"suite: segment is {segment}, must be at least 1")
    devices = sharding.num_devices if sharding else 1
    where = list(sharding.device_set) if sharding else jax.devices()
    buckets = pool.buckets(batch_size, min(smallest, batch_size), devices)

    def run(
        key: PRNGKeyArray,
        examples: Examples,
        threat: Threat,
        *arguments: Any,
        clean: dict[str, np.ndarray] | None = None,
        already: np.ndarray | None = None,
        begin: tuple[np.ndarray, np.ndarray] | None = None,
        every: bool = False,
        memory: Memory | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Attacked:
        listed = tuple(cases(threat))
        check_cases(listed)
        n = len(examples.number)
        largest = pool.largest(buckets, n, devices)
        sizes = [*(size for size in buckets if size < largest), largest]
        traced = _strong(threat)
        before = np.zeros(n, bool) if already is None else already
        fingerprint = _fingerprint(key, examples, threat, listed, every, already)

        deciding, first = reference or system, np.zeros(largest, np.int64)
        question = _question(answer, deciding, sharding, key, examples, first, examples.x[first], arguments)
        cost = operations(answered.trace(*question).jaxpr.jaxpr) / largest
        per_iteration = pool.OF_A_SOLVER * math.prod(examples.x.shape[1:])

        def asked(rows: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
            size = pool.affordable(sizes, pool.fitting(sizes, len(rows)), largest, cost, where)
            return ask(answer, deciding, size, sharding, key, examples, rows, x, arguments)

        def empty(suite: SuiteState, count: int) -> Any:
            return pool.blank(listed[suite.case], _fresh(suite, suite.case, listed, examples, count=count))

        def program(place: int) -> Any:
            return listed[place].program or CaseAt(cases, place)

        def segment_of(suite: SuiteState, place: int, state: Any, fresh: Fresh, count: int) -> Segment:
            attacked, given = _at(system, len(fresh.run) // devices, arguments)
            return pool.SEGMENT.of(cost)(
                state,
                pool.spread(fresh, sharding),
                key,
                listed[place].stream,
                np.int32(count),
                np.float32(np.inf if listed[place].transfer else until),
                traced,
                given,
                system=attacked,
                program=program(place),
                sharding=sharding,
            )

        kept = memory.load() if memory else None
        if kept:
            suite = suite_state.unpacked(kept, fingerprint, empty, sharding)
        else:
            suite = suite_state.begin(examples.x, clean or asked(np.arange(n), examples.x), listed)
            if begin is not None:
                suite.x[:], suite.value[:] = begin
                suite.first[:] = suite.x[: len(suite.first)]
        open_ = ~decided(suite.clean, examples.data)

        def one_segment(case: Case, able: np.ndarray, counted: np.ndarray) -> bool:
            """Make one segment; False if nothing is left to do for this case."""
            began, rows = clock(), suite.rows
            if segment is not None:
                rows.count = segment
            late = rows.live & (rows.run > suite.decided_by[rows.example])
            rows.example[late] = pool.FREE
            busy = int(rows.live.sum())
            waiting = suite.waiting(able, case.runs, max(sizes[-1] - busy, 0))
            needed, held = busy + len(waiting), len(rows.example)
            if needed == 0:
                return False
            size = pool.fitting(sizes, needed)
            if held == 0 and case.solver.length >= pool.TAILORED:
                size = pool.tailored(size, needed, devices)
            gone = rows.step[rows.live].min() if busy and not len(waiting) else 0
            work = (case.solver.length - gone) * (case.passes * cost + per_iteration)
            size = pool.affordable(sizes, size, held if held >= needed else largest, work, where)
            # A run that was begun in batches of another size has too few rows, or more than this one's largest.
            if held < needed or needed <= size < held:
                rows = suite.rows = rows.resized(size, partial(empty, suite), sharding)
            entered = rows.enter(waiting % n, waiting // n)
            if len(waiting):
                suite.next = int(waiting[-1]) + 1
                suite.runs[suite.case] = waiting[-1] // n + 1
            count = rows.iterations(case.solver.length) if segment is None else segment
            if ahead is not None:
                wait(ahead, (program(suite.case), len(rows.example)))
            fresh = _fresh(suite, suite.case, listed, examples, entered)
            made = segment_of(suite, suite.case, rows.state, fresh, count)
            rows.state = made.state
            done, step, live = (
                np.flatnonzero(np.asarray(made.over) & rows.live),
                np.asarray(made.step),
                rows.live,
            )
            suite.steps[suite.case] += int((step - rows.step)[live].sum())
            rows.step[:] = step
            if len(done):
                found = np.asarray(made.found.value), np.asarray(made.found.x)
                limit = np.inf if case.transfer else until
                suite.record(done, *found, counted, until=limit, transfer=case.transfer)
            rows.pace(len(done) / live.sum(), case.solver.length)
            suite.seconds[suite.case] += clock() - began
            return True

        def confirm(case: Case, counted: np.ndarray) -> None:
            """Ask the system under evaluation about what a case claims, in one more pass."""
            here = suite.case
            if case.transfer:
                tried = np.flatnonzero((suite.outcome[here] != NOT_RUN) & counted)
                if len(tried):
                    said = asked(tried, suite.candidate[tried])
                    merit = np.where(np.isnan(said["merit"]), -np.inf, said["merit"])
                    suite.merit[here, tried] = merit
                    suite.outcome[here, tried] = np.where(_decided(tried, said), BROKEN, ROBUST)
                    better = merit > suite.value[tried]
                    suite.x[tried[better]] = suite.candidate[tried[better]]
                    suite.value[tried[better]] = merit[better]
                return
            claimed = np.flatnonzero((suite.decided_by != NONE) & counted)
            if len(claimed):
                said = asked(claimed, suite.x[claimed])
                suite.value[claimed] = said["merit"]
                suite.outcome[here, claimed[~_decided(claimed, said)]] = ROBUST

        def _decided(rows: np.ndarray, said: dict[str, np.ndarray]) -> np.ndarray:
            return decided(said, jax.tree.map(lambda values: values[rows], examples.data))

        def rehearse(place: int) -> None:
            """Compile the program of a case for the largest batch, by calling it for no iterations."""
            fresh = _fresh(suite, place, listed, examples, count=largest)
            state = pool.spread(pool.blank(listed[place], fresh), sharding)
            segment_of(suite, place, state, fresh, 0)

        ahead = _steps(system, largest // devices) if cost < SMALL else None
        if ahead is not None:
            now = program(suite.case) if suite.case < len(listed) else None
            for place in range(suite.case, len(listed)):
                work = listed[place].solver.length * (listed[place].passes * cost + per_iteration)
                # What is needed first is compiled here; a size that may not be the one needed is not worth it.
                if (
                    program(place) != now
                    and pool.affordable(sizes, sizes[0], largest, work, where) == largest
                ):
                    compile_ahead(ahead, (program(place), largest), partial(rehearse, place))

        while suite.case < len(listed):
            case = listed[suite.case]
            broken = (suite.outcome[: suite.case] == BROKEN).any(axis=0) | before
            able, counted = open_ & (~broken | every), open_ & ~broken
            if case.warm_start:
                few = np.flatnonzero(able)
                suite.at_first = {name: np.array(values) for name, values in suite.clean.items()}
                for name, values in (asked(few, suite.first[few]) if len(few) else {}).items():
                    suite.at_first[name][few] = values
            if progress:  # the first segment may have to be compiled
                progress(_progress(suite, listed, able, counted))
            while one_segment(case, able, counted):
                if memory:
                    memory.keep(lambda: suite_state.packed(suite, fingerprint))
                if progress:
                    progress(_progress(suite, listed, able, counted))
            confirm(case, counted)
            suite.conclude()
        if ahead is not None:
            cancel(ahead)

        distance, feasible = measured_distance(suite.x, examples.x, threat)
        return Attacked(
            attacks=tuple(case.name for case in listed),
            clean=suite.clean,
            final=asked(np.arange(n), suite.x),
            outcome=suite.outcome,
            merit=suite.merit,
            x=suite.x,
            distance=distance,
            feasible=feasible,
            steps=suite.steps,
            seconds=suite.seconds,
            runs=suite.runs,
        )

    return run


def measured_distance(x: np.ndarray, origin: np.ndarray, threat: Threat) -> tuple[np.ndarray, np.ndarray]:
    """Measure every point in float64: (n,) distance from its example, (n,) whether it lies in the threat.

    In l0 the distance is the number of pixels that are not the example's own, to the bit.
    """
    delta = (x.astype(np.float64) - origin).reshape(len(x), -1)
    box = np.asarray(threat.lower), np.asarray(threat.upper)
    outside = ((x < box[0]) | (x > box[1])).reshape(len(x), -1).any(axis=1)
    if threat.norm == "l0":
        changed = (x != origin).reshape(len(x), -1, l0.width(x.shape, threat.channels)).any(axis=2)
        counted = changed.sum(axis=1).astype(np.float64)
        bad = (counted > np.asarray(threat.eps)) | ~np.isfinite(delta).all(axis=1) | (outside & (counted > 0))
        return counted, ~bad
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.norm]
    distance = np.linalg.norm(delta, ord=order, axis=1)
    # Rounding x + delta to float32 moves a feature by up to 2^-25, and d of them in l1.
    slack = 1e-6 * np.asarray(threat.eps) + 1e-7 * (
        1 if threat.norm == "linf" else delta.shape[1] ** (1 / order)
    )
    bad = (distance > np.asarray(threat.eps) + slack) | ~np.isfinite(distance)
    bad |= outside & (distance > 0)
    return distance, ~bad


def require_feasible(found: Attacked, threat: Threat) -> None:
    """Refuse a result with a point outside the threat.

    Raises:
      RuntimeError: if there is one, which would be a bug.
    """
    if not found.feasible.all():
        worst = int(np.argmax(np.where(found.feasible, -1, np.nan_to_num(found.distance, nan=np.inf))))
        raise RuntimeError(
            f"suite: the point found for example {worst} is at distance {found.distance[worst]} of {threat.eps} or "
            "outside the box; this is a bug, please report it"
        )


@partial(jax.jit, static_argnames=("answer", "system"))
@in_float32
def answered(
    answer: Answer, system: System, key: PRNGKeyArray, index: Array, data: Any, x: Array, arguments: Any
) -> dict[str, Array]:
    """Ask what the system says of a batch."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    return answer(system(*arguments), keys, data, x)


def ask(
    answer: Answer,
    system: System | ByBatch,
    size: int,
    sharding: NamedSharding | None,
    key: PRNGKeyArray,
    examples: Examples,
    rows: np.ndarray,
    x: np.ndarray,
    arguments: Any,
) -> dict[str, np.ndarray]:
    """Ask what the system says of points x (m, ...) of the examples `rows` (m,), in batches of a size."""
    parts = []
    for first in range(0, len(rows), size):
        some = np.minimum(np.arange(first, first + size), len(rows) - 1)
        question = _question(answer, system, sharding, key, examples, rows[some], x[some], arguments)
        parts.append(jax.tree.map(np.asarray, answered(*question)))
    return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}


def _question(
    answer: Answer,
    system: System | ByBatch,
    sharding: NamedSharding | None,
    key: PRNGKeyArray,
    examples: Examples,
    rows: np.ndarray,
    x: np.ndarray,
    arguments: Any,
) -> tuple[Any, ...]:
    attacked, given = _at(system, len(rows), arguments)
    data = jax.tree.map(lambda values: values[rows], examples.data)
    index, data, points = pool.spread((examples.number[rows].astype(np.int32), data, x), sharding)
    return answer, attacked, key, index, data, points, given


def _at(system: System | ByBatch, size: int, arguments: Any) -> tuple[System, Any]:
    """Give a system and its arguments for batches of a size."""
    return system.at(size) if isinstance(system, ByBatch) else (system, arguments)


def _steps(system: System | ByBatch, size: int) -> Steps | None:
    return system.traced(size)[0] if isinstance(system, ByBatch) else None


def _strong(threat: Threat) -> Threat:
    """Let equal numbers of different types share programs."""
    numbers = {
        name: np.float32(value)
        for name in ("eps", "lower", "upper")
        if isinstance(value := getattr(threat, name), int | float | np.number)
    }
    return dataclasses.replace(threat, **numbers)


def _fresh(
    suite: SuiteState,
    place: int,
    listed: Sequence[Case],
    examples: Examples,
    entered: np.ndarray | None = None,
    count: int = 0,
) -> Fresh:
    """Collect what the rows need; `count` empty rows where nothing has entered any."""
    case = listed[place]
    example = np.zeros(count, np.int64) if entered is None else np.maximum(suite.rows.example, 0)
    run = np.zeros(count, np.int64) if entered is None else suite.rows.run
    load, x = np.zeros(len(example), bool), np.zeros((len(example), *examples.x.shape[1:]), np.float32)
    if entered is not None:
        load[entered], x[entered] = True, examples.x[example[entered]]
    number, turn = examples.number[example].astype(np.int32), run.astype(np.int32)
    data, clean = jax.tree.map(lambda values: values[example], (examples.data, suite.clean))
    fields: tuple[Any, ...] = (load, x, data, clean, number, turn, case.parameters_of(run))
    if not case.warm_start:
        return Fresh(*fields)
    best, at_first = np.zeros_like(x), suite.at_first or suite.clean
    if entered is not None:
        best[entered] = suite.first[example[entered]]
    at_best = jax.tree.map(lambda values: values[example], at_first)
    return Fresh(*fields)._replace(best=best, at_best=at_best)


def _progress(suite: SuiteState, cases: tuple[Case, ...], able: np.ndarray, counted: np.ndarray) -> Progress:
    rows, case = suite.rows, cases[suite.case]
    open_ = able & (suite.decided_by == NONE)
    begun, following = divmod(suite.next, len(able))
    waiting = open_.sum() * (case.runs - begun) - open_[:following].sum()
    steps = waiting * case.solver.length + (case.solver.length - rows.step)[rows.live].sum()
    left = int((counted & (suite.decided_by == NONE)).sum())
    later = sum(left * one.runs * one.solver.length * one.passes for one in cases[suite.case + 1 :])
    done = suite.steps[suite.case]
    return Progress(
        attack=case.name,
        number=suite.case + 1,
        attacks=len(cases),
        robust=left,
        images=len(able),
        share=float(done / max(done + steps, 1)),
        work=float(sum(n * one.passes for n, one in zip(suite.steps, cases, strict=True))),
        work_left=float(steps * case.passes + later),
    )


def _fingerprint(
    key: PRNGKeyArray,
    examples: Examples,
    threat: Threat,
    cases: tuple[Case, ...],
    every: bool,
    already: np.ndarray | None,
) -> str:
    settings = [str((case.name, case.runs, case.solver.length)) for case in cases]
    bounds = [np.asarray(value, np.float64) for value in (threat.eps, threat.lower, threat.upper)]
    texts = np.array([threat.norm, str(every), *settings])
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((examples, [case.parameters for case in cases]))]
    earlier = [] if already is None else [already]
    return suite_state.fingerprint(jax.random.key_data(key), *arrays, *bounds, texts, *earlier)
