"""How far a suite of cases is, on the host, and how that is kept in a file."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from robustjax.attacks.case import Case
from robustjax.evaluation import pool
from robustjax.evaluation.pool import Pool

NOT_RUN, ROBUST, BROKEN = -1, 0, 1
NONE = np.iinfo(np.int64).max
PER_EXAMPLE = ("x", "value", "first", "candidate", "candidate_merit", "source", "decided_by")
PER_CASE = ("outcome", "merit", "steps", "seconds", "runs")


@dataclasses.dataclass
class SuiteState:
    """All that changes while a suite runs. A unit of work is run * examples + example.

    Attributes:
      case: the case that runs now, `next` its first unit that has not begun.
      clean: by name, (n, ...) what the system answers for the examples themselves.
      x, value: strongest point so far and its merit; `source` is the run of this case that it is from, NONE
        if it is from an earlier case or the example itself.
      first: (n, ...) the strongest point of the cases before this one, as long as none of them decided the example;
        empty if no case has a `warm_start`. `at_first` is what the system answers there, by name.
      candidate, candidate_merit: strongest point of a case that transfers, and its merit there.
      decided_by: (n,) the lowest run of this case that decided the example, NONE if none did.
      outcome: (a, n) int8: BROKEN, ROBUST, or NOT_RUN.
      merit: (a, n) the largest merit that each case reached; NaN where it was not run.
      steps, seconds, runs: (a,) iterations, time spent, and runs begun.
    """

    case: int
    next: int
    clean: dict[str, np.ndarray]
    x: np.ndarray
    value: np.ndarray
    first: np.ndarray
    candidate: np.ndarray
    candidate_merit: np.ndarray
    source: np.ndarray
    decided_by: np.ndarray
    outcome: np.ndarray
    merit: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray
    runs: np.ndarray
    rows: Pool
    at_first: dict[str, np.ndarray] | None = None

    def waiting(self, able: np.ndarray, runs: int, most: int) -> np.ndarray:
        """List the next units of the examples that may be attacked and are not decided, `most` at most."""
        n = len(able)
        found: list[np.ndarray] = []
        missing, unit = most, self.next
        while missing > 0 and unit < runs * n:
            run, example = divmod(unit, n)
            block = np.flatnonzero((able & (self.decided_by == NONE))[example:])[:missing] + example
            found.append(run * n + block)
            missing -= len(block)
            unit = (run + 1) * n
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def record(
        self,
        done: np.ndarray,
        value: np.ndarray,
        x: np.ndarray,
        counted: np.ndarray,
        *,
        until: float,
        transfer: bool,
    ) -> None:
        """Take note of the rows whose run is over; only the `counted` examples may change their point."""
        here = self.case
        best, merits = (self.candidate, self.candidate_merit) if transfer else (self.x, self.value)
        for row in done:
            i, run, merit = self.rows.example[row], self.rows.run[row], value[row]
            merit = -np.inf if np.isnan(merit) else merit
            hit, first = merit > until, run < self.decided_by[i]
            reached = self.merit[here, i]
            # A decided example counts with its first run, as if they had run in turn.
            if (hit and first) or (self.decided_by[i] == NONE and not reached >= merit):
                self.merit[here, i] = merit
            if hit and first:
                self.decided_by[i] = run
            self.outcome[here, i] = BROKEN if self.decided_by[i] != NONE else ROBUST
            stronger = merit > merits[i] or (merit == merits[i] and run < self.source[i] != NONE)
            if counted[i] and ((hit and first) or (self.decided_by[i] == NONE and stronger)):
                best[i], merits[i], self.source[i] = x[row], merit, run
            self.rows.example[row] = pool.FREE

    def conclude(self) -> None:
        """Go on to the next case."""
        self.source[:], self.decided_by[:] = NONE, NONE
        self.candidate_merit[:] = -np.inf
        if len(self.first):
            undecided = ~(self.outcome[: self.case + 1] == BROKEN).any(axis=0)
            self.first[undecided] = self.x[undecided]
        self.at_first = None
        self.case, self.next, self.rows = self.case + 1, 0, Pool.empty()


def begin(x: np.ndarray, clean: dict[str, np.ndarray], cases: tuple[Case, ...]) -> SuiteState:
    """Start before the first case, from the examples and what one pass over them said."""
    n, table = len(x), (len(cases), len(x))
    return SuiteState(
        case=0,
        next=0,
        clean=clean,
        x=x.copy(),
        value=np.array(clean["merit"], np.float32),
        first=x.copy() if any(case.warm_start for case in cases) else x[:0],
        candidate=x.copy() if any(case.transfer for case in cases) else x[:0],
        candidate_merit=np.full(n, -np.inf, np.float32),
        source=np.full(n, NONE),
        decided_by=np.full(n, NONE),
        outcome=np.full(table, NOT_RUN, np.int8),
        merit=np.full(table, np.nan, np.float32),
        steps=np.zeros(len(cases), np.int64),
        seconds=np.zeros(len(cases)),
        runs=np.zeros(len(cases), np.int64),
        rows=Pool.empty(),
    )


def packed(suite: SuiteState, fingerprint: str) -> dict[str, np.ndarray]:
    """Turn a state into arrays by name; the fingerprint says which evaluation it belongs to."""
    rows = suite.rows
    arrays = {name: getattr(suite, name) for name in PER_EXAMPLE + PER_CASE}
    arrays |= {f"clean.{name}": values for name, values in suite.clean.items()}
    arrays |= {f"rows.{name}": getattr(rows, name) for name in ("example", "run", "step")}
    arrays |= {f"state.{i}": leaf for i, leaf in enumerate(pool.on_host(rows.state))}
    numbers = np.array([suite.case, suite.next, rows.count])
    return {**arrays, "numbers": numbers, "fingerprint": np.array(fingerprint)}


def unpacked(
    arrays: dict[str, np.ndarray],
    fingerprint: str,
    empty: Callable[[SuiteState, int], Any],
    sharding: NamedSharding | None,
) -> SuiteState:
    """Undo `packed`; `empty` makes a solver's state of so many rows.

    Raises:
      ValueError: if the arrays belong to another evaluation.
    """
    if (found := str(arrays.get("fingerprint"))) != fingerprint:
        raise ValueError(
            f"suite: the progress found belongs to evaluation {found}, must be of this one, {fingerprint}: "
            "the same images, labels, key, radius and attacks; start elsewhere or remove it"
        )
    case, following, count = (int(number) for number in arrays["numbers"])
    rows = Pool(*(arrays[f"rows.{name}"].copy() for name in ("example", "run", "step")), count=count)
    clean = {name[6:]: values for name, values in arrays.items() if name.startswith("clean.")}
    fields: dict[str, Any] = {name: arrays[name].copy() for name in PER_EXAMPLE + PER_CASE}
    suite = SuiteState(case=case, next=following, clean=clean, rows=rows, **fields)
    if len(rows.example):
        shapes = jax.eval_shape(lambda: empty(suite, len(rows.example)))
        leaves = [arrays[f"state.{i}"] for i in range(len(jax.tree.leaves(shapes)))]
        rows.state = pool.on_device(leaves, shapes, sharding)
    return suite


def fingerprint(*parts: Any) -> str:
    """Hash what decides an evaluation: arrays and texts."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
