"""What a score is, and how to make one of a network and a function of what it computes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.types import Images, Model, Params, PerExample, State

Score = Callable[[Images], PerExample]  # larger on ID images than on OOD ones; an `Objective` as it is
Features = Float[Array, "b d"]
FeaturesFn = Callable[[Images], Features]
Form = Callable[[Array], PerExample]  # of logits or of features, such as logit_scores.energy


def scored(network: Callable[[Images], Array], form: Form) -> Score:
    """Score images by a form of what a network makes of them: logits, or the features of `tap`."""
    return lambda x: form(network(x))


def tap(model: Model, params: Params, state: State, name: str) -> FeaturesFn:
    """Close a model over its parameters and read one of its inner activations, in float32, pooled to (b, d).

    As in `types.frozen` no gradient flows to the parameters.
    """
    params, state = jax.lax.stop_gradient((params, state))

    def features_fn(x: Images) -> Features:
        return model.features(params, state, x)[name].astype(jnp.float32)

    return features_fn


def map_tap(model: Model, params: Params, state: State) -> Callable[[Images], dict[str, Array]] | None:
    """Close a model over its parameters and read its inner activations before pooling, in float32; None without any."""
    maps = model.maps
    if maps is None:
        return None
    params, state = jax.lax.stop_gradient((params, state))
    return lambda x: {name: value.astype(jnp.float32) for name, value in maps(params, state, x).items()}
