"""Functions of a batch as data: the arrays they close over as arguments, equal where they compute the same way.

A function that somebody writes is another object in every call, and may have changed what it closes over. Traced anew,
it gives the same steps with other arrays: the programs that were compiled for the steps serve the new arrays too.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array

from robustjax.numerics import default_precision

# Operations for each example below which most of the time goes into compiling: then code is generated that is a little
# slower and takes half the time to make; below the second, for what runs briefly, code that is several times as slow
# and takes a quarter of it.
SMALL, TINY = 1e6, 1e5
# In one piece and without XLA's newer fusion emitters, which JAX 0.11 cannot do without, half of that again.
OLDER = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
QUICKLY: dict[str, Any] = OLDER if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11) else {}
ELEMENTWISE = 10.0  # operations that one elementwise result counts for, next to those of products
RULES = {"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"}  # of functions with derivatives of their own


class Steps:
    """What a function does to a batch of one shape, without the arrays it closes over; hashed by identity.

    There is one object for all functions that do the same: forwards, and in the gradient of what they give.
    """

    def __init__(self, jaxpr: Jaxpr) -> None:
        self._jaxpr = jaxpr
        self._at_precision: dict[Any, Jaxpr] = {None: jaxpr}
        self.operations = operations(jaxpr)
        self.per_example = self.operations / max(_shape(jaxpr.invars[-1])[0], 1)

    def __call__(self, constants: list[Any]) -> Callable[[Array], Array]:
        """Make a function of the batch again."""
        return partial(self.run, constants)

    def run(self, constants: list[Any], x: Array) -> Array:
        """Give the first result of the function; see `results`."""
        return self.results(constants, x)[0]

    def results(self, constants: list[Any], x: Array) -> list[Array]:
        """Apply the function, to a batch of another size in parts of the size that was traced.

        Where a default precision of products is asked for, it is that of all products that were traced without one.
        """
        asked = default_precision()
        if asked not in self._at_precision:
            self._at_precision[asked] = with_precision(self._jaxpr, asked or "default")
        closed_over = len(self._jaxpr.constvars)
        program = jaxpr_as_fun(ClosedJaxpr(self._at_precision[asked], constants[:closed_over]))
        once = partial(program, *constants[closed_over:])
        size, count = _shape(self._jaxpr.invars[-1])[0], len(x)
        if count == size:
            return list(once(x))
        parts = -(-count // size)
        filled = x[jnp.minimum(jnp.arange(parts * size), count - 1)]
        found = jax.lax.map(lambda part: list(once(part)), filled.reshape(parts, size, *x.shape[1:]))
        return [out.reshape(parts * size, *out.shape[2:])[:count] for out in found]


_known: WeakValueDictionary[Any, Steps] = WeakValueDictionary()
_knowing = Lock()


def hoist(
    function: Callable[..., Array | tuple[Array, ...]], shape: tuple[int, ...], given: tuple[Any, ...] = ()
) -> tuple[Steps, list[Any]]:
    """Trace a function of a float32 batch: its steps, and the arrays it closes over.

    `steps(arrays)` is the function again. Two calls give the same steps where the functions do the same to their batch
    and their arrays. What cannot be compared, such as a call out of JAX, is the same only if it is the same object.

    Args:
      function: (*given, x) -> result, or several results; each leads with the batch.
      shape: of x.
      given: pytrees of arrays. Unlike what is closed over, they may lie on a mesh of devices within which the function
        then runs.
    """
    like = jax.ShapeDtypeStruct(shape, np.float32)
    # A new function: the trace of the same one would be found again, with what it closed over then.
    leaves, structure = jax.tree.flatten(given)
    leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf, jnp.result_type(leaf)) for leaf in leaves]
    likes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    closed = jax.make_jaxpr(lambda leaves, x: function(*structure.unflatten(leaves), x))(likes, like)
    if any(_is_compiled(eqn) and eqn.params["jaxpr"].consts for eqn in _equations(closed.jaxpr)):
        # Functions that are compiled by themselves keep the arrays that they close over.
        whole = closed
        closed = jax.make_jaxpr(lambda leaves, x: applied(whole.jaxpr, whole.consts, [*leaves, x]))(
            likes, like
        )
    key = _structure(closed.jaxpr)
    if any(_has_rules(eqn) for eqn in _equations(closed.jaxpr)):
        key = key, _gradient(closed, likes)
    with _knowing:
        steps = _known.get(key)
        if steps is None:
            steps = _known[key] = Steps(closed.jaxpr)
    return steps, [*jax.device_put(closed.consts), *leaves]


def closes_over_mesh(
    function: Callable[..., Array], shape: tuple[int, ...], given: tuple[Any, ...] = ()
) -> bool:
    """Say whether a function of a float32 batch closes over arrays that lie on several devices.

    What is traced from them knows of their mesh, and does not run on one device's part of a batch.

    Args:
      function, shape, given: as for `hoist`; what is given is not closed over.
    """
    leaves, structure = jax.tree.flatten(given)
    likes = [jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    like = jax.ShapeDtypeStruct(shape, np.float32)
    closed = jax.make_jaxpr(lambda leaves, x: function(*structure.unflatten(leaves), x))(likes, like)
    return any(isinstance(one, jax.Array) and len(one.devices()) > 1 for one in closed.consts)


class ForSize(NamedTuple):
    """A compiled function in several forms, for large and for small networks.

    Attributes:
      large: the form with all optimisation.
      small: (operations for each example, the form for networks below that), rising.
    """

    large: Any
    small: tuple[tuple[float, Any], ...]

    def of(self, operations: float) -> Any:
        """Choose the form by the operations for each example; on accelerators there is but one."""
        forms = self.small if default_platform() == "cpu" else ()
        return next((form for limit, form in forms if operations < limit), self.large)


def default_platform() -> str:
    """Name the platform that computes unless a sharding says otherwise: of `jax.default_device`, or the backend's."""
    config: Any = jax.config
    device = config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def compiled(function: Callable[..., Any], *, brief: bool = False, **settings: Any) -> ForSize:
    """Compile a function as `jax.jit` does, with more or less optimisation.

    Args:
      brief: whether it runs so briefly that for a tiny network no optimisation pays.
    """
    levels = [(TINY, 0)] if brief else []
    return ForSize(
        jax.jit(function, **settings),
        tuple(
            (limit, jax.jit(function, compiler_options=_quickly(level), **settings))
            for limit, level in [*levels, (SMALL, 1)]
        ),
    )


def _quickly(level: int) -> dict[str, Any]:
    return {"xla_backend_optimization_level": level, **QUICKLY}


class ByBatch:
    """A function of a batch as a system under attack, traced once for each batch size that is asked for."""

    def __init__(
        self,
        function: Callable[..., Array | tuple[Array, ...]],
        shape: tuple[int, ...],
        given: tuple[Any, ...] = (),
        view: Callable[[Steps], Callable[..., Any]] = lambda steps: steps,
    ) -> None:
        """Take a function, the shape of one example, and what the function takes before the batch.

        Args:
          view: from the steps to the system, (arrays) -> what an objective takes; equal for equal steps.
        """
        self._function, self._shape, self._given, self._view = function, shape, given, view
        self._found: dict[int, tuple[Steps, list[Any]]] = {}

    def traced(self, size: int) -> tuple[Steps, list[Any]]:
        """Give the steps for a batch of this size and their arrays."""
        if size not in self._found:
            self._found[size] = hoist(self._function, (size, *self._shape), self._given)
        return self._found[size]

    def at(self, size: int) -> tuple[Callable[..., Any], tuple[list[Any]]]:
        """Give the system for a batch of this size and its arguments."""
        steps, arrays = self.traced(size)
        return self._view(steps), (arrays,)


def applied(
    jaxpr: Jaxpr,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    instead: Callable[[Any, list[Any]], list[Any] | None] = lambda step, inputs: None,
) -> list[Any]:
    """Apply a program step by step, also the steps of functions that are compiled by themselves.

    Args:
      instead: (step, its inputs) -> what to take as its results; None to make the step as it is.
    """
    known: dict[Any, Any] = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True)
    )

    def read(one: Any) -> Any:
        return one.val if isinstance(one, Literal) else known[one]

    def made(eqn: Any) -> list[Any]:
        inputs = [read(v) for v in eqn.invars]
        if (found := instead(eqn, inputs)) is not None:
            return found
        if _is_compiled(eqn):
            inner = eqn.params["jaxpr"]
            return applied(inner.jaxpr, inner.consts, inputs, instead)
        bound: Any = eqn.primitive.get_bind_params(eqn.params)
        functions, settings = bound if isinstance(bound, tuple) else ((), bound)  # the second since jax 0.10
        out = eqn.primitive.bind(*functions, *inputs, **settings)
        return list(out) if eqn.primitive.multiple_results else [out]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, made(eqn), strict=True))
    return [read(v) for v in jaxpr.outvars]


def with_precision(jaxpr: Jaxpr, precision: str) -> Jaxpr:
    """Give a program whose products that name no precision name this one, also those in loops and calls."""
    both = (jax.lax.Precision(precision),) * 2

    def renamed(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return value.replace(jaxpr=with_precision(value.jaxpr, precision))
        if isinstance(value, Jaxpr):
            return with_precision(value, precision)
        if isinstance(value, tuple | list) and any(isinstance(one, ClosedJaxpr | Jaxpr) for one in value):
            return type(value)(map(renamed, value))
        return value

    def again(eqn: Any) -> Any:
        params = {name: renamed(value) for name, value in eqn.params.items()}
        if params.get("precision", both) is None:
            params["precision"] = both
        elif eqn.primitive.name == "bilinear_by_platform" and params["product"].precision is None:
            params["product"] = dataclasses.replace(params["product"], precision=precision)
        return eqn.replace(params=params)

    return jaxpr.replace(eqns=[again(eqn) for eqn in jaxpr.eqns])


def _is_compiled(eqn: Any) -> bool:
    """Say whether a step is a function that is compiled by itself, placed nowhere in particular."""
    if eqn.primitive.name not in ("jit", "pjit"):
        return False
    places = (*eqn.params["in_shardings"], *eqn.params["out_shardings"])
    return all(type(place).__name__ == "UnspecifiedValue" for place in places)


def operations(jaxpr: Jaxpr) -> float:
    """Count what a program computes: 2 for a product and its sum, `ELEMENTWISE` for any other result.

    A call out of JAX counts as infinitely many, unless what is called says how many they are, by a method
    `operations(shape of its first argument)`; a loop of unknown length counts as one turn.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        size = sum(math.prod(_shape(out)) for out in eqn.outvars)
        inner = list(_inner(eqn.params))
        if "callback" in name:
            total += _told(eqn)
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += 2.0 * size * math.prod(_shape(eqn.invars[0])[i] for i in contracted)
        elif name in ("conv_general_dilated", "bilinear_by_platform"):
            kernel = min(map(_shape, eqn.invars), key=math.prod)
            total += 2.0 * size * math.prod(kernel) / max(kernel[-1], 1)
        elif inner:
            turns = eqn.params.get("length", 1) if name == "scan" else 1
            total += turns * sum(operations(one) for one in inner)
        else:
            total += ELEMENTWISE * size
    return total


def _told(eqn: Any) -> float:
    """Ask the object whose method is called back."""
    called = getattr(eqn.params.get("callback"), "callback_func", None)
    tell = getattr(getattr(called, "__self__", None), "operations", None)
    return math.inf if tell is None else tell(_shape(eqn.invars[0]))


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _inner(eqn.params):
            yield from _equations(inner)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def _has_rules(eqn: Any) -> bool:
    return eqn.primitive.name.startswith("custom_") and not RULES.isdisjoint(eqn.params)


def _gradient(closed: ClosedJaxpr, likes: list[Any]) -> Any:
    """Say what the gradient does: rules of differentiation are functions, which cannot be compared themselves."""

    def pulled(constants: list[Any], leaves: list[Any], x: Array, cotangents: list[Array]) -> Any:
        program = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))
        return jax.vjp(lambda x: list(program(*leaves, x)), x)[1](cotangents)

    found = jax.make_jaxpr(pulled)(closed.consts, likes, closed.in_avals[-1], list(closed.out_avals))
    return _parameter(found)


def _structure(jaxpr: Jaxpr) -> Any:
    """Write a program down so that equal ones are equal, whatever their variables are called."""
    numbers: dict[Any, int] = {}

    def atom(one: Any) -> Any:
        if isinstance(one, Literal):
            return "literal", str(one.aval), _parameter(one.val)
        return numbers.setdefault(one, len(numbers)), str(one.aval)

    def settings(eqn: Any) -> Any:
        skipped = RULES if _has_rules(eqn) else ()
        return tuple((k, _parameter(v)) for k, v in sorted(eqn.params.items()) if k not in skipped)

    entering = tuple(atom(v) for v in (*jaxpr.constvars, *jaxpr.invars))
    steps = tuple(
        (eqn.primitive, tuple(map(atom, eqn.invars)), tuple(map(atom, eqn.outvars)), settings(eqn))
        for eqn in jaxpr.eqns
    )
    return entering, steps, tuple(map(atom, jaxpr.outvars))


def _parameter(value: Any) -> Any:
    """Make a setting hashable: by value where it is plain, else as the object it is."""
    if isinstance(value, ClosedJaxpr):
        return _structure(value.jaxpr), tuple(map(_parameter, value.consts))
    if isinstance(value, Jaxpr):
        return _structure(value)
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_parameter, value))
    if isinstance(value, dict):
        return tuple(
            (repr(k), _parameter(v)) for k, v in sorted(value.items(), key=lambda item: repr(item[0]))
        )
    if isinstance(value, bool | int | float | complex):
        return type(value), repr(value)  # 0.0 == -0.0
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Same:
    """Equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)
