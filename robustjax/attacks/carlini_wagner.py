"""Carlini and Wagner's l2 attack: Adam on distance plus penalty, and a search for the weight of the penalty."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from robustjax import checks
from robustjax.attacks.adam import Moments, adam, rest
from robustjax.attacks.minimum_norm import Hunt, Linearisation, Rule, hunt
from robustjax.attacks.solver import Solver, select
from robustjax.numerics import constant, divide, per_example
from robustjax.threats import Threat
from robustjax.types import Number, PerExample, Radius

EDGE = 1.0 - 1e-6  # how far out, from -1 to 1, a point on the box starts: tanh reaches 1 nowhere
LARGEST = 1e10


class Weighing(NamedTuple):
    """What one row is trying: its point on the line, the constant, and between which ones to look."""

    line: Array
    moments: Moments
    const: PerExample
    low: PerExample
    high: PerExample
    arrived: Bool[Array, "b"]


def carlini_wagner(
    threat: Threat,
    *,
    searches: int = 9,
    steps: int = 1000,
    step_size: Number = 0.01,
    confidence: Number = 0.0,
    initial_const: Radius = 1e-3,
) -> Solver:
    """Minimise |x - origin|^2 + c max(confidence - value, 0) by Adam, over several c per example.

    With x = middle + half tanh(w) the w are free and x stays in the box. After each search c is halved towards
    the largest one that failed, or, as long as none arrived, multiplied by ten.

    Args:
      threat: l2 norm and a finite box. Its radius decides only what counts as found: a nearest point further away
        is kept in the state but not returned. With eps = inf, every one counts.
      searches: how many c to try.
      steps: gradients per c.
      step_size: of Adam, in units of w.
      confidence: the value to reach, in its units; only points of merit above it count as arrived.
      initial_const: the first c; a number, or one per example.
    Returns:
      A solver of `searches * steps` gradients and a last forward pass. Its result is the nearest point of merit
      above `confidence`, where there is one within the radius, and the point of highest merit within the radius
      elsewhere. What it maximises must be `signed`, as `logit.margin` is.
    Raises:
      ValueError: if the norm is not l2, the box is known to be infinite, searches or steps is less than 1, or
        step_size, confidence or initial_const is out of range.

    Reference: Carlini and Wagner 2017, arXiv:1608.04644, with the authors' constants. Every search runs all its
      steps; each begins at the origin itself, so that a point that is adversarial already is its own nearest.
    """
    checks.threat("carlini_wagner", threat)
    if threat.norm != "l2":
        raise ValueError(f"carlini_wagner: norm is {threat.norm!r}, must be 'l2'")
    checks.finite_box("carlini_wagner", threat.lower, threat.upper)
    checks.count("carlini_wagner", "searches", searches)
    checks.count("carlini_wagner", "steps", steps)
    checks.setting("carlini_wagner", "step_size", step_size, above=0)
    checks.setting("carlini_wagner", "initial_const", initial_const, above=0)
    checks.setting("carlini_wagner", "confidence", confidence, least=0)
    middle, half = 0.5 * (threat.lower + threat.upper), 0.5 * (threat.upper - threat.lower)

    def onto_line(x: Array) -> Array:
        return jnp.arctanh(jnp.clip(divide(x - middle, half + jnp.zeros_like(x)), -EDGE, EDGE))

    def begin(first: Array, origin: Array) -> Weighing:
        del origin
        const, no = constant(first, initial_const), constant(first, False, jnp.bool_)
        return Weighing(
            onto_line(first), rest(first), const, constant(first, 0.0), constant(first, LARGEST), no
        )

    def follow(state: Hunt, here: Linearisation) -> tuple[Array, Weighing]:
        old: Weighing = state.memory
        age = state.step % steps
        weight = jnp.where(here.value < confidence, old.const, 0.0)
        slope = 2.0 * (state.x - state.origin) - per_example(weight, here.grad) * here.grad
        slope = slope * half / jnp.square(jnp.cosh(old.line))
        way, moments = adam(old.moments, jnp.where(jnp.isfinite(slope), slope, 0.0), age)
        line, arrived = old.line - step_size * way, old.arrived | (here.merit > confidence)
        x = jnp.clip(middle + half * jnp.tanh(line), threat.lower, threat.upper)

        low = jnp.where(arrived, old.low, jnp.maximum(old.low, old.const))
        high = jnp.where(arrived, jnp.minimum(old.high, old.const), old.high)
        const = jnp.where(high < LARGEST, 0.5 * (low + high), 10.0 * old.const)
        first = threat.project(state.origin, state.origin)
        again = Weighing(onto_line(first), rest(first), const, low, high, jnp.zeros_like(arrived))
        tried = old._replace(line=line, moments=moments, arrived=arrived)
        return select(age == steps - 1, (first, again), (x, tried))

    return hunt("carlini_wagner", threat, Rule(begin, follow), steps=searches * steps, above=confidence)
