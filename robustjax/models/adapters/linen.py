"""From a flax module to a `Model`: pure functions with the input normalisation inside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, PRNGKeyArray

from robustjax.models.adapters import inputs
from robustjax.types import Images, Model, Params, State

TAPS = "features"  # the collection that networks sow their inner activations into


def from_flax(
    module: nn.Module,
    *,
    shape: tuple[int, ...],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Turn a `flax.linen` module into a Model.

    The module is called on normalised images, with `train=...` where it has such an argument (or `training`,
    `is_training`, or the opposite under the name `deterministic`, `inference` or `use_running_average`), and draws its
    noise, if any, from the stream "dropout". What it sows into the collection "features" becomes `Model.features`;
    names that sort in the order of depth keep it through `jit`, which sorts dictionaries.

    Args:
      module: the network; its own `dtype` decides what it computes in.
      shape: of one image, (h, w, c). Images of other sizes are taken where the module takes them.
      mean, std: per channel of images in [0, 1]; the network sees (x - mean) / std. None: 0 and 1.
    Returns:
      A Model with float32 outputs. `state` holds every collection but the parameters, such as the running
      statistics of BatchNorm, and is returned as it came unless `train` is set.
    Raises:
      ValueError: if mean or std do not fit the channels, or a std is not positive; in use, in one line, for images of
        other channels or of a size that the module does not take.
    """
    normalise = inputs.normalisation("from_flax", mean, std, channels=shape[-1])

    told = inputs.mode_argument(type(module).__call__)

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        weights, noise = jax.random.split(key)
        rngs = {"params": weights, "dropout": noise}
        variables = dict(module.init(rngs, normalise(jnp.zeros((1, *shape), jnp.float32)), **told(False)))
        variables.pop(TAPS, None)
        return variables.pop("params", {}), variables

    def apply(
        params: Params, state: State, x: Images, *, train: bool = False, key: PRNGKeyArray | None = None
    ) -> tuple[Any, State]:
        variables: Any = {"params": params, **state}
        rngs = None if key is None else {"dropout": key}
        with _fitting(x, shape):
            if not train:
                return inputs.float32(module.apply(variables, normalise(x), **told(False), rngs=rngs)), state
            out, changed = module.apply(variables, normalise(x), **told(True), rngs=rngs, mutable=list(state))
        return inputs.float32(out), {**state, **changed}

    def maps(params: Params, state: State, x: Images) -> dict[str, Array]:
        variables: Any = {"params": params, **state}
        with _fitting(x, shape):
            _, changed = module.apply(variables, normalise(x), **told(False), mutable=[TAPS])
        taps: dict[str, Any] = flatten_dict(dict(changed).get(TAPS, {}), sep="/")
        return {name: values[-1] for name, values in taps.items()}

    def features(params: Params, state: State, x: Images) -> dict[str, Array]:
        return {name: inputs.pooled(value) for name, value in maps(params, state, x).items()}

    return Model(init, apply, features, maps)


@contextmanager
def _fitting(x: Array, shape: tuple[int, ...]) -> Iterator[None]:
    """Check that images have the channels of those a network was built for, and say in one line which size it takes."""
    expected = f"must be ({', '.join(map(str, ('n', *shape)))}), as the network was built for"
    if x.ndim != len(shape) + 1 or x.shape[-1] != shape[-1]:
        first = x.ndim == 4 and x.shape[1] == shape[-1]
        hint = "; of channels first take x.transpose(0, 2, 3, 1)" if first else ""
        raise ValueError(f"from_flax: images have shape {x.shape}, {expected}{hint}")
    try:
        yield
    except Exception as error:
        # Where the size is right something else is wrong; and some networks say themselves which sizes they take.
        if x.shape[1:] == tuple(shape) or (isinstance(error, ValueError) and "pixels, must" in str(error)):
            raise
        raise ValueError(f"from_flax: images have shape {x.shape}, {expected}") from error
