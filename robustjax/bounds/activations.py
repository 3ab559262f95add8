"""Which functions of one number are known, as primitives and as networks write them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array

from robustjax import checks
from robustjax.bounds.curves import CONCAVE, CONVEX, STRAIGHT, Curve
from robustjax.bounds.program import Constant, Line, Program, Wire, bind, traced

_CONVEX, _CONCAVE = ((), (CONVEX,)), ((), (CONCAVE,))
_S_SHAPED, _Z_SHAPED = ((0.0,), (CONVEX, CONCAVE)), ((0.0,), (CONCAVE, CONVEX))
_PRIMITIVES = {
    **dict.fromkeys(("exp", "exp2", "expm1", "square", "cosh"), _CONVEX),
    # Of positive numbers only, which is where they are defined.
    **dict.fromkeys(("log", "log1p", "sqrt"), _CONCAVE),
    "rsqrt": _CONVEX,
    **dict.fromkeys(("tanh", "logistic", "erf", "atan"), _S_SHAPED),
    **dict.fromkeys(("sinh", "erfc"), _Z_SHAPED),
    "abs": ((0.0,), (STRAIGHT, STRAIGHT)),
}
_SILU, _GELU, _GELU_TANH = 2.3993572805154675, math.sqrt(2.0), 1.4185040087908283
_MISH = (-2.256376396360793, 1.4905711794854284)
# Functions that networks write in several operations: where their second derivative changes its sign, and kinks.
_KNOWN: list[tuple[Callable[[Array], Array], tuple[float, ...], tuple[int, ...]]] = [
    (jax.nn.relu, (0.0,), (STRAIGHT, STRAIGHT)),
    (jax.nn.relu6, (0.0, 6.0), (STRAIGHT,) * 3),
    (jax.nn.hard_tanh, (-1.0, 1.0), (STRAIGHT,) * 3),
    (jax.nn.silu, (-_SILU, _SILU), (CONCAVE, CONVEX, CONCAVE)),
    (functools.partial(jax.nn.gelu, approximate=False), (-_GELU, _GELU), (CONCAVE, CONVEX, CONCAVE)),
    (functools.partial(jax.nn.gelu, approximate=True), (-_GELU_TANH, _GELU_TANH), (CONCAVE, CONVEX, CONCAVE)),
    (jax.nn.mish, _MISH, (CONCAVE, CONVEX, CONCAVE)),
    (jax.nn.softplus, (), (CONVEX,)),
    (jax.nn.log_sigmoid, (), (CONCAVE,)),
    (jax.nn.squareplus, (), (CONVEX,)),
    (jax.nn.soft_sign, (0.0,), (CONVEX, CONCAVE)),
    (jax.nn.elu, (0.0,), (CONVEX, STRAIGHT)),
    (jax.nn.selu, (0.0,), (CONVEX, STRAIGHT)),
]
# Elementwise operations, on numbers and on what comparisons of numbers say.
_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, z, high: np.clip(z, low, high),
    "select_n": lambda which, *cases: np.choose(np.asarray(which, np.int64), cases),
    "gt": np.greater,
    "lt": np.less,
    "ge": np.greater_equal,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "logistic": scipy.special.expit,
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "square": np.square,
    **dict.fromkeys(
        ("copy", "copy_p", "convert_element_type", "broadcast_in_dim", "reduce_precision"), np.copy
    ),
}
# Far out as well: a ReLU that is clipped at 20 is one up to there.
_FAR = np.geomspace(20, 1e6, 3000)
_GRID = np.concatenate([-_FAR[::-1], np.linspace(-20, 20, 401), np.linspace(-2.5, 2.5, 333), _FAR])


def curve_of(line: Line) -> Curve | None:
    """Look up the function that an operation applies to each number of one operand, if it is one that is known."""
    if line.curve is not None:
        return line.curve
    if line.name == "mul" and len(line.wires()) == 2 and len(set(line.wires())) == 1:
        return Curve(jnp.square, *_CONVEX)
    if len(line.wires()) != 1 or len(line.outputs) != 1:
        return None
    name, spot = line.name, next(i for i, v in enumerate(line.inputs) if isinstance(v, Wire))
    others = [v for v in line.inputs if not isinstance(v, Wire)]

    def fn(z: Array) -> Array:
        (result,) = bind(line.equation, [z if isinstance(v, Wire) else v for v in line.inputs])
        return result

    if name in _PRIMITIVES:
        return Curve(fn, *_PRIMITIVES[name])
    if name in ("max", "min"):
        return Curve(fn, (others[0],), (STRAIGHT, STRAIGHT))
    if name == "clamp" and spot == 1:
        return Curve(fn, tuple(others), (STRAIGHT,) * 3)
    power = line.equation.params.get("y")
    if name == "integer_pow" and isinstance(power, int) and power > 1:
        return Curve(fn, *(_Z_SHAPED if power % 2 else _CONVEX))
    return None


def recognised(program: Program) -> Program:
    """Put one line where several make a known function of one value, such as x tanh(softplus(x)).

    Products and choices between values are bounded loosely, known curves tightly. What the lines compute is compared
    with each known function on a grid of numbers, however it is written.
    """
    above: dict[Wire, list[Wire]] = {}  # elementwise functions of which wires it is, the nearest last
    made: dict[Wire, Line] = {}
    lines: list[Line] = []
    for line in program.lines:
        wires = list(dict.fromkeys(line.wires()))
        simple = (
            (line.name in _ELEMENTWISE or line.name == "integer_pow")
            and len(line.outputs) == 1
            and _elementwise(line)
        )
        lines.append(line)
        made |= dict.fromkeys(line.outputs, line)
        if not simple:
            continue
        cones = [[*above.get(w, []), w] for w in wires]
        shared = [w for w in cones[0] if all(w in cone for cone in cones)]
        (out,) = line.outputs
        above[out] = shared
        if len(wires) == 1 and line.name not in ("select_n", "mul", "div", "sub", "add", "min"):
            continue
        for root in reversed(shared[:-1] if len(wires) == 1 else shared):
            between = _between(root, out, made)
            if len(between) > 1 and (known := _identified(between, root, out)) is not None:
                lines[-1] = Line(line.equation, [root], [out], known)
                break
    return program._replace(lines=_used(lines, program.output))


def _elementwise(line: Line) -> bool:
    """Tell whether an operation is a function of single numbers: operands but scalars have the shape of the result."""
    if len(line.outputs) != 1 or line.name not in (*_ELEMENTWISE, "integer_pow"):
        return False
    shape = tuple(line.equation.outvars[0].aval.shape)  # pyright: ignore[reportAttributeAccessIssue]
    for atom, value in zip(line.equation.invars, line.inputs, strict=True):
        given: Any = atom.aval
        alike = tuple(given.shape) == shape
        if isinstance(value, Wire):
            if not alike:
                return False
        elif not checks.concrete(value) or (np.size(value) != 1 and not _uniform(value)):
            return False
    return True


def _uniform(value: Constant) -> bool:
    flat = np.asarray(value).reshape(-1)
    return bool((flat == flat[:1]).all())


def _between(root: Wire, out: Wire, made: dict[Wire, Line]) -> list[Line]:
    needed, lines = {out}, []
    for wire in sorted(made, reverse=True):
        if wire in needed and wire != root and wire > root:
            lines.append(made[wire])
            needed.update(made[wire].wires())
    return lines[::-1]


def _identified(lines: list[Line], root: Wire, out: Wire) -> Curve | None:
    answer = _on_grid(lines, root, out)
    # What is that function in real numbers alone, such as x + 2^25 - 2^25, is left as it is written.
    off = np.abs(_on_grid(lines, root, out, np.float32) - answer)
    if (off > 64 * 2.0**-24 * (1 + np.abs(_GRID) + np.abs(answer)))[np.abs(_GRID) < 100].any():
        return None
    for known, breaks, shapes in _KNOWN:
        if np.allclose(answer, _of_known(known), rtol=1e-5, atol=1e-6):
            return Curve(known, breaks, shapes)
    leaky = float(answer[0] / _GRID[0])
    if np.allclose(answer, np.where(_GRID > 0, _GRID, leaky * _GRID), rtol=1e-5, atol=1e-6):
        return Curve(lambda z: jnp.where(z > 0, z, leaky * z), (0.0,), (STRAIGHT, STRAIGHT))
    return None


def _on_grid(lines: list[Line], root: Wire, out: Wire, kind: Any = np.float64) -> np.ndarray:
    env: dict[Wire, np.ndarray] = {root: _GRID.astype(kind)}
    with np.errstate(all="ignore"):
        for line in lines:
            inputs = [
                env[v] if isinstance(v, Wire) else np.asarray(v, kind).reshape(-1)[0] for v in line.inputs
            ]
            if line.name == "integer_pow":
                env[line.outputs[0]] = np.power(inputs[0], line.equation.params["y"])
            else:
                env[line.outputs[0]] = _ELEMENTWISE[line.name](*inputs)
    return np.broadcast_to(env[out], _GRID.shape)


@functools.cache
def _of_known(known: Callable[[Array], Array]) -> np.ndarray:
    program = traced(known, jnp.zeros((), jnp.float32))
    assert isinstance(program.output, Wire)
    return _on_grid(program.lines, program.x, program.output)


def _used(lines: list[Line], output: Wire | Constant) -> list[Line]:
    needed, kept = {output} if isinstance(output, Wire) else set(), []
    for line in reversed(lines):
        if needed & set(line.outputs):
            needed.update(line.wires())
            kept.append(line)
    return kept[::-1]
