"""Exact bounds where a function is affine: its first layers over a norm ball, its last ones over an interval."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.bounds import rounding
from robustjax.bounds.arithmetic import Interval, is_affine
from robustjax.bounds.program import Line, Program, Wire, run
from robustjax.numerics import TINY, Norm

_CHUNK = 64  # input features whose responses are computed at a time


class Ball(NamedTuple):
    """The points around x within eps in a norm, and in the box `hull`; of one example."""

    x: Array
    eps: Float[Array, ""]
    norm: Norm
    hull: Interval


class Ending(NamedTuple):
    """The operations that make an output an affine function of `cut`, the last values that are not."""

    cut: list[Wire]
    output: Wire
    lines: list[Line]


def first_layers(program: Program, ball: Ball) -> dict[Wire, Interval]:
    """Bound what is affine in the input and read by what is not: w x + b +- eps |w|_*, with the dual norm.

    The dual norms depend on the weights alone: under `vmap` over examples they are computed once, by as many
    passes through the first layers as the input has features.
    """
    affine, lines = {program.x}, []
    for line in program.lines:
        if is_affine(line) and affine.issuperset(line.wires()):
            affine.update(line.outputs)
            lines.append(line)
    read = {w for line in program.lines if not affine.issuperset(line.outputs) for w in line.wires()}
    if isinstance(program.output, Wire):
        read.add(program.output)
    edge = sorted((affine & read) - {program.x})
    if not edge:
        return {}

    def prefix(x: Array) -> list[Array]:
        env = run(lines, {program.x: x})
        return [env[w] for w in edge]

    centres = prefix(ball.x)
    norms = _dual_norms(prefix, jnp.full(ball.x.shape, program.zero), ball.norm)
    reaches = [ball.eps * n for n in norms]
    if program.outward:
        reach = jnp.abs(ball.x) + ball.eps
        lost = rounding.chain(lines, {program.x: Interval(-reach, reach)}, others=reach.size)
        reaches = [r + lost[w] for r, w in zip(reaches, edge, strict=True)]
    return {w: Interval(c - r, c + r) for w, c, r in zip(edge, centres, reaches, strict=True)}


def _dual_norms(prefix: Callable[[Array], list[Array]], zero: Array, norm: Norm) -> list[Array]:
    """Compute the l2 or (against l1) the linf norm of every row of an affine map's matrix, column by column."""
    count = zero.size
    chunks = -(-count // _CHUNK)

    def linear(direction):
        return jax.jvp(prefix, (zero,), (direction,))[1]

    @jax.checkpoint
    def add(total, first):
        column = jnp.arange(_CHUNK) + first * _CHUNK
        unit = (column[:, None] == jnp.arange(count)[None]).astype(zero.dtype)
        answers = jax.vmap(linear)(unit.reshape(_CHUNK, *zero.shape) + zero[None])
        if norm == "l1":
            return [jnp.maximum(t, jnp.abs(a).max(axis=0)) for t, a in zip(total, answers, strict=True)], None
        return [t + jnp.square(a).sum(axis=0) for t, a in zip(total, answers, strict=True)], None

    total, _ = jax.lax.scan(add, linear(zero), jnp.arange(chunks))
    return total if norm == "l1" else [root(t) for t in total]


def root(square: Array) -> Array:
    """Take square roots, with slope 0 at 0."""
    positive = square > TINY
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def last_layers(program: Program, output: Wire) -> Ending:
    """Go back from an output as far as all is affine."""
    made = {w: line for line in program.lines for w in line.outputs}
    needed, cut = {output}, []
    for wire in sorted({program.x, *made}, reverse=True):
        line = made.get(wire)
        if wire in needed and line is not None and is_affine(line):
            needed.update(line.wires())
        elif wire in needed:
            cut.append(wire)
    return Ending(cut, output, [line for line in program.lines if needed & set(line.outputs) - set(cut)])


def differences(
    program: Program, ending: Ending, values: Mapping[Wire, Interval], ball: Ball
) -> Float[Array, "k k"]:
    """Bound all z_k - z_j from above, over the intervals of the ending's cut, taking what both share off first."""

    def logits(cut: list[Array]) -> Array:
        return run(ending.lines, dict(zip(ending.cut, cut, strict=True)))[ending.output]

    zeros = [jnp.full(values[w].low.shape, program.zero, values[w].low.dtype) for w in ending.cut]
    offset, back = jax.vjp(logits, zeros)
    (weights,) = jax.vmap(back)(jnp.diag(jnp.ones_like(offset)))
    total = offset[:, None] - offset[None]
    for wire, weight in zip(ending.cut, weights, strict=True):
        rows = weight.reshape(weight.shape[0], -1)
        between = rows[:, None] - rows[None]
        low, high = (end.reshape(-1) for end in values[wire])
        part = _apart(rows @ (0.5 * (low + high))) + jnp.abs(between) @ (0.5 * (high - low))
        if wire == program.x and ball.norm != "linf":
            dual = (
                jnp.abs(between).max(axis=-1) if ball.norm == "l1" else root(jnp.square(between).sum(axis=-1))
            )
            part = jnp.minimum(part, _apart(rows @ ball.x.reshape(-1)) + ball.eps * dual)
        total = total + part
    if program.outward:
        count = sum(values[w].low.size for w in ending.cut)
        lost = rounding.chain(ending.lines, {w: values[w] for w in ending.cut}, others=count)
        few = 4 * rounding.unit(offset)
        off = lost[ending.output] if ending.lines else few * rounding.largest(values[ending.output])
        total = total + off[:, None] + off[None]
    return total


def _apart(z: Array) -> Array:
    return z[:, None] - z[None]
