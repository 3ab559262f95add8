"""What lies below and above an operation, as affine functions of its operands."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.bounds import curves
from robustjax.bounds.activations import curve_of
from robustjax.bounds.arithmetic import Interval, apply, is_affine, unsupported
from robustjax.bounds.program import Line, Wire, bind, look_up

Pull = Callable[[Array], list[Array]]  # from weights of a result to those of the operands


class Relaxation(NamedTuple):
    """Two affine functions of the operands of an operation, one below and one above its result.

    Attributes:
      wires: the operands.
      low, high: transposes of their linear parts.
      low_offset, high_offset: what is added, of the result's shape.
    """

    wires: list[Wire]
    low: Pull
    low_offset: Array
    high: Pull
    high_offset: Array


def affine(line: Line, like: Mapping[Wire, Interval], number: int) -> Relaxation:
    """Write a result of an operation that is affine as what it is; one that splits has several."""
    wires = list(dict.fromkeys(line.wires()))
    zeros = [jnp.zeros_like(like[w].low) for w in wires]

    def fn(*values: Array) -> Array:
        env = dict(zip(wires, values, strict=True))
        return bind(line.equation, [env[v] if isinstance(v, Wire) else v for v in line.inputs])[number]

    offset, back = jax.vjp(fn, *zeros)

    def pull(weight: Array) -> list[Array]:
        return list(back(weight))

    return Relaxation(wires, pull, offset, pull, offset)


def relaxed(
    line: Line,
    values: Mapping[Wire, Interval],
    number: int = 0,
    moved: Interval | None = None,
    turning: curves.Turning | None = None,
) -> Relaxation:
    """Bound a result of an operation over intervals of its operands by affine functions.

    Args:
      line: the operation.
      values: intervals of its operands.
      number: of the result, where there are several.
      moved: for functions of one number, by which part of the range of its slopes the lines below and above are turned
        away from those nearest on average.
      turning: where they start from, if that is known.

    Raises:
      ValueError: for an operation that is not supported.
    """
    if is_affine(line):
        return affine(line, values, number)
    if (curve := curve_of(line)) is not None:
        return _curved(curve, line, values, moved, turning)
    wires = list(dict.fromkeys(line.wires()))
    if line.name in ("mul", "dot_general") and len(wires) == 2:
        return _product(line, wires, values)
    if line.name in ("div", "integer_pow"):
        return _quotient(line, values)
    if line.name in ("max", "min") and len(wires) == 2:
        return _choice(line, wires, values)
    if line.name in ("reduce_max", "reduce_window_max", "reduce_min", "reduce_window_min"):
        return _pooled(line, wires, values)
    raise unsupported(line.name)


def _curved(
    curve: curves.Curve,
    line: Line,
    values: Mapping[Wire, Interval],
    moved: Interval | None,
    turning: curves.Turning | None,
) -> Relaxation:
    (wire,) = dict.fromkeys(line.wires())
    x = values[wire]
    found = curves.lines(curve, x) if moved is None else curves.turned(curve, x, moved, turning)
    return Relaxation(
        [wire],
        lambda weight: [weight * found.low_slope],
        found.low_offset,
        lambda weight: [weight * found.high_slope],
        found.high_offset,
    )


def interval(line: Line, values: Mapping[Wire, Interval]) -> list[Interval]:
    """Bound the results of an operation over intervals of its operands by intervals.

    Raises:
      ValueError: for an operation that is not supported.
    """
    wires = list(dict.fromkeys(line.wires()))
    curve = curve_of(line)
    known = line.name in ("rsqrt", "cosh", "erfc") or len(line.wires()) > 1
    if curve is not None and (line.curve is not None or known):
        return [curves.hull(curve, values[wires[0]])]
    if line.name == "dot_general" and len(line.wires()) == 2:
        x, y = (values[w] for w in line.wires())
        (m, r), (n, s) = ((0.5 * (v.low + v.high), 0.5 * (v.high - v.low)) for v in (x, y))
        terms = [bind(line.equation, list(pair))[0] for pair in ((jnp.abs(m), s), (r, jnp.abs(n)), (r, s))]
        (centre,), reach = bind(line.equation, [m, n]), sum(terms)
        return [Interval(centre - reach, centre + reach)]
    if (line.name == "integer_pow" and line.equation.params["y"] < 0) or (
        line.name == "div" and isinstance(line.inputs[1], Wire)
    ):
        return [_divided(line, values)]
    return apply(line, look_up(values, line.inputs))


def _divided(line: Line, values: Mapping[Wire, Interval]) -> Interval:
    """Divide by what has one sign; anything may come of a division by what may be zero."""
    ends = [
        values[v] if isinstance(v, Wire) else Interval(jnp.asarray(v), jnp.asarray(v)) for v in line.inputs
    ]
    corners = [bind(line.equation, list(corner))[0] for corner in itertools.product(*ends)]
    low, high = functools.reduce(jnp.minimum, corners), functools.reduce(jnp.maximum, corners)
    one_sign = (ends[-1].low > 0) | (ends[-1].high < 0)
    return Interval(jnp.where(one_sign, low, -jnp.inf), jnp.where(one_sign, high, jnp.inf))


def _linear(fn: Callable[..., Array], like: list[Array]) -> Pull:
    _, back = jax.vjp(fn, *(jnp.zeros_like(v) for v in like))
    return lambda weight: list(back(weight))


def _product(line: Line, wires: list[Wire], values: Mapping[Wire, Interval]) -> Relaxation:
    """Bound x y by l_y x + l_x y - l_x l_y below and by u_y x + l_x y - l_x u_y above, or sums of these.

    Reference: McCormick 1976; in networks Shi et al. 2020, arXiv:2002.06622.
    """
    x, y = (values[w] for w in line.inputs)  # pyright: ignore[reportArgumentType]
    first, second = line.inputs

    def times(a: Array, b: Array) -> Array:
        return bind(line.equation, [a, b])[0]

    def below(a: Array, b: Array) -> Array:
        return times(a, y.low) + times(x.low, b)

    def above(a: Array, b: Array) -> Array:
        return times(a, y.high) + times(x.low, b)

    order = [first, second]
    like = [x.low, y.low]
    low, high = _linear(below, like), _linear(above, like)
    return Relaxation(
        order,  # pyright: ignore[reportArgumentType]
        low,
        -times(x.low, y.low),
        high,
        -times(x.low, y.high),
    )


def _gathered(weight: Array, like: Array) -> Array:
    """Sum weights over what an operand was broadcast along."""
    along = tuple(i for i, (a, b) in enumerate(zip(weight.shape, like.shape, strict=True)) if a != b)
    return weight.sum(axis=along, keepdims=True) if along else weight


def _quotient(line: Line, values: Mapping[Wire, Interval]) -> Relaxation:
    """Bound x / y for y > 0 as x times the reciprocal, which is convex; where y may be 0 there is no bound."""
    bottom = line.inputs[1] if line.name == "div" else line.inputs[0]
    power = -1 if line.name == "div" else line.equation.params["y"]
    if not isinstance(bottom, Wire) or power > 0:
        raise unsupported(line.name)
    y = values[bottom]
    positive = y.low > 0
    safe = Interval(jnp.where(positive, y.low, 1.0), jnp.where(positive, y.high, 1.0))
    r = curves.lines(curves.Curve(lambda z: z**power, (), (curves.CONVEX,)), safe)
    nowhere = jnp.where(positive, 0.0, jnp.inf)  # of y, so that it makes every bound infinite
    top = line.inputs[0] if line.name == "div" else jnp.ones_like(y.low)
    if not isinstance(top, Wire):
        low = jnp.where(top >= 0, top * r.low_slope, top * r.high_slope)
        high = jnp.where(top >= 0, top * r.high_slope, top * r.low_slope)
        return Relaxation(
            [bottom],
            lambda weight: [_gathered(weight * low, y.low)],
            jnp.where(top >= 0, top * r.low_offset, top * r.high_offset) - nowhere,
            lambda weight: [_gathered(weight * high, y.low)],
            jnp.where(top >= 0, top * r.high_offset, top * r.low_offset) + nowhere,
        )
    x = values[top]
    near, far = safe.high**power, safe.low**power  # the reciprocal's least and largest value
    # x r >= near x + l_x r - l_x near and x r <= far x + l_x r - l_x far, r by the line on the right side.
    up, down = x.low >= 0, x.low < 0
    low_r = (jnp.where(up, r.low_slope, r.high_slope), jnp.where(up, r.low_offset, r.high_offset))
    high_r = (jnp.where(down, r.low_slope, r.high_slope), jnp.where(down, r.low_offset, r.high_offset))
    return Relaxation(
        [top, bottom],
        lambda weight: [_gathered(weight * near, x.low), _gathered(weight * x.low * low_r[0], y.low)],
        x.low * low_r[1] - x.low * near - nowhere,
        lambda weight: [_gathered(weight * far, x.low), _gathered(weight * x.low * high_r[0], y.low)],
        x.low * high_r[1] - x.low * far + nowhere,
    )


def _choice(line: Line, wires: list[Wire], values: Mapping[Wire, Interval]) -> Relaxation:
    """Bound max(x, y): below by the operand that reaches further at its lowest, above by one that always leads."""
    sign = 1.0 if line.name == "max" else -1.0
    x, y = (values[w] if sign > 0 else Interval(-values[w].high, -values[w].low) for w in wires)
    first = x.low >= y.low
    leads, trails = x.low >= y.high, y.low >= x.high
    most = jnp.where(leads | trails, 0.0, jnp.maximum(x.high, y.high))

    def near(weight: Array) -> list[Array]:
        return [
            _gathered(jnp.where(first, weight, 0.0), x.low),
            _gathered(jnp.where(first, 0.0, weight), y.low),
        ]

    def far(weight: Array) -> list[Array]:
        parts = jnp.where(leads, weight, 0.0), jnp.where(trails & ~leads, weight, 0.0)
        return [_gathered(parts[0], x.low), _gathered(parts[1], y.low)]

    none = jnp.zeros_like(most)
    if sign > 0:
        return Relaxation(wires, near, none, far, most)
    return Relaxation(wires, far, -most, near, none)


def _pooled(line: Line, wires: list[Wire], values: Mapping[Wire, Interval]) -> Relaxation:
    """Bound the largest of a window: below by the operand with the highest lower end, above by the highest end.

    Where one operand leads all others, the window is that operand.
    """
    x = values[wires[0]]

    def pool(z: Array) -> Array:
        return bind(line.equation, [z])[0]

    largest = line.name.endswith("max")
    near, far = (x.low, x.high) if largest else (x.high, x.low)
    reached, pick = jax.vjp(pool, near)
    # The largest end of all operands but the one picked; of several that tie none is.
    (spot,) = pick(jnp.ones_like(reached))
    out = -jnp.inf if largest else jnp.inf
    rest = pool(jnp.where(spot == 1, out, far)) if _apart(line) else None
    most = pool(far)
    leads = (
        (reached >= rest if largest else reached <= rest) if rest is not None else jnp.zeros_like(most, bool)
    )

    def inner(weight: Array) -> list[Array]:
        return list(pick(weight))

    def outer(weight: Array) -> list[Array]:
        return inner(jnp.where(leads, weight, 0.0))

    none, offset = jnp.zeros_like(most), jnp.where(leads, 0.0, most)
    if largest:
        return Relaxation(wires, inner, none, outer, offset)
    return Relaxation(wires, outer, offset, inner, none)


def _apart(line: Line) -> bool:
    """Tell whether windows do not share operands, so that what leads one can be taken out of it alone."""
    if line.name.startswith("reduce_window"):
        given = line.equation.params
        return tuple(given["window_dimensions"]) == tuple(given["window_strides"])
    return True
