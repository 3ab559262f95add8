"""The rule of l1 APGD: few features per step, as many as the best point suggests."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from robustjax.attacks.bisection import least
from robustjax.attacks.gradient_ascent import AscentState, Rule, Stage
from robustjax.attacks.solver import select
from robustjax.numerics import divide, norm, per_example
from robustjax.types import Mask, PerExample


class Support(NamedTuple):
    """How many features the best point had moved at the last check, the share to move, steps since then."""

    size: Int[Array, "b"]
    share: PerExample
    since: Int[Array, "b"]


def sparse(random_start: bool) -> Rule:
    """Move the features of largest gradient by equal amounts; every few steps adapt how many, and how far.

    Where the best point has become sparser by 5% the step is reset to eps and the ascent returns to that
    point; elsewhere the step shrinks by 1.5, down to eps / 10. The next steps move 2/3 as many features as
    that point has moved.

    Args:
      random_start: what a random start has moved says nothing; begin with a fifth of the features.

    Reference: Croce and Hein 2021, arXiv:2103.01208.
    """

    def begin(stage: Stage, state: AscentState) -> AscentState:
        none, features = jnp.zeros_like(state.step), state.x[0].size
        size = _moved(state.x, state.origin)
        # With no support to go by, one feature at a time would be moved, and for ever once it meets the box.
        blank = (size == 0) | random_start
        size = jnp.where(blank, features, size)
        support = Support(size, jnp.where(blank, 0.2, _share(size, features)), none)
        return state._replace(step_size=1.0 * stage.threat.eps, memory=support)

    def propose(stage: Stage, state: AscentState) -> Array:
        del stage
        features = state.x[0].size
        # Float32 on purpose: on the edge between two counts, published runs round this way.
        skipped = jnp.floor((1.0 - state.memory.share) * features).astype(jnp.int32)
        count = features - jnp.clip(skipped, 0, features - 1)
        size = jnp.abs(state.grad)
        flat = size.reshape(size.shape[0], -1)  # vector code, unlike the same over (b, h, w, c)

        def few_above(threshold: PerExample) -> Mask:
            return (flat > threshold[:, None]).sum(axis=1, dtype=jnp.int32) < count

        chosen = size >= per_example(least(few_above, flat), size)
        direction = jnp.where(chosen, jnp.sign(state.grad), 0.0)
        direction = divide(direction, per_example(norm(direction, "l1"), direction))
        return state.x + per_example(state.step_size, state.x) * direction

    def review(stage: Stage, before: AscentState, after: AscentState) -> AscentState:
        old: Support = before.memory
        size, since = _moved(after.best.x, after.origin), old.since + 1
        due = since == jnp.maximum(4 * stage.steps // 100, 1)
        sparser = due & (20 * size < 19 * old.size)
        eps = stage.threat.eps
        step_size = jnp.where(sparser, eps, jnp.clip(after.step_size / 1.5, 0.1 * eps, eps))
        fresh = Support(size, _share(size, after.x[0].size), jnp.zeros_like(since))
        return after._replace(
            x=select(sparser, after.best.x, after.x),
            grad=select(sparser, after.best.grad, after.grad),
            step_size=jnp.where(due, step_size, after.step_size),
            memory=select(due, fresh, old._replace(since=since)),
        )

    return Rule(begin, propose, review)


def _moved(x: Array, origin: Array) -> Int[Array, "b"]:
    return (x != origin).reshape(x.shape[0], -1).sum(axis=1, dtype=jnp.int32)


def _share(size: Int[Array, "b"], features: int) -> PerExample:
    return size.astype(jnp.float32) / features / 1.5
