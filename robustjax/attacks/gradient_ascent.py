"""Gradient ascent with per-example step sizes that a rule adapts, over one radius or a shrinking series."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax.attacks.flatten import flat_box, flattened
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.attacks.starts import Start
from robustjax.numerics import constant
from robustjax.threats import Region, Threat
from robustjax.types import Found, Keys, PerExample


class Peak(NamedTuple):
    """The point of highest objective, to which an ascent returns."""

    x: Array
    value: PerExample
    grad: Array


class AscentState(NamedTuple):
    """Where an ascent stands, one row per example.

    `x` is where the next step starts, `x_prev` where the last one started, `value` the last one evaluated.
    `best` is by objective, within the stage; `found` by merit, among points that the threat allows.
    """

    origin: Array
    x: Array
    x_prev: Array
    grad: Array
    value: PerExample
    best: Peak
    found: Found
    step_size: PerExample
    step: Int[Array, "b"]
    memory: Any  # what the rule keeps


class Stage(NamedTuple):
    """Where each example is in the series: its threat, the steps made there and the steps to make there."""

    threat: Threat  # or what stands for one, if the rule asks no more of it than `Region`
    age: Int[Array, "b"]
    steps: Int[Array, "b"]


class Rule(NamedTuple):
    """How to step and when to change the step size.

    `begin(stage, state)` sets step size and memory at the first point of a stage, `propose(stage, state)`
    gives the next point before projection, `review(stage, before, after)` adapts what one step led to.
    """

    begin: Callable[[Stage, AscentState], AscentState]
    propose: Callable[[Stage, AscentState], Array]
    review: Callable[[Stage, AscentState, AscentState], AscentState]


def gradient_ascent(
    name: str, threat: Region, rule: Rule, series: Sequence[tuple[float, int]], start: Start
) -> Solver:
    """Follow a rule through a series of (multiple of the radius, steps), from best point to best point.

    Every stage evaluates its first point, then makes its steps. What is found counts in the last stage only,
    whose radius is the threat's own.
    """
    lengths = [steps for _, steps in series]
    starts = [sum(lengths[:i]) + i for i in range(len(series))]
    total = sum(lengths) + len(series)

    def stage_of(step: Int[Array, "b"], threat: Region = threat) -> tuple[Stage, Array]:
        index = sum(((step >= first).astype(jnp.int32) for first in starts[1:]), jnp.zeros_like(step))
        radius = threat.eps * jnp.asarray([scale for scale, _ in series], jnp.float32)[index]
        here = dataclasses.replace(threat, eps=radius)
        return Stage(
            cast(Threat, here), step - jnp.asarray(starts)[index], jnp.asarray(lengths)[index]
        ), index

    def init(key: Keys, x: Array) -> AscentState:
        x = entered(name, threat, x)
        first, none, zero = start(key, x).astype(x.dtype), constant(x, 0, jnp.int32), constant(x, 0.0)
        best, found = Peak(first, zero, jnp.zeros_like(x)), nothing_yet(threat.project(first, x))
        state = AscentState(x, first, first, jnp.zeros_like(x), zero, best, found, zero, none, None)
        return rule.begin(stage_of(none)[0], state)

    def advance(objective: ValueAndMerit, state: AscentState, count: Count) -> AscentState:
        shape, box = state.x.shape, flat_box(threat, state.x)

        def seen(x: Array) -> tuple[Array, PerExample]:
            return objective(x.reshape(shape))

        def move(before: AscentState) -> AscentState:
            stage, index = stage_of(before.step, box)
            fresh = stage.age == 0
            wanted = select(fresh, before.best.x, rule.propose(stage, before))
            x = stage.threat.project(wanted, before.origin)
            value, merit, grad = evaluate(seen, x)
            found = select(index == len(series) - 1, better(before.found, Found(x, merit)), before.found)
            best = select(fresh | (value > before.best.value), Peak(x, value, grad), before.best)
            after = before._replace(x=x, x_prev=before.x, grad=grad, value=value, best=best, found=found)
            return select(
                fresh, rule.begin(stage, after._replace(x_prev=x)), rule.review(stage, before, after)
            )

        rows, back = flattened(state, shape)
        return back(repeat(move, rows, count, total))

    return Solver(init, advance, lambda state: state.found, total, name)


def evaluate(objective: ValueAndMerit, x: Array) -> tuple[PerExample, PerExample, Array]:
    """Get value, merit and gradient from one forward and one backward pass; only the merit may be NaN."""

    def total(z):
        value, merit = objective(z)
        return value.sum(), (value, merit)

    grad, (value, merit) = jax.grad(total, has_aux=True)(x)
    return jnp.where(jnp.isnan(value), -jnp.inf, value), merit, jnp.where(jnp.isfinite(grad), grad, 0.0)
