"""A function as a flat list of primitive operations: calls inlined, what does not depend on the input computed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from robustjax import checks

# Calls and where they keep what they call; derivatives of their own are left behind.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}


class Wire(NamedTuple):
    """A value that depends on the input, by number; other values are arrays."""

    number: int


Constant = Array | np.ndarray  # what a function closes over may be of NumPy
Value = Any  # of a wire: an array, or an interval


class Line(NamedTuple):
    """One operation: its equation, and where its operands come from and its results go.

    Where several operations were found to make a known function of one operand, `curve` is that function and the
    equation only tells the shape and type of the result.
    """

    equation: core.JaxprEqn
    inputs: Sequence[Wire | Constant]
    outputs: list[Wire]
    curve: Any = None

    @property
    def name(self) -> str:
        """Return the name of the primitive."""
        return self.equation.primitive.name

    def wires(self) -> list[Wire]:
        """Return the operands that depend on the input."""
        return [v for v in self.inputs if isinstance(v, Wire)]


class Program(NamedTuple):
    """The operations that depend on the input, in order, and the output.

    `zero` is a zero that varies over the same axes of a mesh as the input, `shape` is the input's. If `outward`, bounds
    hold for what the operations compute in floating point, else up to rounding.
    """

    lines: list[Line]
    x: Wire
    output: Wire | Constant
    zero: Array
    shape: tuple[int, ...]
    outward: bool = False


def traced(fn: Callable[[Array], Array], like: Array) -> Program:
    """Write a function of one array as a program.

    Args:
      fn: array -> array; what it closes over may be traced.
      like: any argument; a shape and a type alone would not say over which axes of a mesh it varies.
    """
    closed = jax.make_jaxpr(fn)(like)
    x, lines = Wire(0), []

    def walk(jaxpr: core.Jaxpr, constants: Sequence[Constant], arguments: Sequence[Any]) -> list[Any]:
        known = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom):
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                with jax.ensure_compile_time_eval():
                    return jnp.asarray(atom.val, aval.dtype)
            return known[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if not any(isinstance(v, Wire) for v in inputs):
                outputs = _constant(equation, inputs)
            elif (
                equation.primitive.name == "stop_gradient"
            ):  # has no slope to be transposed, but passes values on
                outputs = inputs
            elif (field := _CALLS.get(equation.primitive.name)) is not None:
                called = equation.params[field]
                if isinstance(called, core.ClosedJaxpr):
                    outputs = walk(called.jaxpr, called.consts, inputs)
                else:
                    outputs = walk(called, (), inputs)
            else:
                start = 1 + sum(len(line.outputs) for line in lines)
                outputs = [Wire(start + i) for i in range(len(equation.outvars))]
                lines.append(Line(equation, inputs, outputs))
            known |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    (output,) = walk(closed.jaxpr, closed.consts, (x,))
    return Program(lines, x, output, jnp.zeros_like(like.reshape(-1)[0]), like.shape)


def _constant(equation: core.JaxprEqn, inputs: Sequence[Constant]) -> list[Array]:
    """Compute what does not depend on the input; numbers at once, even under jit, so that it is seen what they are."""
    known = all(np.size(v) == 1 and checks.concrete(v) for v in inputs)
    if known and equation.primitive.name not in ("pvary", "pcast"):
        with jax.ensure_compile_time_eval():
            return bind(equation, inputs)
    return bind(equation, inputs)


def bind(equation: core.JaxprEqn, inputs: Sequence[Constant]) -> list[Array]:
    """Compute the results of an operation."""
    needs: Any = equation.primitive.get_bind_params(equation.params)
    functions, params = needs if isinstance(needs, tuple) else ((), needs)  # a pair until jax 0.9
    results = equation.primitive.bind(*functions, *inputs, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def run(lines: Sequence[Line], values: Mapping[Wire, Array]) -> dict[Wire, Array]:
    """Compute some lines on arrays, from the values of the wires that they start from."""
    env = dict(values)
    for line in lines:
        env |= zip(line.outputs, bind(line.equation, look_up(env, line.inputs)), strict=True)
    return env


def look_up(env: Mapping[Wire, Value], inputs: Sequence[Wire | Constant]) -> list[Value]:
    """Replace wires by their values."""
    return [env[v] if isinstance(v, Wire) else v for v in inputs]
