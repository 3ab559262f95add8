"""Linear relaxation: bound what a program makes by affine functions of its input, put in from the output backwards."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.bounds.activations import curve_of
from robustjax.bounds.affine import Ball, root
from robustjax.bounds.arithmetic import Interval, is_affine
from robustjax.bounds.program import Line, Program, Wire
from robustjax.bounds.relaxation import Relaxation, interval, relaxed

Values = dict[Wire, Interval]
Relaxations = Mapping[Wire, Relaxation]  # of operations, by result
Moved = Mapping[Wire, Interval]  # how lines below and above are turned, by the result of their curve
NOTHING: Moved = {}


def least(
    program: Program,
    ball: Ball,
    relaxations: Relaxations,
    weights: Mapping[Wire, Float[Array, "rows ..."]],
) -> Float[Array, " rows"]:
    """Bound sums of weighted values from below over a ball.

    Args:
      program, ball: of one example.
      relaxations: of the lines that make the values, by result.
      weights: of each value, a row for each bound.

    Reference: Zhang et al. 2018, arXiv:1811.00866, CROWN; for any program Xu et al. 2020, arXiv:2002.12920.
    """
    weights = dict(weights)
    rows = next(iter(weights.values())).shape[0]
    offset = jnp.zeros(rows, ball.x.dtype)
    for out in (out for line in reversed(program.lines) for out in line.outputs):
        if out not in weights:
            continue
        weight, relaxation = weights.pop(out), relaxations[out]
        up, down = jnp.maximum(weight, 0.0), jnp.minimum(weight, 0.0)
        offset += _sum(up, relaxation.low_offset) + _sum(down, relaxation.high_offset)
        if relaxation.low is relaxation.high:
            pulled = jax.vmap(relaxation.low)(weight)
        else:
            pulled = [
                a + b
                for a, b in zip(jax.vmap(relaxation.low)(up), jax.vmap(relaxation.high)(down), strict=True)
            ]
        for wire, part in zip(relaxation.wires, pulled, strict=True):
            weights[wire] = weights[wire] + part if wire in weights else part
    return offset + _over(ball, weights[program.x]) if program.x in weights else offset


def _sum(weight: Array, offset: Array) -> Array:
    """Weigh offsets, of which one may be infinite where its weight is 0."""
    part = jnp.where(weight == 0, 0.0, weight * offset[None])
    return part.reshape(weight.shape[0], -1).sum(axis=1)


def _over(ball: Ball, weight: Array) -> Array:
    """Minimise linear functions over the ball, or over the box around it where that gives more."""
    flat = weight.reshape(weight.shape[0], -1)
    low, high, x = (v.reshape(-1) for v in (ball.hull.low, ball.hull.high, ball.x))
    found = jnp.maximum(flat, 0.0) @ low + jnp.minimum(flat, 0.0) @ high
    if ball.norm == "linf":
        return found
    dual = jnp.abs(flat).max(axis=1) if ball.norm == "l1" else root(jnp.square(flat).sum(axis=1))
    return jnp.maximum(found, flat @ x - ball.eps * dual)


def relaxations_of(program: Program, values: Mapping[Wire, Interval], moved: Moved = NOTHING) -> Relaxations:
    """Bound every operation by affine functions over intervals of its operands."""
    return {
        out: relaxed(line, values, number, moved.get(out))
        for line in program.lines
        for number, out in enumerate(line.outputs)
    }


def by_relaxation(program: Program, ball: Ball, values: Values, *, chunk: int) -> Values:
    """Bound every value that a nonlinear operation reads by linear relaxation of all that makes it.

    Args:
      program, ball: of one example.
      values: intervals of every value, which are kept where they are tighter.
      chunk: how many bounds are computed at a time.
    """
    tight: Values = {program.x: ball.hull}
    relaxations: dict[Wire, Relaxation] = {}
    read = read_by_curves(program)
    for line in program.lines:
        for number, (out, found) in enumerate(zip(line.outputs, interval(line, tight), strict=True)):
            low = jnp.maximum(found.low, values[out].low)
            high = jnp.minimum(found.high, values[out].high)
            relaxations[out] = relaxed(line, tight, number)
            if out in read:
                back = bounds(program, ball, relaxations, out, low, chunk)
                low, high = jnp.maximum(low, back.low), jnp.minimum(high, back.high)
            tight[out] = Interval(low, high)
    return tight


def read_by_curves(program: Program) -> set[Wire]:
    """Find the values that operations read which are not affine."""
    return {w for line in program.lines if not is_affine(line) for w in line.wires()} - {program.x}


def curves_before(program: Program, wire: Wire) -> list[Line]:
    """Find the functions of one number that a value depends on."""
    needed, found = {wire}, []
    for line in reversed(program.lines):
        if needed & set(line.outputs):
            needed.update(line.wires())
            if not is_affine(line) and curve_of(line) is not None:
                found.append(line)
    return found


def bounds(
    program: Program, ball: Ball, relaxations: Relaxations, wire: Wire, like: Array, chunk: int
) -> Interval:
    """Bound every number of a value on both sides, some rows at a time."""
    size = like.size

    def one(first: Array) -> tuple[Array, Array]:
        rows = jax.nn.one_hot(first + jnp.arange(min(chunk, size)), size, dtype=like.dtype)
        rows = rows.reshape(-1, *like.shape)
        return least(program, ball, relaxations, {wire: rows}), -least(
            program, ball, relaxations, {wire: -rows}
        )

    if size <= chunk:
        low, high = one(jnp.asarray(0))
    else:
        low, high = jax.lax.map(one, jnp.arange(0, size, chunk))
    return Interval(low.reshape(-1)[:size].reshape(like.shape), high.reshape(-1)[:size].reshape(like.shape))
