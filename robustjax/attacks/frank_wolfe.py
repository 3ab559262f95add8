"""Ascent over an lp ball and a box without projections, for p between 1 and infinity: towards best vertices."""

import dataclasses
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.attacks.apgd import momentum
from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage, gradient_ascent
from robustjax.attacks.solver import Solver
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import TINY, constant, divide, per_example
from robustjax.types import PerExample, Radius


def frank_wolfe(
    *,
    p: float = 1.5,
    eps: Radius,
    steps: int = 100,
    pace: float = 0.75,
    lower: float | Array = 0.0,
    upper: float | Array = 1.0,
    start: Start | None = None,
) -> Solver:
    """Move a share of the way towards the point of the set that the gradient likes best; rest where APGD would.

    Between l1, whose counterfactuals are a few loud pixels, and l2, whose are faint everywhere, p = 1.5 changes
    coherent parts of an image.

    Args:
      p: of the norm, above 1 and finite.
      eps: radius, in the units of x; may be traced, or one per example.
      steps: gradient steps; with the first point that makes steps + 1 evaluations.
      pace: share of the way at first; at APGD's checkpoints whoever stalls halves it and returns to its best point.
      lower, upper: the box.
      start: the first point, pulled into the set; x itself by default.
    Raises:
      ValueError: if p or pace is out of range or steps is less than 1.

    Reference: Boreiko et al. 2022, arXiv:2205.07972, whose set and vertices these are; the shares follow the
      checkpoints of Croce and Hein 2020, arXiv:2003.01690, instead of their schedule.
    """
    if not 1 < p < float("inf"):
        raise ValueError(f"frank_wolfe: p is {p}, must be above 1 and finite")
    checks.count("frank_wolfe", "steps", steps)
    checks.setting("frank_wolfe", "pace", pace, above=0, most=1)
    checks.setting("frank_wolfe", "eps", eps, least=0)
    adaptive = momentum(0.75, False)

    def begin(stage: Stage, state: AscentState) -> AscentState:
        return adaptive.begin(stage, state)._replace(step_size=constant(state.x, pace))

    def propose(stage: Stage, state: AscentState) -> Array:
        vertex = state.origin + cast(Ball, stage.threat).vertex(state.grad, state.origin)
        return state.x + per_example(state.step_size, state.x) * (vertex - state.x)

    rule, ball = Rule(begin, propose, adaptive.review), Ball(p, eps, lower, upper)
    return gradient_ascent("frank_wolfe", ball, rule, [(1.0, steps)], start or at_origin)


@partial(jax.tree_util.register_dataclass, data_fields=["eps", "lower", "upper"], meta_fields=["p"])
@dataclasses.dataclass(frozen=True)
class Ball:
    """Points within `eps` of the origin in the p-norm, and between `lower` and `upper`."""

    p: float
    eps: Radius
    lower: float | Array = 0.0
    upper: float | Array = 1.0

    def length(self, delta: Float[Array, "b ..."]) -> PerExample:
        """Measure the p-norm of each example."""
        size = jnp.abs(delta.reshape(delta.shape[0], -1))
        largest = jnp.maximum(size.max(axis=1), TINY)
        return largest * ((size / largest[:, None]) ** self.p).sum(axis=1) ** (1 / self.p)

    def project(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Pull each x towards its origin until it is in the ball, then clip it to the box: feasible, not nearest."""
        delta = jnp.clip(x, self.lower, self.upper) - origin
        length = self.length(delta)
        scale = jnp.where(length > self.eps, self.eps / jnp.maximum(length, TINY), 1.0)
        return jnp.clip(origin + per_example(scale, x) * delta, self.lower, self.upper)

    def vertex(self, grad: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Maximise <grad, d> over the d with |d|_p <= eps that keep origin + d in the box.

        d_i = sign(g_i) min(room_i, t |g_i|^(1 / (p - 1))), with t such that the norm is eps or, where the whole
        box is in reach, infinite. Bisection finds the features that reach the box, one division the exact t.
        """
        flat, rows = grad.reshape(grad.shape[0], -1), partial(jnp.reshape, shape=(grad.shape[0], -1))
        room = jnp.where(
            flat > 0,
            rows(jnp.broadcast_to(self.upper - origin, grad.shape)),
            rows(jnp.broadcast_to(origin - self.lower, grad.shape)),
        )
        size = divide(jnp.abs(flat), jnp.abs(flat).max(axis=1, keepdims=True) * jnp.ones_like(flat))
        weight = size ** (self.p / (self.p - 1))  # of t^p: raised to p, everything is a sum
        limit = jnp.where(weight > 0, room, 0.0) ** self.p
        radius = constant(grad, jnp.asarray(self.eps, jnp.float32)) ** self.p
        least = divide(radius, weight.sum(axis=1))

        def reached(scale: PerExample) -> Array:
            return jnp.minimum(limit, scale[:, None] * weight)

        def halve(_, bounds: tuple[PerExample, PerExample]) -> tuple[PerExample, PerExample]:
            low, high = bounds
            middle = 0.5 * (low + high)
            over = reached(least * 2.0**middle).sum(axis=1) > radius
            return jnp.where(over, low, middle), jnp.where(over, middle, high)

        ends = constant(grad, 0.0), constant(grad, 60.0)
        low, _ = jax.lax.fori_loop(0, 30, halve, ends)
        scale = least * 2.0**low
        free = scale[:, None] * weight < limit
        left = radius - jnp.where(free, 0.0, limit).sum(axis=1)
        exact = divide(jnp.maximum(left, 0.0), jnp.where(free, weight, 0.0).sum(axis=1))
        chosen = jnp.where(limit.sum(axis=1) <= radius, jnp.inf, jnp.maximum(exact, scale))
        moved = jnp.where(weight > 0, jnp.minimum(limit, chosen[:, None] * weight), 0.0) ** (1 / self.p)
        return (jnp.sign(flat) * moved).reshape(grad.shape)
