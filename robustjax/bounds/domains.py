"""Sub-domains of a threat, where some numbers are on one side of a value, and bounds over them: beta-CROWN.

A cut says that one number, of the input or read by a curve such as ReLU, is at least or at most some value. Behind the
cut the curve is bounded over a shorter interval; and since m (end - z) <= 0 where z >= end and m >= 0, that product may
be added to what is minimised for any m: the multipliers are optimised with the slopes.

Reference: Wang et al. 2021, arXiv:2103.06624, beta-CROWN, for ReLU; cuts at any value of any curve are the same.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from robustjax.bounds import backward, rounding
from robustjax.bounds.activations import curve_of
from robustjax.bounds.affine import Ball
from robustjax.bounds.arithmetic import Interval, is_affine
from robustjax.bounds.backward import Moved, Relaxations, Turnings, Values
from robustjax.bounds.program import Constant, Program, Wire
from robustjax.numerics import Norm


class Whole(NamedTuple):
    """What is known over the whole threat around one example.

    Attributes:
      x, eps: of the ball.
      label: the class whose lead over another one is bounded from below.
      values: intervals of every value of the program.
      slacks: what rounding does to them.
    """

    x: Array
    eps: Float[Array, ""]
    label: Int[Array, ""]
    values: Values
    slacks: rounding.Slacks


class Domain(NamedTuple):
    """A sub-domain by its cuts, or several of them; arrays of NumPy between programs.

    Attributes:
      other: (): the class that the label's is compared with.
      place: (d,) which number each cut is about, in the order of `Numbers`; -1 for none.
      side: (d,) 1 where that number is at least `end`, -1 where it is at most `end`.
      end: (d,) the value.
      scale: (d,) what its multiplier is measured in.
      multiplier: (d,) at least 0.
    """

    other: Constant
    place: Constant
    side: Constant
    end: Constant
    scale: Constant
    multiplier: Constant


class Inside(NamedTuple):
    """What is known inside a sub-domain: intervals, where the lines of curves start from, and whether it is empty."""

    values: Values
    turnings: Turnings
    empty: Bool[Array, ""]


class Numbers(NamedTuple):
    """The numbers that may be cut: those of the input, then all that curves read, one after the other."""

    wires: tuple[Wire, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        """Count them."""
        return sum(self._sizes)

    @property
    def inputs(self) -> int:
        """Count those of the input, which come first."""
        return self._sizes[0]

    @property
    def _sizes(self) -> list[int]:
        return [int(np.prod(shape)) for shape in self.shapes]

    def flat(self, of: Mapping[Wire, Array]) -> Float[Array, " n"]:
        """Join what belongs to each number."""
        return jnp.concatenate([of[w].reshape(-1) for w in self.wires])

    def apart(self, flat: Float[Array, " n"]) -> dict[Wire, Array]:
        """Undo `flat`."""
        parts = jnp.split(flat, np.cumsum(self._sizes)[:-1])
        return {w: part.reshape(s) for w, part, s in zip(self.wires, parts, self.shapes, strict=True)}


def numbers(program: Program) -> Numbers:
    """List the numbers of a program that may be cut."""
    shapes = {
        out: tuple(var.aval.shape)  # pyright: ignore[reportAttributeAccessIssue]
        for line in program.lines
        for out, var in zip(line.outputs, line.equation.outvars, strict=True)
    }
    read = {w for line in program.lines if not is_affine(line) and curve_of(line) for w in line.wires()}
    hidden = sorted(read - {program.x})
    return Numbers((program.x, *hidden), (program.shape, *(shapes[w] for w in hidden)))


def enter(program: Program, norm: Norm, whole: Whole, domain: Domain, *, chunk: int | None = None) -> Inside:
    """Bound every value over one sub-domain, by intervals from its cuts on.

    Args:
      program, norm, whole: of the threat.
      domain: one.
      chunk: to bound them by linear relaxation as well, that many rows at a time.
    """
    every = numbers(program)
    ends = []
    for number, sign in ((0, 1.0), (1, -1.0)):
        known = every.flat({w: whole.values[w][number] for w in every.wires})
        new = jnp.where(domain.side == sign, domain.end, -sign * jnp.inf)
        at = known.at[_drop(domain.place, every.total)]
        ends.append(every.apart(at.max(new, mode="drop") if sign > 0 else at.min(new, mode="drop")))
    cut = {w: Interval(ends[0][w], ends[1][w]) for w in every.wires}

    values: Values = {program.x: cut[program.x]}
    for line in program.lines:
        for out, found in zip(
            line.outputs, backward.intervals(program, line, values, whole.slacks), strict=True
        ):
            known = cut.get(out, whole.values[out])
            values[out] = Interval(jnp.maximum(found.low, known.low), jnp.minimum(found.high, known.high))
    if chunk is not None:
        ball = Ball(whole.x, whole.eps, norm, values[program.x])
        values = backward.by_relaxation(program, ball, values, chunk=chunk)
    empty = jnp.stack([(v.low > v.high).any() for v in values.values()]).any()
    assert isinstance(program.output, Wire)
    return Inside(values, backward.turnings(program, program.output, values), empty)


def bound(
    program: Program,
    norm: Norm,
    whole: Whole,
    inside: Inside,
    relaxations: Relaxations,
    domain: Domain,
    hull: Interval,
) -> Float[Array, ""]:
    """Bound the lead of the label's class over another one from below, over one sub-domain.

    Args:
      program, norm, whole, domain: as in `enter`; the multipliers are the domain's.
      inside: from `enter`.
      relaxations: of every operation.
      hull: the input's interval, to be differentiated by.
    """
    every, output, values = numbers(program), program.output, inside.values
    assert isinstance(output, Wire)
    row = jnp.zeros_like(values[output].low).at[whole.label].add(1.0).at[domain.other].add(-1.0)
    place = _drop(domain.place, every.total)
    hidden = (domain.place >= every.inputs).astype(row.dtype)  # cuts of the input are in its interval
    push = domain.side * domain.scale * domain.multiplier * hidden
    pushed = every.apart(jnp.zeros(every.total, row.dtype).at[place].add(push, mode="drop"))
    weights = {w: -pushed[w][None] for w in every.wires[1:]} | {output: row[None]}
    found = backward.least(program, Ball(whole.x, whole.eps, norm, hull), relaxations, weights)[0]

    end = jnp.where(hidden > 0, domain.end, 0.0)
    largest = every.flat({w: rounding.largest(values[w]) for w in every.wires})
    reach = jnp.abs(end) + largest.at[place].get(mode="fill", fill_value=0.0)
    lost = rounding.unit(row) * (len(end) + 16) * (jnp.abs(push) * reach).sum()
    return found + (push * end).sum() - jax.lax.stop_gradient(lost)


def relaxations_of(program: Program, whole: Whole, inside: Inside, moved: Moved) -> Relaxations:
    """Bound every operation over a sub-domain, with what rounding does over the whole threat."""
    return backward.relaxations_of(program, inside.values, moved, whole.slacks, inside.turnings)


def _drop(place: Constant, count: int) -> Array:
    return jnp.where(place < 0, count, place)
