"""Bound what a function can become over a threat."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.bounds import backward
from robustjax.bounds.activations import recognised
from robustjax.bounds.affine import Ball, first_layers, last_layers
from robustjax.bounds.affine import differences as last_differences
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.backward import Relaxations, Values
from robustjax.bounds.optimised import least_optimised
from robustjax.bounds.program import Program, Wire, traced
from robustjax.models.cpu.rewritten import with_fast_convolutions
from robustjax.numerics import constant, in_float32, per_example
from robustjax.threats import Threat
from robustjax.types import Labels, LogitsFn, PerExample

Method = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[Method, ...] = get_args(Method)


@in_float32
def enclose(
    fn: Callable[[Float[Array, "b ..."]], Float[Array, "b ..."]],
    threat: Threat,
    x: Float[Array, "b ..."],
    *,
    method: Method = "ibp",
    chunk: int = 256,
    outward: bool = False,
) -> Interval:
    """Bound every output of a function over the threat around each example.

    Methods, from the cheapest to the tightest; none is looser than "ibp":

    * "ibp": intervals from operation to operation. L2 and l1: what is affine in the input, such as the first layer, by
      the exact dual norm of its rows, or by the ball's smallest box where that is tighter; from there on intervals.
      Exact for what is affine, over the ball alone or over the box alone.
    * "crown-ibp": of those intervals, lines below and above every operation, put in from the output backwards.
    * "crown": the intervals inside too are bounded so, at a pass backwards for every number of a hidden layer.
    * "alpha-crown": as "crown", and the slopes behind the outputs optimised by 30 steps of Adam.

    Args:
      fn: any function of examples on their own; see `arithmetic`, `activations` and `relaxation` for the operations
        that it may use.
      threat: eps may be traced; with eps 0 both ends are the function's value, up to rounding.
      x: points of the box.
      method: one of the above.
      chunk: rows of a hidden layer that go back at a time; more take more memory.
      outward: add what rounding can do to fn and to its bounds, see `rounding`; else they hold up to that.

    Returns:
      The lowest and highest values, of the shape of fn(x). Traced code may sweep, differentiate and train on them.

    Raises:
      ValueError: if fn uses an operation that is not supported; the message names it.

    Reference: Gowal et al. 2018, arXiv:1810.12715, IBP; Zhang et al. 2018, arXiv:1811.00866, CROWN; Zhang et al. 2020,
      arXiv:1906.06316, CROWN-IBP; Xu et al. 2021, arXiv:2011.13824, alpha-CROWN.
    """

    def one(program: Program, ball: Ball) -> Interval:
        if not isinstance(program.output, Wire):
            known = jnp.asarray(program.output)
            return Interval(known, known)
        output, values = program.output, intervals_of(program, ball)
        if method == "ibp" or output == program.x:
            return values[output]
        like = values[output].low
        relaxations, inside = _lines(program, ball, values, method, chunk)
        if method == "alpha-crown":
            unit = jnp.eye(like.size, dtype=like.dtype).reshape(-1, *like.shape)
            ends = (least_optimised(program, ball, inside, {output: rows}) for rows in (unit, -unit))
            low, high = (end.reshape(like.shape) for end in ends)
            high = -high
        else:
            low, high = backward.bounds(program, ball, relaxations, output, like, chunk)
        return _both(Interval(low, high), values[output])

    _method("bounds", method)
    checks.count("bounds", "chunk", chunk)
    return _mapped(one, fn, threat, x, outward=outward)


@in_float32
def differences(
    logits_fn: LogitsFn,
    threat: Threat,
    x: Float[Array, "b ..."],
    *,
    method: Method = "ibp",
    chunk: int = 256,
    outward: bool = False,
) -> Float[Array, "b k k"]:
    """Bound all differences of logits from above: entry [k, j] is at least z_k - z_j everywhere in the threat.

    The last affine layers are bounded for each difference, which is tighter than differences of bounds. Memory
    grows with K^2 times the width of the last hidden layer.

    Args:
      logits_fn, threat, x, method, chunk, outward: as in `enclose`; the function returns logits (b, k).
    """
    return _differences(logits_fn, threat, x, method, chunk, outward=outward)


def differences_for_training(
    logits_fn: LogitsFn, threat: Threat, x: Float[Array, "b ..."], *, method: Method = "ibp", chunk: int = 256
) -> Float[Array, "b k k"]:
    """Compute as `differences` with products at the default precision: on accelerators fast, and no proof."""
    return _differences(logits_fn, threat, x, method, chunk, outward=False)


def _differences(
    logits_fn: LogitsFn,
    threat: Threat,
    x: Float[Array, "b ..."],
    method: Method,
    chunk: int,
    *,
    outward: bool,
) -> Float[Array, "b k k"]:
    def one(program: Program, ball: Ball) -> Array:
        if not isinstance(program.output, Wire):
            known = jnp.asarray(program.output)
            return known[:, None] - known[None]
        output, values = program.output, intervals_of(program, ball)
        found = last_differences(program, last_layers(program, output), values, ball)
        if method == "ibp" or output == program.x:
            return found
        count = found.shape[0]
        relaxations, inside = _lines(program, ball, values, method, chunk)
        # Of z_j - z_k, from below; the diagonal is no difference.
        unit = jnp.eye(count, dtype=found.dtype)
        first, second = np.nonzero(~np.eye(count, dtype=bool))
        rows = unit[second] - unit[first]
        if method == "alpha-crown":
            least = least_optimised(program, ball, inside, {output: rows})
        else:
            least = backward.least(program, ball, relaxations, {output: rows})
        return found.at[first, second].min(-least)

    checks.array("bounds", x)
    checks.answers("bounds", jax.eval_shape(lambda z: checks.called("bounds", "network", logits_fn, z), x))
    _method("bounds", method)
    checks.count("bounds", "chunk", chunk)
    return _mapped(one, logits_fn, threat, x, outward=outward)


@in_float32
def margins(
    logits_fn: LogitsFn,
    threat: Threat,
    x: Float[Array, "b ..."],
    label: Labels,
    *,
    method: Method = "ibp",
    chunk: int = 256,
    outward: bool = True,
) -> PerExample:
    """Bound max_{j != y} z_j - z_y from above: where it is negative no point of the threat is misclassified.

    If `outward`, that is so for the network as it is computed in floating point: see `rounding`.

    Args:
      logits_fn, threat, x, method, chunk, outward: as in `differences`; label: the classes y.
    """

    def one(program: Program, ball: Ball, label: Array) -> Array:
        if not isinstance(program.output, Wire):
            found = program.output - program.output[label]
        else:
            output, values = program.output, intervals_of(program, ball)
            found = last_differences(program, last_layers(program, output), values, ball)[:, label]
            if method != "ibp" and output != program.x:
                relaxations, inside = _lines(program, ball, values, method, chunk)
                unit = jnp.eye(len(found), dtype=found.dtype)
                rows = {output: unit[label][None] - unit}
                if method == "alpha-crown":
                    least = least_optimised(program, ball, inside, rows)
                else:
                    least = backward.least(program, ball, relaxations, rows)
                found = jnp.minimum(found, -least)
        return jnp.where(jnp.arange(len(found)) == label, -jnp.inf, found).max()

    checks.array("bounds", x)
    checks.answers(
        "bounds", jax.eval_shape(lambda z: checks.called("bounds", "network", logits_fn, z), x), label
    )
    _method("bounds", method)
    checks.count("bounds", "chunk", chunk)
    return _mapped(one, logits_fn, threat, x, label, outward=outward)


def _method(who: str, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"{who}: method is {method!r}, must be one of {', '.join(METHODS)}")


def _lines(
    program: Program, ball: Ball, values: Values, method: Method, chunk: int
) -> tuple[Relaxations, Values]:
    if method != "crown-ibp":
        values = backward.by_relaxation(program, ball, values, chunk=chunk)
    return backward.relaxations_of(program, values), values


def _mapped(
    one: Callable, fn: Callable[[Array], Array], threat: Threat, x: Array, *others: Array, outward: bool
):
    checks.threat("bounds", threat)
    kind = checks.norm("bounds", threat.norm)
    checks.points("bounds", x, eps=threat.eps, lower=threat.lower, upper=threat.upper)
    program = recognised(
        traced(
            with_fast_convolutions(lambda z: jnp.squeeze(checks.called("bounds", "network", fn, z[None]), 0)),
            x[0],
        )
    )._replace(outward=outward)

    def mapped(x, eps, hull, *others):
        return one(program, Ball(x, eps, kind, hull), *others)

    return jax.vmap(mapped)(*around(threat, x, outward=outward), *others)


def around(threat: Threat, x: Array, *, outward: bool) -> tuple[Array, Array, Interval]:
    """Return each example, its radius, and the ball's smallest box, cut by the threat's.

    Args:
      threat, x: the ball and its centres.
      outward: widen the box by what its ends are rounded by.
    """
    eps = per_example(threat.eps, x)
    if outward:
        eps = eps + 2 * jnp.finfo(x.dtype).eps * (eps + jax.lax.stop_gradient(jnp.abs(x)))
    low = jnp.broadcast_to(jnp.maximum(x - eps, threat.lower), x.shape)
    high = jnp.broadcast_to(jnp.minimum(x + eps, threat.upper), x.shape)
    return x, constant(x, threat.eps, x.dtype), Interval(low, high)


def intervals_of(program: Program, ball: Ball) -> Values:
    """Bound every value of a program by intervals, and what is affine in the input by dual norms."""
    values: Values = {program.x: ball.hull}
    exact = {} if ball.norm == "linf" else first_layers(program, ball)
    for line in program.lines:
        results = backward.intervals(program, line, values)
        for wire, found in zip(line.outputs, results, strict=True):
            values[wire] = _both(found, exact[wire]) if wire in exact else found
    return values


def _both(a: Interval, b: Interval) -> Interval:
    return Interval(jnp.maximum(a.low, b.low), jnp.minimum(a.high, b.high))
