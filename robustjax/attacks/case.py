"""One line of an evaluation: what is run, on which objective, how often and at what cost."""

import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from robustjax.attacks.solver import Solver, ValueAndMerit
from robustjax.numerics import constant, fold
from robustjax.types import Keys


class Rows(NamedTuple):
    """What a case knows of the examples of a batch; every array leads with the batch.

    Attributes:
      key: one per example; its random numbers hang on this alone.
      stream: a number of the case; the random numbers of its starts hang on this too.
      data: what is known of the example, such as its label.
      clean: what the system under attack answers for the example itself, by name.
      run: which run of the case this is, from 0.
      step: iterations made so far.
      parameters: those of this run.
      best: the strongest point of the cases before, where the case has a `warm_start` and a run begins; else None.
      at_best: what the system under evaluation answers for these points, by name; None without `warm_start`.
    """

    key: Keys
    stream: Any
    data: Any
    clean: dict[str, Array]
    run: Int[Array, "b"]
    step: Int[Array, "b"]
    parameters: Any
    best: Any = None
    at_best: Any = None


class Case(NamedTuple):
    """One attack of an evaluation: a solver on an objective, in one or several runs.

    The same evaluation code runs cases against classifiers, scores of OOD detectors and purifying defences; what
    differs is the system, what is known of an example, and the objective.

    Attributes:
      name: unique within a suite; by default the random numbers hang on it and not on the place in the suite.
      solver: the search.
      objective: (system, rows) -> what the solver ascends, and the merit by which points are kept.
      runs: how often an example is searched that no run decides: restarts, targets, losses.
      passes: forward and backward passes per iteration, to tell how long the rest takes.
      parameters: arrays that lead with `runs`; each run sees its own. They are traced, so a sweep compiles nothing.
      start: (keys, rows, x) -> first state, where it is not `solver.init(keys, x)`; `keys` are those of the run.
      transfer: whether the objective sees another system, the source, than the one under evaluation: then runs go on
        to their end, and points count by what the system under evaluation makes of them.
      black_box: whether the solver asks for values only.
      program: hashable, from a threat to this case inside a compiled function; cases whose programs are equal share
        what is compiled, whatever their names. By default every place in a suite has its own.
      warm_start: whether its runs need to know the strongest point of the cases before and what is answered there, as
        `Rows.best` and `Rows.at_best`. What an example gets then depends on the cases before too.
      note: where it differs from what its name promises.
    """

    name: str
    solver: Solver
    objective: Callable[[Any, Rows], ValueAndMerit]
    runs: int = 1
    passes: int = 2
    parameters: Any = ()
    start: Callable[[Keys, Rows, Array], Any] | None = None
    transfer: bool = False
    black_box: bool = False
    program: Hashable = None
    warm_start: bool = False
    note: str = ""

    @property
    def stream(self) -> np.uint32:
        """Tell the case's random numbers from those of others, by its name."""
        return np.uint32(zlib.crc32(self.name.encode()))

    @property
    def whole(self) -> int:
        """Count the passes of an example that no run decides."""
        return self.runs * self.solver.length * self.passes

    def init(self, rows: Rows, x: Array) -> Any:
        """Draw the start of a run for each example."""
        keys = jax.vmap(jax.random.fold_in)(fold(rows.key, rows.stream), rows.run)
        return self.solver.init(keys, x) if self.start is None else self.start(keys, rows, x)

    def parameters_of(self, run: np.ndarray) -> Any:
        """Pick the parameters of some runs, on the host."""
        return jax.tree.map(lambda values: np.asarray(values)[run], self.parameters)

    def run_whole(self, system: Any, rows: Rows, x: Array) -> Any:
        """Make all iterations of one run per example: Found(x, merit). For use inside other programs."""
        state = self.solver.advance(self.objective(system, rows), self.init(rows, x), self.solver.length)
        return self.solver.finish(state)


def rows_of(
    case: Case,
    keys: Keys,
    data: Any,
    clean: dict[str, Array],
    run: Int[Array, ""],
    x: Array,
    *,
    best: Array | None = None,
    at_best: dict[str, Array] | None = None,
) -> Rows:
    """Describe the same run of a case for all examples of a batch, inside a compiled function."""
    parameters = jax.tree.map(
        lambda values: jnp.broadcast_to(
            jnp.asarray(values)[run], (x.shape[0], *jnp.asarray(values).shape[1:])
        ),
        case.parameters,
    )
    return Rows(
        keys,
        case.stream,
        data,
        clean,
        constant(x, run, jnp.int32),
        constant(x, 0, jnp.int32),
        parameters,
        best if case.warm_start else None,
        at_best if case.warm_start else None,
    )


def check_cases(cases: Sequence[Case]) -> None:
    """Check that a suite has cases, with names of their own.

    Raises:
      ValueError: if not.
    """
    if isinstance(cases, Case):
        raise ValueError(
            f"suite: cases gives the case {cases.name!r}, must give a tuple: lambda threat: (case,)"
        )
    for case in cases:
        if not isinstance(case, Case):
            raise ValueError(
                f"suite: one of the cases is a {type(case).__name__}, must be a Case: make one of a solver by "
                "autoattack.untargeted(name, solver, loss)"
            )
    names = [case.name for case in cases]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"suite: the cases are {names}, must be at least one, with names of their own")
