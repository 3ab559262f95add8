"""Small measurements of a network on one batch, each a program that is compiled once."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from robustjax import logit
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.solver import classified
from robustjax.attacks.square import square
from robustjax.numerics import norm
from robustjax.threats import Threat
from robustjax.types import Labels, Logits, LogitsFn, Mask, Number, PerExample

LONGEST = 1_000_000  # more steps than anyone makes; how many are made is traced


class Walk(NamedTuple):
    """What an ascent with steps of one length met.

    Attributes:
      broken: whether any point was misclassified.
      last: whether the last point was, after as many steps as each mark says.
      rise: the loss at the last point less that at the first.
    """

    broken: Mask
    last: Bool[Array, "m b"]
    rise: PerExample


def hoisted(logits_fn: LogitsFn, x: Array) -> LogitsFn:
    """Trace a network for images of this shape, as a pytree that holds its parameters; logits become float32.

    Passed to a compiled function they are arguments. Closed over they would be constants, and most of the time of
    compilation would go into folding them. A `jax.tree_util.Partial` is such a pytree already.
    """
    if isinstance(logits_fn, jax.tree_util.Partial):
        return jax.tree_util.Partial(_in_float32, logits_fn)
    closed = jax.make_jaxpr(logits_fn)(x)

    def run(constants: Sequence[Array], x: Array) -> Logits:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(x)[0]

    return jax.tree_util.Partial(_in_float32, jax.tree_util.Partial(run, closed.consts))


def _in_float32(logits_fn: LogitsFn, x: Array) -> Logits:
    return logits_fn(x).astype(jnp.float32)


@jax.jit
def look(network: LogitsFn, x: Array) -> Logits:
    """Run the network."""
    return network(x)


@jax.jit
def slope(network: LogitsFn, x: Array, y: Labels, dlr: Bool[Array, ""]) -> tuple[PerExample, PerExample]:
    """Measure the largest entry of the gradient of cross-entropy or DLR, and the loss; NaN stays NaN."""

    def total(z):
        logits = network(z)
        ratio = logit.dlr(logits, y) if logits.shape[-1] > 2 else logit.margin(logits, y)
        value = jnp.where(dlr, ratio, logit.cross_entropy(logits, y))
        return value.sum(), value

    grad, value = jax.grad(total, has_aux=True)(x)
    return norm(grad, "linf"), value


@jax.jit
def walk(
    network: LogitsFn,
    x: Array,
    y: Labels,
    threat: Threat,
    start: Array,
    marks: Int[Array, "m"],
    share: Number,
    margin: Bool[Array, ""],
) -> Walk:
    """Follow PGD from a start, on the margin or on cross-entropy, with steps of a share of eps.

    All settings are traced, so that one program serves every walk with as many marks.
    """

    def loss(logits, y):
        return jnp.where(margin, logit.margin(logits, y), logit.cross_entropy(logits, y))

    solver = pgd_solver(threat, steps=LONGEST, step_size=share * threat.eps, start=lambda key, x: start)
    objective = classified(network, y, loss)

    def onward(state, count):
        state = solver.advance(objective, state, count)
        return state, (state.value, logit.margin(network(state.x), y) > 0)

    # The first iteration of a solver evaluates the start.
    counts = jnp.diff(marks, prepend=jnp.array([-1, 0]))
    state, (value, last) = jax.lax.scan(onward, solver.init(jax.random.key(0), x), counts)
    return Walk(state.found.value > 0, last[1:], value[-1] - value[0])


@jax.jit
def drawn(threat: Threat, keys: PRNGKeyArray, x: Array) -> Array:
    """Draw a point of the threat for each image."""
    return threat.sample(keys, x)


@partial(jax.jit, static_argnames="queries")
def searched(
    network: LogitsFn, keys: PRNGKeyArray, x: Array, y: Labels, threat: Threat, queries: int
) -> Mask:
    """Say which images Square gets misclassified."""
    return square(threat, queries=queries)(keys, lambda z: logit.margin(network(z), y), x).value > 0
