"""Where to cut a sub-domain: at the numbers whose curves, relaxed to lines, lower the bound most."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robustjax.bounds import backward, curves, domains
from robustjax.bounds.activations import curve_of
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.backward import Moved, Relaxations
from robustjax.bounds.domains import Domain, Inside, Whole
from robustjax.bounds.program import Line, Program, Wire
from robustjax.numerics import TINY, Norm

_WIDE = 1e-5  # a shorter interval, relative to where it lies, is not cut


class Places(NamedTuple):
    """The best places for a cut, from the best on, and where the bound is attained.

    Attributes:
      place: (c,) which number, in the order of `Numbers`; -1 for none.
      end: (c,) the value at which it is to be cut.
      scale: (c,) the weight of its curve in the bound, which multipliers are measured in.
      point: where in the sub-domain's box the linear function below is lowest.
    """

    place: Int[Array, " c"]
    end: Float[Array, " c"]
    scale: Float[Array, " c"]
    point: Array


class Gaps(NamedTuple):
    """How far the lines of a curve are from it at most, below and above; where to cut it, and whether that helps."""

    below: Array
    above: Array
    end: Array
    able: Array


def places(
    program: Program,
    norm: Norm,
    whole: Whole,
    inside: Inside,
    domain: Domain,
    turns: Moved,
    *,
    inputs: bool,
    count: int,
) -> Places:
    """Rank the cuts of one sub-domain by what the relaxation of the number's curve takes off the bound.

    For a curve, that is the weight of its lines in the bound times how far they are from it; for a number of the input,
    its interval times the slope.

    Args:
      program, norm, whole, domain: as in `domains.bound`.
      inside: from `domains.enter`.
      turns: of the lines.
      inputs: cut the input; else it is cut only when no curve is left to be.
      count: of places.

    Reference: for ReLU Bunel et al. 2020, arXiv:1909.06588, BaBSR, which takes the lines' offsets alone.
    """
    every, values = domains.numbers(program), inside.values
    relaxations = domains.relaxations_of(program, whole, inside, turns)
    curved = curves_of(program)
    found = {line.outputs[0]: _gaps(line, inside, turns) for line in curved}
    none = {out: jnp.zeros_like(values[out].low) for out in found}
    hull = values[program.x]

    def wider(share: dict[Wire, Array], same: dict[Wire, Array], hull: Interval) -> Array:
        """Bound with the lines of curves moved outwards, by shares of their gaps and as they are."""
        moved: Relaxations = dict(relaxations) | {
            w: relaxations[w]._replace(
                low_offset=relaxations[w].low_offset - share[w] * found[w].below - same[w],
                high_offset=relaxations[w].high_offset + share[w] * found[w].above + same[w],
            )
            for w in found
        }
        return domains.bound(program, norm, whole, inside, moved, domain, hull)

    lost, weight, slope = jax.grad(wider, (0, 1, 2))(none, none, hull)
    gain, scale, end = ({w: jnp.zeros_like(values[w].low) for w in every.wires} for _ in range(3))
    for line in curved:
        (wire,), out = set(line.wires()), line.outputs[0]
        here = jnp.where(found[out].able, -lost[out], 0.0)
        end[wire] = jnp.where(here > gain[wire], found[out].end, end[wire])
        gain[wire] = jnp.maximum(gain[wire], here)
        scale[wire] = jnp.maximum(scale[wire], -weight[out])
    gradient, width = slope.low + slope.high, hull.high - hull.low
    wide = width > _WIDE * (1.0 + jnp.abs(hull.low))
    gain[program.x] = jnp.where(wide, jnp.abs(gradient) * width, 0.0)
    end[program.x] = 0.5 * (hull.low + hull.high)

    gains = every.flat(gain)
    of_input = jnp.arange(every.total) < every.inputs
    last = ~of_input if inputs else of_input
    first = jnp.where(last, 0.0, gains)
    # What is cut last counts less than anything that is cut first.
    then = jnp.where(last, gains, 0.0) / jnp.maximum(jnp.where(last, gains, 0.0).max(), TINY)
    rank = first / jnp.maximum(first.max(), TINY) + 1e-9 * then
    best, place = jax.lax.top_k(rank, min(count, every.total))
    return Places(
        jnp.where(best > 0, place, -1),
        every.flat(end)[place],
        every.flat(scale)[place],
        _lowest(norm, whole, hull, gradient),
    )


def curves_of(program: Program) -> list[Line]:
    """List the functions of one number that the output depends on."""
    assert isinstance(program.output, Wire)
    return backward.curves_before(program, program.output)


def _gaps(line: Line, inside: Inside, turns: Moved) -> Gaps:
    """Measure the lines of a curve at its ends and where it is to be cut.

    That is the break nearest to the middle of its interval, or the middle itself where it bends and has none.
    """
    curve = curve_of(line)
    assert curve is not None
    (wire,) = set(line.wires())
    (out,), x = line.outputs, inside.values[wire]
    lines = curves.turned(curve, x, turns[out], inside.turnings[out])
    middle = 0.5 * (x.low + x.high)
    end, broken = middle, jnp.zeros(middle.shape, bool)
    for value in curve.breaks:
        at = jnp.broadcast_to(jnp.asarray(value, middle.dtype), middle.shape)
        within = (at > x.low) & (at < x.high)
        nearer = within & (~broken | (jnp.abs(at - middle) < jnp.abs(end - middle)))
        end, broken = jnp.where(nearer, at, end), broken | within
    straight = all(shape == curves.STRAIGHT for shape in curve.shapes)
    able = broken if straight else broken | (x.high - x.low > _WIDE * (1.0 + jnp.abs(middle)))
    points = jnp.stack([x.low, end, x.high])
    value = curve.fn(points)
    low, low_end, high, high_end = (v[None] for v in lines)
    below = (value - low * points - low_end).max(axis=0)
    above = (high * points + high_end - value).max(axis=0)
    return Gaps(jnp.maximum(below, 0.0), jnp.maximum(above, 0.0), end, able & (end > x.low) & (end < x.high))


def _lowest(norm: Norm, whole: Whole, hull: Interval, gradient: Array) -> Array:
    """Find where a linear function is lowest: in the box, or for l2 in the ball and then in the box."""
    if norm != "l2":
        return jnp.where(gradient > 0, hull.low, hull.high)
    size = jnp.maximum(jnp.sqrt(jnp.square(gradient).sum()), TINY)
    return jnp.clip(whole.x - whole.eps * gradient / size, hull.low, hull.high)
