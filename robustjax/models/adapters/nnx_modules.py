"""From a flax.nnx module, which holds its weights, to a `Network`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict
from jaxtyping import Array, PRNGKeyArray

from robustjax.models.adapters import inputs
from robustjax.types import Images, Model, Network, Params, State

KINDS = (
    nnx.Param,
    nnx.RngState,
    nnx.Intermediate,
)  # of variables; the rest is state, as BatchNorm's statistics are


def from_nnx(
    module: nnx.Module, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Network:
    """Turn a `flax.nnx` module into a Network, which runs in evaluation mode.

    A copy of the module is taken; the module itself stays as it is, in its own mode and with its own statistics. What
    training changes is in the Network's params and state alone. `nnx.update(module, state)` with
    `nnx.State(network.params)` takes parameters back.

    Args:
      module: the network, called on normalised images (b, h, w, c). It is put in evaluation or train mode as
        `module.eval()` and `module.train()` do, and by an argument `train` (or `training`, `is_training`, or the
        opposite under the name `deterministic`, `inference` or `use_running_average`) where `__call__` has one.
      mean, std: per channel of images in [0, 1]; the network sees (x - mean) / std. None: 0 and 1.
    Returns:
      A Network with float32 outputs. Its params are the variables of kind `nnx.Param`, as nested dictionaries, its
      state all others but random numbers: these come from the key. `model.init` returns the module's own values,
      whatever the key. What the module sows as `nnx.Intermediate` becomes `Model.features`.
    Raises:
      ValueError: if it is no nnx module or a std is not positive; when called, if it fails on images, if it changes
        its state in evaluation mode, or if it draws random numbers without a key.
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(f"from_nnx: module is a {type(module).__name__}, must be a flax.nnx module")
    normalise = inputs.normalisation("from_nnx", mean, std)
    told = inputs.mode_argument(type(module).__call__)
    modes = {}
    for train in (False, True):
        copy: Any = nnx.clone(module)
        copy.train() if train else copy.eval()
        modes[train], *parts = nnx.split(copy, *KINDS, ...)
    weights, noise, _, rest = parts
    like, own = jax.tree.map(_shaped, (weights, rest)), (nnx.to_pure_dict(weights), nnx.to_pure_dict(rest))

    def merged(params: Params, state: State, key: PRNGKeyArray | None, train: bool) -> Any:
        filled = []
        for template, values in zip(like, (params, state), strict=True):
            part = jax.tree.map(lambda leaf: leaf, template)  # a new State, whose variables may be replaced
            nnx.replace_by_pure_dict(part, values)
            filled.append(part)
        return nnx.merge(modes[train], filled[0], _seeded(noise, key), filled[1])

    def parts_of(net: Any) -> tuple[Any, Any]:
        _, _, drawn, _, after = nnx.split(net, *KINDS, ...)
        return nnx.to_pure_dict(drawn), nnx.to_pure_dict(after)

    def apply(
        params: Params, state: State, x: Images, *, train: bool = False, key: PRNGKeyArray | None = None
    ) -> tuple[Array, State]:
        with inputs.failing("from_nnx", "the module is called on images (b, h, w, c), channels last"):
            net = merged(params, state, key, train)
            before = parts_of(net)
            out = net(normalise(x), **told(train))
            drawn, after = parts_of(net)
        if key is None and (changed := _changed(before[0], drawn)):
            raise ValueError(
                f"from_nnx: the module draws random numbers ({changed}) in {'train' if train else 'evaluation'} mode, "
                + ("give apply a key" if train else "must be the same function in every call")
            )
        if not train and (changed := _changed(before[1], after)):
            raise ValueError(
                f"from_nnx: the module changes {changed} in evaluation mode, such as BatchNorm in train mode; its mode "
                "must follow module.eval() or an argument `train` of __call__"
            )
        return inputs.one_array("from_nnx", out), after if train else state

    def maps(params: Params, state: State, x: Images) -> dict[str, Array]:
        net = merged(params, state, None, False)
        _, sown = nnx.capture(net, nnx.Intermediate)(normalise(x), **told(False))
        taps: dict[Any, Any] = flatten_dict(nnx.to_pure_dict(sown))
        return {"/".join(map(str, path)): values[-1] for path, values in taps.items()}

    def features(params: Params, state: State, x: Images) -> dict[str, Array]:
        return {name: inputs.pooled(value) for name, value in maps(params, state, x).items()}

    model = Model(lambda key: own, apply, features, maps)
    return Network(model, *own, {"flax.nnx": type(module).__name__}, type(module).__name__)


def _shaped(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _seeded(noise: Any, key: PRNGKeyArray | None) -> Any:
    """Let every stream of random numbers begin anew, from a key."""
    leaves, tree = jax.tree.flatten(noise)
    if key is not None:
        leaves = [
            _keys(jax.random.fold_in(key, i), leaf.shape)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros_like(leaf)
            for i, leaf in enumerate(leaves)
        ]
    return jax.tree.unflatten(tree, leaves)


def _keys(key: PRNGKeyArray, shape: tuple[int, ...]) -> PRNGKeyArray:
    return jax.random.split(key, shape) if shape else key


def _changed(before: Any, after: Any) -> str:
    """Name the first leaf that was replaced; an untouched one is the very same array, traced or not."""
    old, new = ({path: leaf for path, leaf in flatten_dict(part).items()} for part in (before, after))
    return next(("/".join(map(str, path)) for path in new if new[path] is not old.get(path)), "")
