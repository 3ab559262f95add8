"""How far an attack has come after so many queries."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.signed import require_signed
from robustjax.attacks.solver import Solver, own_merit, seen_as
from robustjax.numerics import Norm
from robustjax.types import Keys, Objective


class QueryCurve(NamedTuple):
    """What was found within numbers of queries; numpy.

    Attributes:
      queries: (n,) that each example was allowed.
      distance: (n, b) of the adversarial point found, inf where none was.
    """

    queries: np.ndarray
    distance: np.ndarray

    def success(self, eps: float) -> np.ndarray:
        """Compute the share of examples with an adversarial point within eps, (n,)."""
        return (self.distance <= eps).mean(axis=1)

    def median(self) -> np.ndarray:
        """Compute the median distance, (n,)."""
        return np.median(self.distance, axis=1)


def query_curve(
    solver: Solver,
    key: Keys,
    objective: Objective,
    x: Array,
    *,
    norm: Norm,
    at: Sequence[int],
    per_iteration: int = 1,
) -> QueryCurve:
    """Run a search once, and look at what it has found after each number of queries.

    Args:
      solver: asks `per_iteration` queries in each iteration, such as `hop_skip_jump(Threat("l2", jnp.inf))`.
      key: one, or one per example.
      objective: `signed`: positive where a point is adversarial, such as `objectives.margin(network, y)`.
      x: the examples, (b, ...).
      norm: in which distances are measured.
      at: numbers of queries, rising; beyond the last iteration of the solver nothing changes.
      per_iteration: queries of one iteration. Iterations that would go beyond a number are not made before it.
    Raises:
      ValueError: for an objective that is not signed, or numbers that do not rise.
    """
    checks.count("query_curve", "per_iteration", per_iteration)
    require_signed("query_curve", objective)
    numbers = [int(number) for number in at]
    if not numbers or numbers[0] < 1 or any(b <= a for a, b in pairwise(numbers)):
        raise ValueError(
            f"query_curve: at is {list(at)!r:.80}, must be numbers of queries that rise from 1 on"
        )
    seen = own_merit(seen_as(x, objective))
    advance = jax.jit(lambda state, count: solver.advance(seen, state, count))
    state, done, distances = solver.init(key, x), 0, []
    for number in numbers:
        iterations = number // per_iteration
        if iterations > done:
            state, done = advance(state, jnp.int32(iterations - done)), iterations
        found = solver.finish(state)
        delta = np.asarray(found.x, np.float64) - np.asarray(x, np.float64)
        flat = delta.reshape(len(delta), -1)
        distance = np.linalg.norm(flat, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
        distances.append(np.where(np.asarray(found.value) > 0, distance, np.inf))
    return QueryCurve(np.asarray(numbers), np.stack(distances))
