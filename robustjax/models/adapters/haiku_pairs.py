"""From what Haiku's transform returns, a pair of init and apply, to a `Model`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax.models.adapters import inputs
from robustjax.types import Images, Model, Params, State


def from_haiku(
    transformed: Any,
    *,
    shape: tuple[int, ...],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Turn what `haiku.transform` or `haiku.transform_with_state` returns into a Model.

    The function that was transformed is called on normalised images (b, h, w, c), with `is_training=...` where it has
    such an argument (or `train`, `training`, or the opposite under the name `deterministic`, `inference` or
    `use_running_average`).

    Args:
      transformed: the pair; not `without_apply_rng`.
      shape: of one image, (h, w, c); used by `init` only.
      mean, std: per channel of images in [0, 1]; the network sees (x - mean) / std. None: 0 and 1.
    Returns:
      A Model with float32 outputs. Its params and state are Haiku's; `types.Network(model, params, state)` is a trained
      network. The state is returned as it came unless `train` is set.
    Raises:
      ImportError: if Haiku is not installed.
      ValueError: if it is no such pair, if mean or std do not fit the channels, or a std is not positive; when
        called, if it fails on images.
    """
    hk = inputs.library("from_haiku", "haiku")
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise ValueError(
            f"from_haiku: transformed is a {type(transformed).__name__}, must be what haiku.transform or "
            "haiku.transform_with_state returns"
        )
    stateful = isinstance(transformed, hk.TransformedWithState)
    normalise = inputs.normalisation("from_haiku", mean, std, channels=shape[-1])
    told = inputs.mode_argument(getattr(transformed.apply, "_original_fn", transformed.apply))
    convention = (
        f"apply is called on (params, {'state, ' if stateful else ''}key, images (b, h, w, c)): pass what the "
        "transform returns, not without_apply_rng"
    )

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        with inputs.failing("from_haiku", convention):
            drawn = transformed.init(key, normalise(jnp.zeros((1, *shape), jnp.float32)), **told(True))
        return drawn if stateful else (drawn, {})

    def apply(
        params: Params, state: State, x: Images, *, train: bool = False, key: PRNGKeyArray | None = None
    ) -> tuple[Array, State]:
        given = (params, state) if stateful else (params,)
        with inputs.failing("from_haiku", convention):
            out = transformed.apply(*given, key, normalise(x), **told(train))
            out, after = out if stateful else (out, state)
        return inputs.one_array("from_haiku", out), after if train else state

    return Model(init, apply, inputs.no_features("from_haiku"))
