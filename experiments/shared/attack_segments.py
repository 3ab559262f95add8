"""Segments of the attacks of a suite, as an evaluation runs them, for rows of shapes alone: to be planned or timed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from robustjax.attacks.autoattack import ranked_classes
from robustjax.attacks.case import Case
from robustjax.evaluation import pool
from robustjax.evaluation.pool import CaseAt, Fresh
from robustjax.evaluation.suite import Answers
from robustjax.threats import Threat
from robustjax.types import Model, frozen


class Segments(NamedTuple):
    """One attack of a suite on one network.

    Attributes:
      cases: the suite, from the threat.
      place: of the attack in it.
      model: the network.
      sharding: of the rows; None for one device.
    """

    cases: pool.Cases
    place: int
    model: Model
    sharding: NamedSharding | None

    def program(self, case: Case, iterations: int, until: float) -> Callable[..., Any]:
        """Build (state, fresh, key, threat, (params, network's state)) -> Segment: some iterations in all rows.

        Args:
          case: the attack, for its random numbers.
          iterations: of each row whose run is not over.
          until: the merit above which a run is over; inf to time whole segments.
        """
        system, program = partial(frozen, self.model), CaseAt(self.cases, self.place)

        def segment(state: Any, fresh: Fresh, key: Any, threat: Threat, arguments: Any) -> Any:
            return pool.segment(
                state, fresh, key, case.stream, np.int32(iterations), np.float32(until), threat, arguments,
                system=system, program=program, sharding=self.sharding,
            )  # fmt: skip

        return jax.jit(segment, donate_argnums=0)


def shapes(
    case: Case,
    cases: Sequence[Case],
    model: Model,
    arguments: tuple[Any, Any],
    rows: int,
    shape: tuple[int, ...],
) -> tuple[Any, Fresh]:
    """Describe the state of a segment and what enters its rows, by shapes.

    Args:
      case, cases: the attack, of a suite.
      model, arguments: the network, and its parameters and state or their shapes.
      rows: of a batch.
      shape: of an image.
    """
    x: Any = jax.ShapeDtypeStruct((rows, *shape), jnp.float32)
    whole: Any = jax.ShapeDtypeStruct((rows,), jnp.int32)
    load: Any = jax.ShapeDtypeStruct((rows,), jnp.bool_)
    clean = jax.eval_shape(answers(cases, model), *arguments, x, whole)
    parameters = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)),
        case.parameters_of(np.zeros(rows, np.int64)),
    )
    fresh = Fresh(load, x, whole, clean, whole, whole, parameters)
    fresh = fresh._replace(best=x, at_best=clean) if case.warm_start else fresh
    return jax.eval_shape(partial(pool.first, case), fresh), fresh


def answers(cases: Sequence[Case], model: Model) -> Callable[..., dict[str, Any]]:
    """Build (params, network's state, x, y) -> what the network answers for clean images."""
    said = Answers(ranked_classes(cases))

    def of(params: Any, state: Any, x: Any, y: Any) -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(0), x.shape[0])  # of randomised networks, which this is not
        return said(frozen(model, params, state), keys, y, x)

    return of
