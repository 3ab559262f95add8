"""What a network is at the time of a call: its number of logits, and what it closes over."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from robustjax import checks
from robustjax.types import LogitsFn


class AsItIs(NamedTuple):
    """A network as the key of compiled programs: equal as long as what it closes over is."""

    network: Callable[..., LogitsFn]
    closed_over: str  # a digest

    def __call__(self, *arguments: Any) -> LogitsFn:
        """Call the network."""
        return self.network(*arguments)


def as_it_is(
    who: str, network: Callable[..., LogitsFn], arguments: tuple[Any, ...], x: np.ndarray
) -> tuple[AsItIs, int]:
    """Look at a network once, without running it: what compiled programs may be kept for, and its number of logits.

    Compiled programs hold the arrays that a function closes over. JAX finds them again by the function, which is the
    same after further training: its old weights would be evaluated.

    Args:
      who: the function that was called, for the error.
      network: (*arguments) -> logits function.
      arguments: pytrees of arrays.
      x: images, (n, ...).
    Raises:
      ValueError: in one line, if the network does not take the arguments, gives no function, cannot be traced by JAX,
        or gives anything but logits (n, k) with k >= 2.
    """
    try:
        logits_fn = network(*arguments)
    except TypeError as error:
        raise ValueError(
            f"{who}: network cannot be called with the {len(arguments)} arguments given ({error}); it must take these "
            "and return a function from images to logits: of a function f of images make lambda: f"
        ) from error
    if not callable(logits_fn):
        raise ValueError(
            f"{who}: network gives a {type(logits_fn).__name__} for the arguments, must give a function from images to "
            "logits: of a function f of images make lambda: f"
        )
    run = jax.jit(
        lambda arguments, x: network(*arguments)(x)
    )  # a new one: traced here, and once for both uses
    classes = checks.logits(who, lambda x: run(arguments, x), x)
    like = jax.ShapeDtypeStruct((min(len(x), 3), *x.shape[1:]), np.float32)
    program = jax.make_jaxpr(run)(arguments, like)
    # Functions inside are printed with an address, which is another one after every trace.
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(program)).encode())
    for array in _constants(program):
        is_key = jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(array) if is_key else array).tobytes())
    return AsItIs(network, digest.hexdigest()), classes


def _constants(program: ClosedJaxpr) -> Iterator[Any]:
    yield from program.consts
    yield from _inner(program.jaxpr)


def _inner(jaxpr: Jaxpr) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield from (v.val for v in equation.invars if isinstance(v, Literal))
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_program):
            if isinstance(value, ClosedJaxpr):
                yield from _constants(value)
            elif isinstance(value, Jaxpr):
                yield from _inner(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
