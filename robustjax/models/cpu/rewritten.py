"""Somebody's network with the convolutions of this package, whose gradients are fast inside loops on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array

from robustjax.models.cpu.convolution import FAST, convolve
from robustjax.traced import applied

T = TypeVar("T")  # whatever a network gives


def with_fast_convolutions(function: Callable[[Array], T]) -> Callable[[Array], T]:
    """Compute a function with its plain convolutions in two dimensions replaced by `convolve`.

    Also those inside functions that are compiled by themselves, rematerialised or scanned over; in loops of unknown
    length, branches and functions with rules of differentiation of their own nothing changes. Values and gradients are
    the same up to rounding. Where there is nothing to replace, the function itself runs.
    """

    def run(x: Array) -> T:
        # A new function: the trace of the same one would be found again, with what it closed over then.
        closed, shape = jax.make_jaxpr(lambda x: function(x), return_shape=True)(x)
        if not _has_convolutions(closed.jaxpr):
            return function(x)
        out = _evaluate(closed.jaxpr, closed.consts, [x])
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return run


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return applied(jaxpr, constants, arguments, _instead)


def _instead(eqn: Any, inputs: list[Any]) -> list[Any] | None:
    name, params = eqn.primitive.name, eqn.params
    if _is_plain(eqn):
        return [_convolved(params, *inputs)]
    inner = params.get("jaxpr")
    if inner is None or not _has_convolutions(inner):
        return None
    if name in ("remat", "remat2", "checkpoint"):
        again = jax.checkpoint(
            lambda *inputs: _evaluate(inner, [], inputs),
            policy=params["policy"],
            prevent_cse=params["prevent_cse"],
        )
        return list(again(*inputs))
    if name == "scan":
        return _scanned(params, inner.jaxpr, inner.consts, inputs)
    return None


def _scanned(params: dict[str, Any], body: Jaxpr, constants: Sequence[Any], inputs: list[Any]) -> list[Any]:
    fixed, carried = params["num_consts"], params["num_carry"]

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _evaluate(body, constants, [*inputs[:fixed], *carry, *x])
        return out[:carried], out[carried:]

    carry, out = lax.scan(
        step,
        inputs[fixed : fixed + carried],
        inputs[fixed + carried :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *out]


def _convolved(params: dict[str, Any], x: Array, kernel: Array) -> Array:
    numbers = params["dimension_numbers"]
    batch, channels, *places = numbers.lhs_spec
    out, into, *sides = numbers.rhs_spec
    found = convolve(
        x.transpose(batch, *places, channels),
        kernel.transpose(*sides, into, out),
        params["window_strides"],
        params["padding"],
        dimension_numbers=FAST,
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    batch, channels, *places = numbers.out_spec
    order = sorted(range(4), key=[batch, *places, channels].__getitem__)
    return found.transpose(order)


def _is_plain(eqn: Any) -> bool:
    """Say whether a convolution is one that `convolve` computes in a way of its own."""
    return (
        eqn.primitive.name == "conv_general_dilated"
        and len(eqn.params["window_strides"]) == 2
        and eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1
        and all(d == 1 for d in (*eqn.params["lhs_dilation"], *eqn.params["rhs_dilation"]))
    )


def _has_convolutions(program: Any) -> bool:
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return any(
        _is_plain(eqn) or ("jaxpr" in eqn.params and _has_convolutions(eqn.params["jaxpr"]))
        for eqn in jaxpr.eqns
    )
