"""From an Equinox module, which holds its weights and takes one image at a time, to a `Network`."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jaxtyping import Array, PRNGKeyArray

from robustjax.models.adapters import inputs
from robustjax.types import Images, Model, Network, Params, State


def from_equinox(
    module: Any,
    state: Any = None,
    *,
    layout: Literal["chw", "hwc"] = "chw",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Turn an Equinox module into a Network, which runs in evaluation mode.

    As is Equinox's convention, the module takes one image, and `jax.vmap` makes a batch of it. It is called as
    `module(image)`, with `key=...` where `__call__` has such an argument, and as `module(image, state)`, which
    returns (logits, state), if a state is given. The module itself stays as it is, in its own mode.

    Args:
      module: the network.
      state: an `equinox.nn.State`, of `equinox.nn.make_with_state`, if the module is stateful.
      layout: of an image as the module takes it: "chw", channels first as Equinox's convolutions have it, or "hwc".
      mean, std: per channel of images in [0, 1]; the network sees (x - mean) / std. None: 0 and 1.
    Returns:
      A Network with float32 outputs. Its params are the module with floating-point arrays alone, so that
      `equinox.combine(params, module)` is a module again; its state is `state`. `model.init` returns the module's own
      values, whatever the key.
    Raises:
      ImportError: if Equinox is not installed.
      ValueError: if it is no Equinox module, if its BatchNorms disagree on the name of the batch axis, or a std is not
        positive; when called, if it fails on an image.
    """
    eqx = inputs.library("from_equinox", "equinox")
    if not isinstance(module, eqx.Module):
        raise ValueError(f"from_equinox: module is a {type(module).__name__}, must be an equinox.Module")
    if layout not in ("chw", "hwc"):
        raise ValueError(f"from_equinox: layout is {layout!r}, must be chw or hwc")
    normalise = inputs.normalisation("from_equinox", mean, std)
    axis = _batch_axis(module, eqx)
    keyed = "key" in inspect.signature(type(module).__call__).parameters
    stateful = state is not None
    weights, static = eqx.partition(module, eqx.is_inexact_array)
    begin = {} if state is None else state

    def apply(
        params: Params, state: State, x: Images, *, train: bool = False, key: PRNGKeyArray | None = None
    ) -> tuple[Array, State]:
        net = eqx.nn.inference_mode(eqx.combine(params, static), value=not train)
        x = normalise(x)
        x = x.transpose(0, 3, 1, 2) if layout == "chw" else x
        keys = None if key is None or not keyed else jax.random.split(key, len(x))

        def one(image: Array, now: Any, key: Any) -> tuple[Any, Any]:
            more = {"key": key} if keyed else {}
            if not stateful:
                return net(image, **more), now
            out, after = net(image, now, **more)
            return out, after

        over = (0, None, None if keys is None else 0)
        mapped = jax.vmap(one, in_axes=over, out_axes=(0, None), axis_name=axis)
        with inputs.failing("from_equinox", _convention(layout, x.shape[1:], stateful)):
            out, after = mapped(x, state, keys)
        return inputs.one_array("from_equinox", out), after if train else state

    model = Model(lambda key: (weights, begin), apply, inputs.no_features("from_equinox"))
    return Network(model, weights, begin, {"equinox": type(module).__name__}, type(module).__name__)


def _batch_axis(module: Any, eqx: Any) -> Any:
    """Find the name under which BatchNorm looks for the batch."""
    norms = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
    names = {node.axis_name for node in norms if isinstance(node, eqx.nn.BatchNorm)}
    if len(names) > 1 or any(not isinstance(name, str) for name in names):
        raise ValueError(
            f"from_equinox: BatchNorm's axis_name is {sorted(map(str, names))}, must be one name for all, the batch"
        )
    return names.pop() if names else "batch"


def _convention(layout: str, shape: tuple[int, ...], stateful: bool) -> str:
    other = {"chw": "hwc", "hwc": "chw"}[layout]
    return (
        f"the module is called on one image of shape {shape} ({layout}; for {other} pass layout={other!r}) and "
        + ("its state" if stateful else "without a state (pass one to from_equinox if it is stateful)")
    )
