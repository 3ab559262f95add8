"""Bound what a function can become over a threat, by intervals that are passed from operation to operation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.bounds.affine import Ball, first_layers, last_layers
from robustjax.bounds.affine import differences as last_differences
from robustjax.bounds.arithmetic import Interval, apply
from robustjax.bounds.program import Program, Wire, look_up, traced
from robustjax.numerics import constant, per_example
from robustjax.threats import Threat
from robustjax.types import LogitsFn


def enclose(
    fn: Callable[[Float[Array, "b ..."]], Float[Array, "b ..."]], threat: Threat, x: Float[Array, "b ..."]
) -> Interval:
    """Bound every output of a function over the threat around each example.

    Linf: interval bound propagation from the ball cut by the box. L2 and l1: what is affine in the input, such as
    the first layer, by the exact dual norm of its rows, or by the ball's smallest box where that is tighter; from
    there on intervals. Exact for what is affine, over the ball alone or over the box alone.

    Args:
      fn: any function of examples on their own; see `arithmetic` for the operations that it may use.
      threat: eps may be traced; with eps 0 both ends are the function's value, up to rounding.
      x: points of the box.

    Returns:
      The lowest and highest values, of the shape of fn(x). Traced code may sweep, differentiate and train on them.

    Raises:
      ValueError: if fn uses an operation that is not supported; the message names it.

    Reference: Gowal et al. 2018, arXiv:1810.12715.
    """

    def one(program: Program, ball: Ball) -> Interval:
        if not isinstance(program.output, Wire):
            return Interval(program.output, program.output)
        return _values(program, ball)[program.output]

    return _mapped(one, fn, threat, x)


def differences(logits_fn: LogitsFn, threat: Threat, x: Float[Array, "b ..."]) -> Float[Array, "b k k"]:
    """Bound all differences of logits from above: entry [k, j] is at least z_k - z_j everywhere in the threat.

    The last affine layers are bounded for each difference, which is tighter than differences of bounds. Memory
    grows with K^2 times the width of the last hidden layer.

    Args:
      logits_fn, threat, x: as in `enclose`; the function returns logits (b, k).
    """

    def one(program: Program, ball: Ball) -> Array:
        if not isinstance(program.output, Wire):
            return program.output[:, None] - program.output
        return last_differences(program, last_layers(program, program.output), _values(program, ball), ball)

    checks.array("bounds", x)
    checks.answers("bounds", jax.eval_shape(lambda z: checks.called("bounds", "network", logits_fn, z), x))
    return _mapped(one, logits_fn, threat, x)


def _mapped(one: Callable, fn: Callable[[Array], Array], threat: Threat, x: Array):
    checks.threat("bounds", threat)
    checks.points("bounds", x, eps=threat.eps, lower=threat.lower, upper=threat.upper)
    eps = per_example(threat.eps, x)
    low = jnp.broadcast_to(jnp.maximum(x - eps, threat.lower), x.shape)
    high = jnp.broadcast_to(jnp.minimum(x + eps, threat.upper), x.shape)
    program = traced(lambda z: jnp.squeeze(checks.called("bounds", "network", fn, z[None]), 0), x[0])

    def mapped(x, eps, low, high):
        return one(program, Ball(x, eps, threat.norm, Interval(low, high)))

    return jax.vmap(mapped)(x, constant(x, threat.eps, x.dtype), low, high)


def _values(program: Program, ball: Ball) -> dict[Wire, Interval]:
    values = {program.x: ball.hull}
    exact = {} if ball.norm == "linf" else first_layers(program, ball)
    for line in program.lines:
        results = apply(line, look_up(values, line.inputs))
        for wire, found in zip(line.outputs, results, strict=True):
            values[wire] = _both(found, exact[wire]) if wire in exact else found
    return values


def _both(a: Interval, b: Interval) -> Interval:
    return Interval(jnp.maximum(a.low, b.low), jnp.minimum(a.high, b.high))
