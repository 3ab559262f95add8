"""Where branch and bound of one example is, and how that is kept in a file and taken up again."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import open_domains
from robustjax.bounds.backward import Moved
from robustjax.bounds.branching import Programs
from robustjax.bounds.domains import Whole
from robustjax.bounds.open_domains import Queue
from robustjax.threats import Threat


@runtime_checkable
class Memory(Protocol):
    """Where a search keeps its progress, so that it can be killed and goes on; such as `runtime.snapshot.Snapshot`."""

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was kept last."""
        ...

    def keep(self, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """Keep what `arrays` returns, if it is time; called after every batch of sub-domains."""
        ...


class Search(NamedTuple):
    """Where branch and bound of one example is.

    Attributes:
      whole, turns: what is known over the threat, and slopes to start from, by class.
      queue: the open sub-domains.
      lower: the least bound of those that are certified or given up.
      upper, point: the least lead met, and where.
      bounded: sub-domains so far.
      roots: the bounds before the first cut, as in `Verdict`.
      lead: of the example itself, (1,), by which a network is known again.
    """

    whole: Whole
    turns: Moved
    queue: Queue
    lower: float
    upper: float
    point: np.ndarray
    bounded: int
    roots: np.ndarray
    lead: np.ndarray


def packed(now: Search) -> dict[str, np.ndarray]:
    """Write a search as arrays by name, exactly."""
    return {f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(now))}


def restored(
    kept: dict[str, np.ndarray], run: Programs, threat: Threat, x: jax.Array, label: int, depth: int
) -> Search:
    """Undo `packed`: from there the search goes on bit by bit as if it had not stopped.

    Args:
      kept: the arrays.
      run, threat, x, label, depth: what they belong to.

    Raises:
      ValueError: if they are of another network, threat or example.
    """
    whole = jax.eval_shape(run.whole, threat, x, jnp.int32(label))
    turns = jax.eval_shape(run.turns, whole, jax.ShapeDtypeStruct((run.classes,), jnp.float32))
    like = Search(
        whole,
        turns,
        open_domains.nothing(depth, run.places),
        0.0,
        0.0,
        np.zeros(x.shape, np.float32),
        0,
        np.zeros(0),
        np.zeros(1, np.float32),
    )
    leaves, structure = jax.tree.flatten(like)
    names = [f"{number:04d}" for number in range(len(leaves))]
    if sorted(kept) == names:
        now: Search = jax.tree.unflatten(structure, [kept[name] for name in names])
        same = now.whole.x.shape == x.shape and np.array_equal(now.whole.x, x)
        same = same and now.whole.eps == np.float32(threat.eps) and now.whole.label == label
        # A network that was trained further has the same shapes, and other bounds.
        if same and np.array_equal(now.lead, np.asarray(run.lead(threat, now.whole, x[None])[1])):
            return now._replace(lower=float(now.lower), upper=float(now.upper), bounded=int(now.bounded))
    raise ValueError(
        "branch_and_bound: the memory is of another network, threat or example, must be of this one: remove it"
    )
