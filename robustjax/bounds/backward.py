"""Linear relaxation: bound what a program makes by affine functions of its input, put in from the output backwards."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.bounds import rounding
from robustjax.bounds.activations import curve_of
from robustjax.bounds.affine import Ball, root
from robustjax.bounds.arithmetic import Interval, is_affine
from robustjax.bounds.curves import STRAIGHT, Turning, turning
from robustjax.bounds.program import Line, Program, Wire
from robustjax.bounds.relaxation import Relaxation, interval, relaxed

Values = dict[Wire, Interval]
Relaxations = Mapping[Wire, Relaxation]  # of operations, by result
Moved = Mapping[Wire, Interval]  # how lines below and above are turned, by the result of their curve
Turnings = Mapping[Wire, Turning]  # where those start from
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
    lost = jnp.zeros_like(offset)  # at most, in sums of offsets
    for out in (out for line in reversed(program.lines) for out in line.outputs):
        if out not in weights:
            continue
        weight, relaxation = weights.pop(out), relaxations[out]
        up, down = jnp.maximum(weight, 0.0), jnp.minimum(weight, 0.0)
        offset += _sum(up, relaxation.low_offset) + _sum(down, relaxation.high_offset)
        if program.outward:
            count = rounding.unit(weight) * (relaxation.low_offset.size + len(program.lines) + 2)
            sums = _sum(up, jnp.abs(relaxation.low_offset)) - _sum(down, jnp.abs(relaxation.high_offset))
            lost += jax.lax.stop_gradient(count * sums)
        if relaxation.low is relaxation.high:
            pulled = jax.vmap(relaxation.low)(weight)
        else:
            pulled = [
                a + b
                for a, b in zip(jax.vmap(relaxation.low)(up), jax.vmap(relaxation.high)(down), strict=True)
            ]
        for wire, part in zip(relaxation.wires, pulled, strict=True):
            weights[wire] = weights[wire] + part if wire in weights else part
    offset = offset - lost
    if program.x not in weights:
        return offset
    over = _over_outward if program.outward else _over
    return offset + over(ball, weights[program.x])


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


def _over_outward(ball: Ball, weight: Array) -> Array:
    """Minimise as `_over`, with what rounding may take off."""
    flat = weight.reshape(weight.shape[0], -1)
    low, high, x = (v.reshape(1, -1) for v in (ball.hull.low, ball.hull.high, ball.x))
    found = rounding.tree_sum(jnp.maximum(flat, 0.0) * low + jnp.minimum(flat, 0.0) * high)
    if ball.norm != "linf":
        # Norms of n numbers are off by n units at most.
        long = 1.0 + flat.shape[1] * 2 * rounding.unit(flat)
        dual = jnp.abs(flat).max(axis=1) if ball.norm == "l1" else root(jnp.square(flat).sum(axis=1)) * long
        found = jnp.maximum(found, rounding.tree_sum(flat * x) - ball.eps * dual)
    sums = jnp.abs(flat) @ (jnp.maximum(jnp.abs(low), jnp.abs(high)) + jnp.abs(x) + ball.eps)[0]
    return found - jax.lax.stop_gradient(rounding.SUMMED * rounding.unit(flat) * sums)


def relaxations_of(
    program: Program,
    values: Mapping[Wire, Interval],
    moved: Moved = NOTHING,
    slacks: rounding.Slacks | None = None,
    turnings: Turnings | None = None,
) -> Relaxations:
    """Bound every operation by affine functions over intervals of its operands.

    Args:
      program: whose operations; where it is `outward`, lines are moved as far as rounding may take them.
      values: the intervals.
      moved: how lines are turned.
      slacks: what rounding does over these intervals or wider ones, where it is known.
      turnings: where lines start from, where it is known.
    """
    known = turnings or {}
    if slacks is None and program.outward:
        slacks = rounding.slacks(program, values)
    found = {
        out: relaxed(line, values, number, moved.get(out), known.get(out))
        for line in program.lines
        for number, out in enumerate(line.outputs)
    }
    return {out: _moved(one, slacks[out]) for out, one in found.items()} if slacks else found


def _moved(relaxation: Relaxation, by: Array) -> Relaxation:
    return relaxation._replace(low_offset=relaxation.low_offset - by, high_offset=relaxation.high_offset + by)


def by_relaxation(
    program: Program, ball: Ball, values: Values, *, chunk: int, only_open: bool = False
) -> Values:
    """Bound every value that a nonlinear operation reads by linear relaxation of all that makes it.

    Args:
      program, ball: of one example.
      values: intervals of every value, which are kept where they are tighter.
      chunk: how many numbers of a value are bounded at a time.
      only_open: leave out numbers on which only curves of straight pieces depend, such as ReLU, and that intervals
        find in one of their pieces: what such curves give is the same. No derivatives in reverse mode then.
    """
    tight: Values = {program.x: ball.hull}
    relaxations: dict[Wire, Relaxation] = {}
    read = read_by_curves(program)
    for line in program.lines:
        for number, (out, found) in enumerate(
            zip(line.outputs, intervals(program, line, tight), strict=True)
        ):
            low = jnp.maximum(found.low, values[out].low)
            high = jnp.minimum(found.high, values[out].high)
            relaxations[out] = relaxed(line, tight, number)
            if program.outward:
                relaxations[out] = _moved(relaxations[out], rounding.slack(line, tight, number))
            tight[out] = Interval(low, high)
            if out not in read:
                continue
            if only_open:

                def least_of(rows: Array, out: Wire = out) -> Array:
                    return least(program, ball, relaxations, {out: rows})

                tight[out] = narrowed(tight[out], open_numbers(program, out, tight[out]), least_of, chunk)
            else:
                back = bounds(program, ball, relaxations, out, low, chunk)
                tight[out] = Interval(jnp.maximum(low, back.low), jnp.minimum(high, back.high))
    return tight


def open_numbers(program: Program, wire: Wire, x: Interval) -> Array:
    """Find the numbers of a value for which the pieces that they lie in are open, in one of the curves that read it."""
    found = jnp.zeros(x.low.shape, bool)
    for line in program.lines:
        if wire not in line.wires() or is_affine(line):
            continue
        curve = curve_of(line)
        if curve is None or any(shape != STRAIGHT for shape in curve.shapes):
            return jnp.ones(x.low.shape, bool)
        for end in curve.breaks:
            found |= (x.low < end) & (x.high > end)
    return found


def narrowed(
    known: Interval, chosen: Array, least_of: Callable[[Float[Array, "rows ..."]], Array], chunk: int
) -> Interval:
    """Bound the chosen numbers of a value on both sides, some at a time, and keep what is tighter.

    Args:
      known: intervals of the value.
      chosen: which numbers; how many may be traced.
      least_of: from weights of the value, a row for each bound, to bounds from below.
      chunk: numbers at a time.
    """
    shape, size = known.low.shape, known.low.size
    chunk = min(chunk, size)
    order = jnp.argsort(~chosen.reshape(-1), stable=True)
    order = jnp.pad(order, (0, -size % chunk), mode="edge")

    def some(number: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        at = jax.lax.dynamic_slice(order, (number * chunk,), (chunk,))
        rows = jax.nn.one_hot(at, size, dtype=known.low.dtype).reshape(-1, *shape)
        found = least_of(jnp.concatenate([rows, -rows]))
        found = jnp.where(jnp.isnan(found), -jnp.inf, found)
        return ends[0].at[at].max(found[:chunk]), ends[1].at[at].min(-found[chunk:])

    ends = known.low.reshape(-1), known.high.reshape(-1)
    low, high = jax.lax.fori_loop(0, -(-chosen.sum() // chunk), some, ends)
    return Interval(low.reshape(shape), high.reshape(shape))


def intervals(
    program: Program,
    line: Line,
    values: Mapping[Wire, Interval],
    slacks: rounding.Slacks | None = None,
) -> list[Interval]:
    """Bound the results of an operation by intervals, as `relaxation.interval`; outwards if the program is."""
    found = interval(line, values)
    if not program.outward:
        return found
    known = slacks or {}
    return [
        rounding.outward(line, one, values, number, known.get(out))
        for number, (out, one) in enumerate(zip(line.outputs, found, strict=True))
    ]


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


def turnings(program: Program, wire: Wire, values: Mapping[Wire, Interval]) -> dict[Wire, Turning]:
    """Prepare the lines of all curves that a value depends on to be turned."""
    found = {}
    for line in curves_before(program, wire):
        curve = curve_of(line)
        assert curve is not None
        found[line.outputs[0]] = turning(curve, values[line.wires()[0]])
    return found


def bounds(
    program: Program, ball: Ball, relaxations: Relaxations, wire: Wire, like: Array, chunk: int
) -> Interval:
    """Bound every number of a value on both sides, some numbers at a time."""
    size = like.size

    def one(first: Array) -> tuple[Array, Array]:
        rows = jax.nn.one_hot(first + jnp.arange(min(chunk, size)), size, dtype=like.dtype)
        rows = rows.reshape(-1, *like.shape)
        found = least(program, ball, relaxations, {wire: jnp.concatenate([rows, -rows])})  # compiled once
        return found[: len(rows)], -found[len(rows) :]

    if size <= chunk:
        low, high = one(jnp.asarray(0))
    else:
        low, high = jax.lax.map(one, jnp.arange(0, size, chunk))
    return Interval(low.reshape(-1)[:size].reshape(like.shape), high.reshape(-1)[:size].reshape(like.shape))
