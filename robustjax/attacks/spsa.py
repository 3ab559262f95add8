"""SPSA: ascent along gradients estimated from values at random pairs of points."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.adam import Moments, adam, rest
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, better, entered, nothing_yet, repeat
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, fold, keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Number, Objective


class Estimated(NamedTuple):
    """Where an ascent stands, one row per example: `x` is asked next, `found` has the highest merit so far."""

    key: Keys
    origin: Array
    x: Array
    moments: Moments
    found: Found
    step: Int[Array, "b"]


def spsa(
    threat: Threat,
    *,
    steps: int = 100,
    samples: int = 128,
    delta: Number = 0.01,
    step_size: Number = 0.01,
    chunk_size: int | None = 16,
    start: Start = at_origin,
) -> Solver:
    """Ascend by Adam along estimated gradients and project; ask for values only.

    For networks that have no gradient, or none to be trusted: g = mean of v (f(x + delta v) - f(x - delta v))
    / (2 delta) over random signs v.

    Args:
      threat: where the result must lie.
      steps: estimates; with the last point that makes steps + 1 iterations.
      samples: pairs of values per estimate.
      delta: how far from x to ask, per feature, in the units of x; outside threat and box too.
      step_size: of Adam, about how far each feature moves per step.
      chunk_size: how many pairs to fold into the batch axis of one pass; None for all.
      start: the first point, projected.
    Returns:
      An ascent that can also be driven in segments, of 2 samples + 1 forward passes per iteration. Never worse
      than its start.
    Raises:
      ValueError: if steps is negative, samples or chunk_size is less than 1, or delta or step_size not positive.

    Reference: Uesato et al. 2018, arXiv:1802.05666 (linf, the margin as objective). Pairs whose values are not
      finite count as flat.
    """
    checks.threat("spsa", threat)
    checks.count("spsa", "steps", steps, least=0)
    checks.count("spsa", "samples", samples)
    if chunk_size is not None:
        checks.count("spsa", "chunk_size", chunk_size)
    checks.setting("spsa", "delta", delta, above=0)
    checks.setting("spsa", "step_size", step_size, above=0)

    def init(key: Keys, x: Array) -> Estimated:
        x = entered("spsa", threat, x)
        first, rest_of_keys = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, x.shape[0]))
        begin = threat.project(start(first, x).astype(x.dtype), x)
        return Estimated(rest_of_keys, x, begin, rest(begin), nothing_yet(begin), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Estimated, count: Count) -> Estimated:
        def move(state: Estimated) -> Estimated:
            found = better(state.found, Found(state.x, objective(state.x)[1]))
            keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
            slope = estimated_gradient(
                keys, lambda x: objective(x)[0], state.x, samples=samples, delta=delta, chunk_size=chunk_size
            )
            way, moments = adam(state.moments, slope, state.step)
            x = threat.project(state.x + step_size * way, state.origin)
            return state._replace(x=x, moments=moments, found=found)

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: state.found, steps + 1, "spsa")


def estimated_gradient(
    keys: Keys,
    objective: Objective,
    x: Array,
    *,
    samples: int,
    delta: Number,
    chunk_size: int | None,
    noise: Literal["signs", "normal"] = "signs",
) -> Array:
    """Average v (f(x + delta v) - f(x - delta v)) / (2 delta) over random v: unbiased where f is linear.

    Args:
      keys: one per example.
      objective: f, asked for values only.
      x: where, (b, ...).
      samples: how many v.
      delta: half the distance of a pair, per feature.
      chunk_size: how many pairs to fold into the batch axis of one pass; None for all.
      noise: v is of random signs, or standard normal.
    """
    width = min(chunk_size or samples, samples)
    whole = samples // width * width

    def part(total: Array, ranks: Int[Array, "s"]) -> tuple[Array, None]:
        kind = jax.random.rademacher if noise == "signs" else jax.random.normal
        draw = jax.vmap(lambda key: kind(key, x.shape[1:], x.dtype))
        signs = jax.vmap(lambda rank: draw(fold(keys, rank)))(ranks)
        values = jax.vmap(objective)(jnp.concatenate([x[None] + delta * signs, x[None] - delta * signs]))
        slope = (values[: len(ranks)] - values[len(ranks) :]) / (2.0 * delta)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        return total + (jax.vmap(per_example)(slope, signs) * signs).sum(axis=0), None

    ranks = jnp.arange(samples)
    total, _ = jax.lax.scan(part, jnp.zeros_like(x), ranks[:whole].reshape(-1, width))
    if whole < samples:  # as a part of its own: filled up, it would ask more than was allowed
        total, _ = part(total, ranks[whole:])
    return total / samples
