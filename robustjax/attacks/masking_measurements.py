"""Small measurements of a network on one batch, each a program that is compiled once."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from robustjax import logit
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.solver import classified
from robustjax.attacks.sparse_rs import sparse_rs
from robustjax.attacks.square import square
from robustjax.numerics import constant, fold, keys_for, norm
from robustjax.threats import Threat
from robustjax.traced import Steps, compiled, hoist
from robustjax.types import Keys, Labels, Logits, LogitsFn, Mask, Number, PerExample

T = TypeVar("T")
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


@partial(jax.tree_util.register_dataclass, data_fields=["constants"], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class Hoisted:
    """A traced network as a pytree of what it closes over; its logits are float32."""

    constants: list[Array]
    steps: Steps

    def __call__(self, x: Array) -> Float[Array, "b ..."]:
        """Run the network, or the score."""
        return self.steps.run(self.constants, x).astype(jnp.float32)


def hoisted(logits_fn: LogitsFn, x: Array) -> Hoisted:
    """Trace a network for images of this shape.

    Passed to a compiled function what it closes over are arguments. Closed over they would be constants, and most of
    the time of compilation would go into folding them. Networks that do the same share programs.
    """
    steps, constants = hoist(logits_fn, x.shape)
    return Hoisted(constants, steps)


def same_network(first: Hoisted, second: Hoisted) -> bool:
    """Say whether two traces of a network give the same program and the same arrays, to the bit."""
    return first.steps is second.steps and all(
        a is b or np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(first.constants, second.constants, strict=True)
    )


def _measurement(**settings: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Compile a function of a network, with less optimisation where the network is small."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        forms = compiled(function, brief=True, **settings)

        @wraps(function)
        def run(network: LogitsFn, *arguments: Any, **named: Any) -> T:
            per_example = network.steps.per_example if isinstance(network, Hoisted) else math.inf
            return forms.of(per_example)(network, *arguments, **named)

        return run

    return decorate


@_measurement()
def look(network: LogitsFn, x: Array) -> Logits:
    """Run the network."""
    return network(x)


@_measurement()
def slope(network: LogitsFn, x: Array, y: Labels, dlr: Bool[Array, ""]) -> tuple[PerExample, PerExample]:
    """Measure the largest entry of the gradient of cross-entropy or DLR, and the loss; NaN stays NaN."""

    def total(z):
        logits = network(z)
        ratio = logit.dlr(logits, y) if logits.shape[-1] > 2 else logit.margin(logits, y)
        value = jnp.where(dlr, ratio, logit.cross_entropy(logits, y))
        return value.sum(), value

    grad, value = jax.grad(total, has_aux=True)(x)
    return norm(grad, "linf"), value


@_measurement()
def walk(
    network: LogitsFn,
    key: Keys,
    x: Array,
    y: Labels,
    threat: Threat,
    start: int | Array,
    marks: Int[Array, "m"],
    share: Number,
    margin: bool | Bool[Array, ""],
) -> Walk:
    """Follow PGD on the margin or on cross-entropy, with steps of a share of eps, in l0 of 64 widths of the box.

    All settings are traced, so that one program serves every walk with as many marks.

    Args:
      key: one key, or one per image.
      start: the number of the random point to begin at; -1 for the image itself.
    """

    def loss(logits, y):
        return jnp.where(margin, logit.margin(logits, y), logit.cross_entropy(logits, y))

    first = jnp.where(start < 0, x, threat.sample(fold(keys_for(key, len(x)), start), x))
    solver = pgd_solver(threat, steps=LONGEST, step_size=share * threat.step_unit, start=lambda key, x: first)
    objective = classified(network, y, loss)

    def onward(state, count):
        state = solver.advance(objective, state, count)
        return state, (state.value, logit.margin(network(state.x), y) > 0)

    # The first iteration of a solver evaluates the start.
    counts = jnp.diff(marks, prepend=jnp.array([-1, 0]))
    state, (value, last) = jax.lax.scan(onward, solver.init(jax.random.key(0), x), counts)
    return Walk(state.found.value > 0, last[1:], value[-1] - value[0])


@_measurement()
def noise(
    network: LogitsFn,
    key: PRNGKeyArray,
    x: Array,
    y: Labels,
    threat: Threat,
    first: int | Array,
    draws: int | Array,
) -> Mask:
    """Say which images some of the random points of the threat, `first` and those after it, get misclassified."""
    keys = keys_for(key, len(x))

    def once(i, broken):
        point = threat.sample(fold(keys, first + i), x)
        return broken | (logit.margin(network(point), y) > 0)

    return jax.lax.fori_loop(0, draws, once, constant(x, False, jnp.bool))


@_measurement(static_argnames="queries")
def searched(
    network: LogitsFn,
    key: PRNGKeyArray,
    x: Array,
    y: Labels,
    threat: Threat,
    number: int | Array,
    queries: int,
) -> Mask:
    """Say which images Square, in l0 Sparse-RS, gets misclassified."""
    keys = fold(keys_for(key, len(x)), number)
    search = sparse_rs(threat, queries=queries) if threat.norm == "l0" else square(threat, queries=queries)
    return search(keys, lambda z: logit.margin(network(z), y), x).value > 0
