"""What every iterative solver is: init, advance and finish over a state whose rows are examples."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from robustjax import checks, logit
from robustjax.attacks.signed import require_signed
from robustjax.numerics import constant, keys_for, per_example, toward
from robustjax.threats import Region, Threat
from robustjax.types import Ascent, Attack, Found, Keys, Labels, Logits, LogitsFn, Objective, PerExample

Count = int | Int[Array, ""]
ValueAndMerit = Callable[[Array], tuple[Array, PerExample]]  # x -> (value to ascend, merit to keep points by)
OfLogits = Callable[[Logits, Labels], Array]  # such as logit.cross_entropy


class Solver(NamedTuple):
    """An iterative search that may be stopped, looked at, thinned out and continued.

    The state is a pytree of arrays that lead with the batch, its counters included: between two calls of
    `advance` its rows may be dropped, reordered, padded and joined with those of other batches.

    `init(key, x)` draws the start. It evaluates nothing, so a network is compiled once, in the loop.
    `advance(objective, state, count)` makes `count` iterations; as a traced int32, one trace serves segments
    of every length. Rows that have made all their `length` iterations stay as they are.
    `finish(state)` gives the feasible point of highest merit so far and its merit, -inf before any.

    Called as a function it is an `Ascent`, for an objective that is its own merit. It computes in float32; points of
    another dtype are given back in it, rounded towards x.

    Attributes:
      name: for errors.
      needs: which of value and merit must be `signed`: searches for the nearest point where the merit is positive
        need a signed merit, and those that measure the way to the boundary by the value need that signed too.
      loss: what it ascends on a classifier unless told otherwise.
    """

    init: Callable[[Keys, Array], Any]
    advance: Callable[[ValueAndMerit, Any, Count], Any]
    finish: Callable[[Any], Found]
    length: int
    name: str = "solver"
    needs: Literal["nothing", "signed merit", "signed value"] = "nothing"
    loss: OfLogits = logit.cross_entropy

    def __call__(self, key: Keys, objective: Objective, x: Array) -> Found:
        """Run all iterations.

        Raises:
          ValueError: for an objective that is not `signed` where one is needed, or points outside the box.
        """
        return run(self, key, objective, x, self.length)


def run(solver: Solver, key: Keys, objective: Objective, x: Array, count: Count) -> Found:
    """Make `count` iterations for an objective that is its own merit.

    Raises:
      ValueError: as a solver that is called.
    """
    if solver.needs != "nothing":
        require_signed(solver.name, objective)
    checks.array(solver.name, x)
    state = solver.advance(own_merit(seen_as(x, objective)), solver.init(key, x), count)
    return given_back(solver.finish(state), x, objective)


def as_attack(solver: Solver, loss: OfLogits | None = None) -> Attack:
    """Turn a solver into an attack on a classifier: ascend a loss, return the point of highest margin.

    Args:
      solver: the search.
      loss: (logits, label) -> what to ascend; by default `solver.loss`, which is cross-entropy, or what the search
        needs.
    Raises:
      ValueError: for a loss that is not `signed` where the solver needs that.
    """
    ascended = loss or solver.loss
    check_loss(solver, ascended)

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        state = solver.advance(classified(logits_fn, y, ascended), solver.init(key, x), solver.length)
        return solver.finish(state)

    return checked_attack("as_attack", attack)


def check_loss(solver: Solver, loss: Callable[..., Array]) -> None:
    """Refuse a loss of logits that does not tell a solver where the boundary is.

    Raises:
      ValueError: if the solver needs a signed one.
    """
    if solver.needs == "signed value":
        require_signed(solver.name, loss)


def checked_attack(name: str, attack: Attack) -> Attack:
    """Check what enters an attack whose value is the margin, and let it compute in float32.

    Args:
      name: for errors.
      attack: for float32 points and known labels.
    Returns:
      The attack; points of another dtype come back in it, rounded towards x.
    """

    def checked(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        checks.array(name, x)
        label = jnp.asarray(checks.classes(name, y, len(x)))
        asked = seen_as(x, logits_fn, "network")

        def seen(z: Array) -> Logits:
            logits = asked(z)
            checks.answers(name, logits, label)
            return logits

        found = attack(key, seen, x, label)
        return given_back(found, x, lambda z: logit.margin(logits_fn(z).astype(jnp.float32), label))

    return checked


def entered(name: str, threat: Region, x: Array) -> Array:
    """Check the points that a search begins at, and give them in float32.

    Raises:
      ValueError: for another shape or dtype than that of points, and where values are known also for points that are
        outside the box or not finite.
    """
    checks.threat(name, threat, normed=False)
    checks.points(name, x, eps=threat.eps, lower=threat.lower, upper=threat.upper)
    return jnp.asarray(x).astype(jnp.float32)


def seen_as(
    x: Array, objective: Callable[[Array], Array], what: Literal["objective", "network"] = "objective"
) -> Callable[[Array], Array]:
    """Ask about float32 points in the dtype of x, and take float32 answers.

    Raises:
      ValueError: when asked, for what is no function that JAX can trace, or gives no floats.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)

    def seen(z: Array) -> Array:
        found = checks.called("attack", what, objective, z.astype(dtype))
        checks.floating("attack", what, found)
        return found.astype(jnp.float32) if isinstance(found, jax.Array) else found

    return seen


def given_back(found: Found, x: Array, objective: Objective) -> Found:
    """Give points back in the dtype of x; where that moves them, the values are those of the points that are given."""
    origin = jnp.asarray(x)
    if origin.dtype != found.x.dtype:
        point = toward(origin, found.x)
        found = Found(point, objective(point).astype(jnp.float32))
    return jax.lax.stop_gradient(found)


def own_merit(objective: Objective) -> ValueAndMerit:
    """Keep points by the objective itself."""

    def both(x: Array) -> tuple[PerExample, PerExample]:
        value = objective(x)
        checks.values("attack", value, len(x))
        return value, value

    return both


def classified(logits_fn: LogitsFn, y: Labels, loss: OfLogits) -> ValueAndMerit:
    """Ascend `loss(logits, y)` but keep points by their margin, both from one forward pass.

    The point kept is misclassified if any point met was, which the point of highest loss need not be.
    """

    def both(x: Array) -> tuple[Array, PerExample]:
        logits = logits_fn(x)
        checks.answers("attack", logits, y)
        return loss(logits, y), logit.margin(logits, y)

    return both


def until_found(solver: Solver) -> Solver:
    """Let every row rest at its first point of positive merit, whatever the length of the segments."""

    def advance(objective: ValueAndMerit, state: Any, count: Count) -> Any:
        def once(_, state):
            resting = solver.finish(state).value > 0
            return select(resting, state, solver.advance(objective, state, 1))

        return jax.lax.fori_loop(0, count, once, state)

    return solver._replace(advance=advance)


class _Whole(NamedTuple):
    key: Keys
    x: Array
    best: Found
    step: Int[Array, "b"]


def of_ascent(ascent: Ascent) -> Solver:
    """Turn an ascent into a solver of one iteration, so that suites can run it."""

    def init(key: Keys, x: Array) -> _Whole:
        return _Whole(keys_for(key, x.shape[0]), x, nothing_yet(x), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: _Whole, count: Count) -> _Whole:
        def move(state: _Whole) -> _Whole:
            x = ascent(state.key, lambda z: objective(z)[0], state.x).x
            return state._replace(best=better(state.best, Found(x, objective(x)[1])))

        return repeat(move, state, count, 1)

    return Solver(init, advance, lambda state: state.best, 1)


def repeat(move: Callable[[Any], Any], state: Any, count: Count, length: int) -> Any:
    """Apply `move`, `count` times, to the rows of a state whose `step` is below `length`, and count there.

    `move` may count steps too: those that it passed over.
    """

    def once(_, state):
        moved = move(state)
        return select(state.step < length, moved._replace(step=moved.step + 1), state)

    return jax.lax.fori_loop(0, count, once, state)


def select(mask: Bool[Array, "b"], yes: Any, no: Any) -> Any:
    """Take whole rows from one pytree where the mask is true, from the other where it is not."""

    def rows(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(rows, yes, no)


def check_finite(name: str, threat: Threat, *, l0: bool = False) -> None:
    """Refuse an infinite radius, which is fine for a projection but not as the unit of a step.

    Raises:
      ValueError: if the radius is known to be infinite, or the norm is l0 and may not be.
    """
    checks.threat(name, threat, l0=l0)
    eps = checks.known(threat.eps)
    if eps is not None and np.isinf(eps).any():
        raise ValueError(f"{name}: eps is {threat.eps}, must be finite")


def nothing_yet(x: Array) -> Found:
    """Hold a feasible point that nobody has evaluated, so that any value beats it."""
    return Found(x, constant(x, -jnp.inf))


def better(old: Found, new: Found) -> Found:
    """Keep, per example, the point of larger value; a value that is NaN never wins."""
    wins = (new.value > old.value) | jnp.isnan(old.value)
    return Found(jnp.where(per_example(wins, new.x), new.x, old.x), jnp.where(wins, new.value, old.value))
