"""ZOO: Adam on single features, whose slopes are measured by two values each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robustjax import checks, logit
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, better, entered, nothing_yet, repeat
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, keys_for
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Number

BETA1, BETA2, TINY = 0.9, 0.999, 1e-8


class Coordinates(NamedTuple):
    """Where an ascent stands, one row per example; each feature has moments and an age of its own."""

    key: Keys
    origin: Array
    x: Array
    mean: Float[Array, "b d"]
    square: Float[Array, "b d"]
    age: Float[Array, "b d"]
    found: Found
    step: Int[Array, "b"]


def zoo(
    threat: Threat,
    *,
    steps: int = 100,
    coordinates: int = 128,
    delta: Number = 1e-3,
    step_size: Number = 0.01,
    start: Start = at_origin,
) -> Solver:
    """Measure the slope along some features by symmetric differences, move these by Adam, and project.

    Args:
      threat: where the result must lie.
      steps: with the last point that makes steps + 1 iterations.
      coordinates: features drawn for each step, with return.
      delta: how far from x to ask, in the units of x; outside threat and box too.
      step_size: of Adam.
      start: the first point, projected.
    Returns:
      An ascent that can also be driven in segments, of 2 coordinates + 1 queries per iteration. Never worse than its
      start.
    Raises:
      ValueError: if steps is negative, coordinates less than 1, or delta or step_size not positive.

    Reference: Chen et al. 2017, arXiv:1708.03999 (algorithm 2, ZOO-ADAM). There a penalty on the distance; here the
      objective alone, projected onto the threat. delta is 1e-4 there: in float32 1e-3 has the smaller error. Without
      the attack space of smaller images and the importance sampling.
    """
    checks.threat("zoo", threat)
    checks.count("zoo", "steps", steps, least=0)
    checks.count("zoo", "coordinates", coordinates)
    checks.setting("zoo", "delta", delta, above=0)
    checks.setting("zoo", "step_size", step_size, above=0)

    def init(key: Keys, x: Array) -> Coordinates:
        x = entered("zoo", threat, x)
        first, rest = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, len(x)))
        begin = threat.project(start(first, x).astype(x.dtype), x)
        nothing = jnp.zeros_like(x.reshape(len(x), -1))
        return Coordinates(
            rest, x, begin, nothing, nothing, nothing, nothing_yet(begin), constant(x, 0, jnp.int32)
        )

    def advance(objective: ValueAndMerit, state: Coordinates, count: Count) -> Coordinates:
        def move(state: Coordinates) -> Coordinates:
            found = better(state.found, Found(state.x, objective(state.x)[1]))
            shape, size = state.x.shape, state.x[0].size
            drawn = jax.vmap(lambda key: jax.random.randint(key, (coordinates,), 0, size))(
                jax.vmap(jax.random.fold_in)(state.key, state.step)
            )

            def measured(feature: Int[Array, "b"]) -> Float[Array, "b"]:
                along = delta * jax.nn.one_hot(feature, size, dtype=state.x.dtype).reshape(shape)
                up, down = objective(state.x + along)[0], objective(state.x - along)[0]
                slope = (up - down) / (2.0 * delta)
                return jnp.where(jnp.isfinite(slope), slope, 0.0)

            slopes = jax.lax.map(measured, drawn.T).T
            none = jnp.zeros(size, slopes.dtype)
            hit = jax.vmap(lambda rows: none.at[rows].set(1.0))(drawn)
            slope = jax.vmap(lambda rows, values: none.at[rows].set(values))(drawn, slopes)
            age = state.age + hit
            mean = jnp.where(hit > 0, BETA1 * state.mean + (1 - BETA1) * slope, state.mean)
            square = jnp.where(hit > 0, BETA2 * state.square + (1 - BETA2) * slope**2, state.square)
            born = jnp.maximum(age, 1.0)
            way = (mean / (1 - BETA1**born)) / (jnp.sqrt(square / (1 - BETA2**born)) + TINY)
            moved = state.x + (step_size * hit * way).reshape(shape)
            x = threat.project(moved, state.origin)
            return state._replace(x=x, mean=mean, square=square, age=age, found=found)

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: state.found, steps + 1, "zoo", loss=logit.margin)
