"""The field's optimisers and learning-rate schedules, from optax; rates are per update, lengths in updates."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from robustjax import checks

Rate = float | optax.Schedule


def sgd(
    rate: Rate, *, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4
) -> optax.GradientTransformation:
    """Build SGD as PyTorch defines it: weight decay joins the gradient before the momentum, on all parameters.

    Args:
      rate: learning rate per update, a number or a schedule.
      momentum: in [0, 1).
      nesterov: look ahead.
      weight_decay: coefficient of the parameter added to its gradient.

    Raises:
      ValueError: if momentum or weight_decay is out of range.
    """
    checks.number("sgd", "momentum", momentum, least=0, below=1)
    checks.number("sgd", "weight_decay", weight_decay, least=0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.trace(momentum, nesterov=nesterov) if momentum else optax.identity(),
        optax.scale_by_learning_rate(rate),
    )


def adam(rate: Rate, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Build Adam; weight decay is coupled, added to the gradient, as PyTorch's Adam does."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(rate),
    )


class InStages(NamedTuple):
    """State of `in_stages`: the updates done, and the state of the stage's own optimiser."""

    done: Array
    inner: Any


def in_stages(
    first: optax.GradientTransformation, second: optax.GradientTransformation, *, at: int
) -> optax.GradientTransformation:
    """Train with one optimiser for some updates, then begin anew with another: momentum and schedule start over.

    Args:
      first, second: of the same kind, so that their states have the same shapes.
      at: updates of the first.
    Raises:
      ValueError: if there are none.
    """
    checks.count("in_stages", "at", at)

    def init(params: Any) -> InStages:
        return InStages(jnp.zeros((), jnp.int32), first.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        begins = state.done == at
        inner = jax.tree.map(lambda new, old: jnp.where(begins, new, old), second.init(params), state.inner)
        moved, inner = jax.lax.cond(state.done < at, first.update, second.update, updates, inner, params)
        return moved, InStages(state.done + 1, inner)

    return optax.GradientTransformation(init, update)


def piecewise(
    rate: float, updates: int, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> optax.Schedule:
    """Multiply the rate by `factor` at the given shares of the run.

    Raises:
      ValueError: if a share is outside (0, 1).
    """
    if not all(0 < share < 1 for share in at):
        raise ValueError(f"piecewise: at is {tuple(at)}, must be shares of the run in (0, 1)")
    return optax.piecewise_constant_schedule(rate, {round(share * updates): factor for share in at})


def cosine(rate: float, updates: int) -> optax.Schedule:
    """Fall from `rate` to 0 along half a cosine: rate (1 + cos(pi t / updates)) / 2."""
    return optax.cosine_decay_schedule(rate, updates)


def one_cycle(rate: float, updates: int, *, peak: float = 0.4) -> optax.Schedule:
    """Rise linearly from 0 to `rate` over the share `peak` of the run, then fall linearly to 0.

    Reference: the cyclic schedule of Wong, Rice and Kolter 2020, arXiv:2001.03994.
    """
    if not 0 < peak < 1:
        raise ValueError(f"one_cycle: peak is {peak}, must be a share of the run in (0, 1)")
    top = max(1, round(peak * updates))
    up, down = optax.linear_schedule(0.0, rate, top), optax.linear_schedule(rate, 0.0, max(1, updates - top))
    return optax.join_schedules([up, down], [top])
