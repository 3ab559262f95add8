"""What adapters share: normalisation, how a network is told to train, optional libraries, errors in one line."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax.types import Images, Params, State

TRAINING, EVALUATING = (
    ("train", "training", "is_training"),
    ("deterministic", "inference", "use_running_average"),
)


def normalisation(
    who: str, mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int | None = None
) -> Callable[[Images], Images]:
    """Build x -> (x - mean) / std, in float32.

    Args:
      who: the adapter, for the error.
      mean, std: per channel of images in [0, 1]. None: 0 and 1.
      channels: of the images, if known.
    Raises:
      ValueError: if mean or std do not fit the channels, or a std is not positive.
    """
    centre, scale = (
        _per_channel(who, name, values, default, channels)
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0))
    )
    if not (scale > 0).all():
        raise ValueError(f"{who}: std is {std}, must be positive")

    def normalise(x: Images) -> Images:
        x = x.astype(jnp.float32)
        if mean is None and std is None:
            return x
        for name, values in (("mean", centre), ("std", scale)):
            if len(values) not in (1, x.shape[-1]):
                raise ValueError(
                    f"{who}: {name} has {len(values)} numbers, must have one for each of {x.shape[-1]} channels"
                )
        row = (1,) * (x.ndim - 1) + (-1,)
        return (x - centre.reshape(row)) / scale.reshape(row)

    return normalise


def _per_channel(
    who: str, name: str, values: Sequence[float] | None, default: float, channels: int | None
) -> np.ndarray:
    if values is None:
        return np.full(1 if channels is None else channels, default, np.float32)
    full = np.asarray(values, np.float32)
    if full.ndim != 1 or channels not in (None, full.size):
        raise ValueError(
            f"{who}: {name} is {values}, must have one number for each "
            + ("channel" if channels is None else f"of {channels} channels")
        )
    return full


def mode_argument(call: Callable[..., Any]) -> Callable[[bool], dict[str, Any]]:
    """Find how a function is told to train: from `train` to keyword arguments, none if it has no such argument."""
    try:
        names = inspect.signature(call).parameters
    except (TypeError, ValueError):
        names = {}
    yes, no = ([name for name in known if name in names] for known in (TRAINING, EVALUATING))
    return lambda train: {name: train for name in yes} | {name: not train for name in no}


def library(who: str, name: str) -> Any:
    """Import an optional library.

    Raises:
      ImportError: in one line, if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{who} needs {name}, which is not installed ({error})") from None


@contextmanager
def failing(who: str, convention: str) -> Iterator[None]:
    """Turn any error of a network into one line that says how the adapter calls it."""
    try:
        yield
    except Exception as error:
        # Already one of ours; and an adapter within an adapter has said it all.
        if isinstance(error, ValueError) and str(error).startswith("from_"):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{who}: {type(error).__name__}: {first}; {convention}") from error


def one_array(who: str, out: Any) -> Array:
    """Check that a network returned one array, and return it in float32."""
    if not hasattr(out, "shape"):
        raise ValueError(f"{who}: the network returns a {type(out).__name__}, must return one array")
    return jnp.asarray(out).astype(jnp.float32)


def float32(out: Any) -> Any:
    """Turn every array of a pytree into float32."""
    return jax.tree.map(lambda a: a.astype(jnp.float32), out)


def pooled(activation: Array) -> Array:
    """Average over everything between the batch and the channels."""
    return activation.astype(jnp.float32).mean(axis=tuple(range(1, activation.ndim - 1)))


def no_features(who: str) -> Callable[[Params, State, Images], dict[str, Array]]:
    """Build the `features` of a Model that shows no inner activations."""

    def features(params: Params, state: State, x: Images) -> dict[str, Array]:
        raise ValueError(
            f"{who}: shows no inner activations; scores that read features need from_flax or from_nnx"
        )

    return features
