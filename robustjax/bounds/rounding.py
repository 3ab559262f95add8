"""What rounding can do: to what a network computes in floating point, and to the bounds on it themselves.

A network in float32 is the network of real numbers with an error at every operation. A sum of n products in any order
is off by at most n u times the sum of their absolute values, u = 2^-24, and so are the sums that linear relaxation
takes backwards through the operation, weighed with the largest values that it reads. Both are added to what lies below
and above the operation: bounds made so hold for the network as a computer evaluates it, in whatever order it sums.

Assumed: products in the type of the operands (on accelerators precision "highest"), no Winograd convolutions, and
elementary functions that are within `UNITS` units in the last place.

Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1; Zombori et al. 2021, Fooling a
  complete neural network verifier, show what is proved wrongly without it.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax.bounds import curves
from robustjax.bounds.activations import curve_of
from robustjax.bounds.arithmetic import SHAPES, Interval, is_affine
from robustjax.bounds.program import Line, Program, Wire, bind
from robustjax.numerics import TINY

UNITS = 64  # in the last place: elementary functions, their slopes, and lines beside them
_OTHERS = 32  # operations beside the sums: of midpoints, lines, and weights that come from several readers
SUMMED = 48  # operations behind a number of `tree_sum`, and behind the weights of the input
_SAFE = 1.01  # the slack itself is computed in floating point
_SINGLE = {"add", "add_any", "sub", "neg", "mul", "div", "convert_element_type"}
_COMPARES = {"max", "min", "clamp", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"}
_COMPARES |= {"cummax", "cummin"}

Slacks = Mapping[Wire, Array]


def slack(line: Line, values: Mapping[Wire, Interval], number: int = 0) -> Array:
    """Bound how far rounding moves a result of an operation and the bounds on it, `interval`'s as well as `relaxed`'s.

    Args:
      line: the operation.
      values: intervals of its operands.
      number: of the result, where there are several.
    """
    forward, backward = _terms(line)
    count: Array | float = forward + max(forward, backward) + _OTHERS
    if not is_affine(line):
        count = 4.0 * count  # a product of two intervals takes four products
    if not is_affine(line) and not _straight(line):
        count += UNITS
    sums = magnitude(line, values)[number]
    found = _SAFE * unit(sums) * count * sums + TINY
    return jax.lax.stop_gradient(jnp.where(jnp.isnan(found), jnp.inf, found))


def slacks(program: Program, values: Mapping[Wire, Interval]) -> Slacks:
    """Bound what rounding does to every result of a program."""
    return {
        out: slack(line, values, number) for line in program.lines for number, out in enumerate(line.outputs)
    }


def outward(
    line: Line,
    found: Interval,
    values: Mapping[Wire, Interval],
    number: int = 0,
    by: Array | None = None,
) -> Interval:
    """Move the ends of a result, computed by `interval`, as far outwards as rounding may have moved them.

    What only moves or compares numbers is exact. What makes one number of one or two has an error relative to the
    result, so that what is positive stays so.

    Args:
      line, found, values, number: the operation, its result's interval, those of its operands, which result.
      by: its `slack`, over these intervals or wider ones, where it is known.
    """
    if line.name in SHAPES - {"convert_element_type"} or line.name in _COMPARES:
        return found
    if (
        (line.name in _SINGLE and is_affine(line))
        or (line.curve is None and curve_of(line))
        or _straight(line)
    ):
        share = unit(found.low) * (_OTHERS if is_affine(line) or _straight(line) else UNITS)
        low, high = (jax.lax.stop_gradient(share * jnp.abs(end)) for end in found)
        return Interval(found.low - low, found.high + high)
    by = slack(line, values, number) if by is None else by
    return Interval(found.low - by, found.high + by)


def magnitude(line: Line, values: Mapping[Wire, Interval]) -> list[Array]:
    """Bound sums of absolute values: what an operation gives where no two terms cancel, |W| |z| + |b|."""
    if not is_affine(line):
        return [_curved(line, values)]
    inputs = [largest(values[v]) if isinstance(v, Wire) else _absolute(v) for v in line.inputs]
    if line.name == "neg":
        return [inputs[0]]
    if line.name == "sub":
        return [inputs[0] + inputs[1]]
    return bind(line.equation, inputs)


def chain(lines: list[Line], values: Mapping[Wire, Interval], *, others: int) -> dict[Wire, Array]:
    """Bound what rounding does to each value that affine operations make of others, evaluated forwards and backwards.

    Args:
      lines: the operations.
      values: intervals of what they start from.
      others: how many numbers more are summed than by these operations.
    """
    most = {w: Interval(-largest(v), largest(v)) for w, v in values.items()}
    count, found = 2.0 * others, {}
    for line in lines:
        count += sum(_terms(line)) + _OTHERS
        for out, sums in zip(line.outputs, magnitude(line, most), strict=True):
            most[out] = Interval(-sums, sums)
            found[out] = jax.lax.stop_gradient(2.0 * _SAFE * unit(sums) * count * sums + TINY)
    return found


def largest(x: Interval) -> Array:
    """Take the largest absolute value within intervals."""
    return jnp.maximum(jnp.abs(x.low), jnp.abs(x.high))


def unit(like: Array) -> float:
    """Return the largest relative error of one operation: half the distance from 1 to the next number."""
    return float(jnp.finfo(like.dtype).eps) / 2


def tree_sum(z: Array) -> Array:
    """Sum over the last axis by halves: each term takes part in log2(n) additions, whatever the compiler does."""
    count = z.shape[-1]
    while count > 1:
        half = -(-count // 2)
        rest = jnp.pad(z[..., half:], [(0, 0)] * (z.ndim - 1) + [(0, 2 * half - count)])
        z, count = z[..., :half] + rest, half
    return z[..., 0] if z.shape[-1] else z.sum(axis=-1)


def _curved(line: Line, values: Mapping[Wire, Interval]) -> Array:
    """Bound the terms of what is not affine: of functions of one number the value, and slope times argument."""
    curve = curve_of(line)
    wires = list(dict.fromkeys(line.wires()))
    if curve is not None:
        x = values[wires[0]]
        sums = largest(curves.hull(curve, x)) + largest(curves.slopes(curve, x)) * largest(x)
        # What networks write in several operations may cancel.
        return sums if line.curve is None or _straight(line) else sums + 1.0
    most = [largest(values[v]) if isinstance(v, Wire) else _absolute(v) for v in line.inputs]
    if line.name in ("mul", "dot_general"):
        return bind(line.equation, most)[0]
    if line.name in ("div", "integer_pow"):
        power = -1 if line.name == "div" else line.equation.params["y"]
        bottom = line.inputs[1] if line.name == "div" else line.inputs[0]
        least = (
            jnp.minimum(*(jnp.abs(end) for end in values[bottom])) if isinstance(bottom, Wire) else most[-1]
        )
        far = least ** float(power)
        top = most[0] if line.name == "div" else jnp.ones_like(far)
        return jnp.broadcast_to(top * far * (1.0 + abs(power) * most[-1] / least), _shape(line))
    ends = [[values[v][end] if isinstance(v, Wire) else v for v in line.inputs] for end in (0, 1)]
    low, high = (bind(line.equation, given)[0] for given in ends)
    return largest(Interval(low, high))


def _absolute(value: Any) -> Array:
    value = jnp.asarray(value)
    return jnp.abs(value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _shape(line: Line) -> tuple[int, ...]:
    aval: Any = line.equation.outvars[0].aval
    return tuple(aval.shape)


def _terms(line: Line) -> tuple[float, float]:
    """Count the terms that are summed for one number at most, forwards and by the transposed operation."""
    name, params = line.name, line.equation.params
    atoms: list[Any] = [atom.aval for atom in line.equation.invars]
    shapes: list[tuple[int, ...]] = [tuple(aval.shape) for aval in atoms]
    result = math.prod(_shape(line))
    operand = max(
        (math.prod(s) for s, v in zip(shapes, line.inputs, strict=True) if isinstance(v, Wire)), default=1
    )
    if name == "dot_general":
        (contracted, _), (batch, _) = params["dimension_numbers"]
        summed = math.prod(shapes[0][i] for i in contracted)
        shared = summed * math.prod(shapes[0][i] for i in batch)
        return summed, max(math.prod(shape) // max(shared, 1) for shape in shapes)
    if name == "conv_general_dilated":
        out, inner, *window = (shapes[1][i] for i in params["dimension_numbers"].rhs_spec)
        return math.prod(window) * inner, math.prod(window) * out
    if name == "bilinear_by_platform":
        *window, inner, out = min(shapes, key=len) if len(shapes[0]) != len(shapes[1]) else shapes[1]
        return math.prod(window) * max(inner, out), math.prod(window) * max(inner, out)
    if name == "reduce_sum":
        return operand / max(result, 1), 1
    if name.startswith("reduce_window"):
        window = math.prod(params["window_dimensions"])
        return window, window
    if name == "cumsum":
        along = shapes[0][params["axis"]]
        return along, along
    if name in ("broadcast_in_dim", "tile", "add", "sub", "mul", "div", "max", "min"):
        return 1, np.ceil(result / max(operand, 1))
    return 1, result if name in ("gather", "dynamic_slice") else len(line.outputs)


def _straight(line: Line) -> bool:
    curve = curve_of(line)
    return curve is not None and all(shape == curves.STRAIGHT for shape in curve.shapes)
