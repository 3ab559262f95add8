"""Weights to start certified training from, so that intervals keep their width from layer to layer."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from robustjax.types import Model, Params, State


def for_intervals(model: Model) -> Model:
    """Draw every kernel from N(0, 2 pi / n^2) for n inputs, and set biases of such layers to 0.

    An interval of width d becomes one of n E|w| d = 2 d on average in an affine layer, and half of that in ReLU: its
    width neither grows nor vanishes with depth. With the usual deviations, of order n^-1/2, it grows by n^1/2 at every
    layer, and training on intervals begins with bounds that say nothing.

    Args:
      model: whose kernels are leaves named "kernel" with outputs on the last axis, as flax has them; biases are leaves
        named "bias" beside them. Other parameters are as `model` draws them.
    Returns:
      The model with another `init`.

    Reference: Shi et al. 2021, arXiv:2103.17268, the initialisation; without their BatchNorm and regularisers.
    """

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        params, state = model.init(key)
        found = [0]

        def redrawn(tree: Any, key: PRNGKeyArray) -> Any:
            if not isinstance(tree, dict):
                return tree
            kernel = tree.get("kernel")
            new = {}
            for name, leaf in tree.items():
                own = jax.random.fold_in(key, _number(name))
                if name == "kernel":
                    found[0] += 1
                    inputs = int(np.prod(leaf.shape[:-1]))
                    new[name] = (
                        math.sqrt(2 * math.pi) / inputs * jax.random.normal(own, leaf.shape, leaf.dtype)
                    )
                elif name == "bias" and kernel is not None:
                    new[name] = jnp.zeros_like(leaf)
                else:
                    new[name] = redrawn(leaf, own)
            return new

        params = redrawn(params, jax.random.fold_in(key, 1))
        if not found[0]:
            raise ValueError("for_intervals: the model has no parameter named kernel, must be one of flax")
        return params, state

    return model._replace(init=init)


def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "little") % (2**31 - 1)
