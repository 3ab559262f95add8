"""What a primitive operation does to intervals, and which operations are affine.

Elementwise operations are exact one by one. Products with known weights take midpoint and radius,
W m +- |W| r: the cost of two forward passes.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from robustjax.bounds.program import Constant, Line, Value, Wire, bind

SHAPES = {
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice"),
    *("gather", "rev", "concatenate", "stack", "tile", "pad", "split", "select_n", "copy", "copy_p"),
    *("convert_element_type", "optimization_barrier", "pvary", "pcast"),
}
SUMS = {"add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum"}
PRODUCTS = {"mul", "div", "dot_general", "conv_general_dilated", "bilinear_by_platform"}
# None of their results falls where an operand grows.
MONOTONE = SHAPES | {
    *("add", "add_any", "reduce_sum", "reduce_window_sum", "cumsum"),
    *("max", "min", "clamp", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"),
    *("exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "sqrt", "cbrt", "atan", "sinh"),
    *("reduce_precision", "cummax", "cummin"),
}


class Interval(NamedTuple):
    """All arrays between two, entry by entry."""

    low: Array
    high: Array


def is_affine(line: Line) -> bool:
    """Say whether the results are an affine function of the operands that depend on the input."""
    if line.curve is not None:
        return False
    if line.name in SHAPES | SUMS:
        return True
    divides = line.name == "div" and isinstance(line.inputs[1], Wire)
    return line.name in PRODUCTS and len(line.wires()) == 1 and not divides


def apply(line: Line, inputs: Sequence[Value]) -> list[Interval]:
    """Bound the results of an operation on intervals and known arrays.

    Raises:
      ValueError: for an operation that is not supported.
    """
    name, equation = line.name, line.equation
    if name == "convert_element_type" and not jnp.issubdtype(equation.params["new_dtype"], jnp.floating):
        raise unsupported(f"{name} to {equation.params['new_dtype']}")
    if name in MONOTONE:
        return _intervals(bind(equation, _ends(inputs, 0)), bind(equation, _ends(inputs, 1)))
    if name == "neg":
        return _intervals(bind(equation, _ends(inputs, 1)), bind(equation, _ends(inputs, 0)))
    if name == "sub":
        (a, b), (c, d) = (v if isinstance(v, Interval) else (v, v) for v in inputs)
        return _intervals(bind(equation, [a, d]), bind(equation, [b, c]))
    if name in PRODUCTS and is_affine(line):
        if name in ("mul", "div"):
            return [_hull([bind(equation, _ends(inputs, end))[0] for end in (0, 1)])]
        return [_weighted(line, inputs)]
    if name == "mul":
        corners = [bind(equation, [a, b])[0] for a in inputs[0] for b in inputs[1]]
        return [_hull(corners)]
    if name in ("abs", "square", "integer_pow") and isinstance(inputs[0], Interval):
        return [_power(line, inputs[0])]
    raise unsupported(name)


def unsupported(name: str) -> ValueError:
    """Word the error for an operation that has no bounds."""
    return ValueError(
        f"bounds: {name} of values that depend on the input, must be affine (dot_general, conv_general_dilated, add), "
        "monotone (max, tanh, exp), a known activation, or a product or quotient; see bounds.arithmetic, "
        "bounds.activations and bounds.relaxation for all operations"
    )


def _ends(inputs: Sequence[Value], end: int) -> list[Constant]:
    return [v[end] if isinstance(v, Interval) else v for v in inputs]


def _intervals(low: list[Array], high: list[Array]) -> list[Interval]:
    return [Interval(a, b) for a, b in zip(low, high, strict=True)]


def _hull(corners: list[Array]) -> Interval:
    return Interval(reduce(jnp.minimum, corners), reduce(jnp.maximum, corners))


def _weighted(line: Line, inputs: Sequence[Value]) -> Interval:
    middle = [0.5 * (v.low + v.high) if isinstance(v, Interval) else v for v in inputs]
    radius = [0.5 * (v.high - v.low) if isinstance(v, Interval) else jnp.abs(v) for v in inputs]
    (centre,), (reach,) = bind(line.equation, middle), bind(line.equation, radius)
    return Interval(centre - reach, centre + reach)


def _power(line: Line, x: Interval) -> Interval:
    """Bound |x|, x^2 or x^n: monotone, or falling and then rising around zero."""
    ends = [bind(line.equation, [v])[0] for v in x]
    power = line.equation.params.get("y", 2)
    if power < 0:
        raise unsupported(f"{line.name} {power}")
    hull = _hull(ends)
    if power % 2:
        return hull
    across = (x.low < 0) & (x.high > 0)
    return Interval(jnp.where(across, jnp.zeros_like(hull.low), hull.low), hull.high)
