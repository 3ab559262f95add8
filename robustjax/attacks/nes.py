"""NES: ascent along gradients estimated from values at pairs of normal points, with momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, better, entered, nothing_yet, repeat
from robustjax.attacks.spsa import estimated_gradient
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, keys_for
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Number


class Momentum(NamedTuple):
    """Where an ascent stands, one row per example: `x` is asked next, `grad` is the mean of the estimates so far."""

    key: Keys
    origin: Array
    x: Array
    grad: Array
    found: Found
    step: Int[Array, "b"]


def nes(
    threat: Threat,
    *,
    steps: int = 100,
    samples: int = 25,
    sigma: Number = 0.001,
    step_size: Number = 0.01,
    momentum: float = 0.9,
    chunk_size: int | None = 16,
    start: Start = at_origin,
) -> Solver:
    """Step along the steepest direction of an estimated gradient and project; ask for values only.

    g = mean of v (f(x + sigma v) - f(x - sigma v)) / (2 sigma) over normal v; m <- momentum m + (1 - momentum) g.

    Args:
      threat: where the result must lie; its norm decides what is steepest.
      steps: estimates; with the last point that makes steps + 1 iterations.
      samples: pairs of values per estimate.
      sigma: of the noise, in the units of x; points lie outside threat and box too.
      step_size: length of a step in the norm of the threat.
      momentum: share of the old mean, in [0, 1).
      chunk_size: how many pairs to fold into the batch axis of one pass; None for all.
      start: the first point, projected.
    Returns:
      An ascent that can also be driven in segments, of 2 samples + 1 forward passes per iteration. Never worse
      than its start.
    Raises:
      ValueError: if steps is negative, samples or chunk_size is less than 1, sigma or step_size not positive, or
        momentum outside [0, 1).

    Reference: Ilyas et al. 2018, arXiv:1804.08598 (query-limited setting, linf), with the fixed step size; the
      authors' code also halves it when the loss stands still.
    """
    checks.threat("nes", threat)
    checks.count("nes", "steps", steps, least=0)
    checks.count("nes", "samples", samples)
    if chunk_size is not None:
        checks.count("nes", "chunk_size", chunk_size)
    checks.setting("nes", "sigma", sigma, above=0)
    checks.setting("nes", "step_size", step_size, above=0)
    checks.setting("nes", "momentum", momentum, least=0, below=1)

    def init(key: Keys, x: Array) -> Momentum:
        x = entered("nes", threat, x)
        first, rest = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, len(x)))
        begin = threat.project(start(first, x).astype(x.dtype), x)
        return Momentum(rest, x, begin, jnp.zeros_like(x), nothing_yet(begin), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Momentum, count: Count) -> Momentum:
        def move(state: Momentum) -> Momentum:
            found = better(state.found, Found(state.x, objective(state.x)[1]))
            slope = estimated_gradient(
                jax.vmap(jax.random.fold_in)(state.key, state.step),
                lambda x: objective(x)[0],
                state.x,
                samples=samples,
                delta=sigma,
                chunk_size=chunk_size,
                noise="normal",
            )
            grad = momentum * state.grad + (1.0 - momentum) * slope
            x = threat.project(state.x + step_size * threat.steepest(grad, state.x), state.origin)
            return state._replace(x=x, grad=grad, found=found)

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: state.found, steps + 1, "nes")
