"""Ensembles that average the probabilities of several networks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.types import Model


def ensemble(members: Sequence[Model]) -> Model:
    """Average softmax probabilities; the logits are the logarithms of the averages.

    Public code returns the averages themselves: the same decisions, but a cross-entropy on top of them would take
    a softmax of probabilities, which hides the gradient from an attack.

    Args:
      members: networks with the same classes; parameters and state are dictionaries by number, "0", "1", ...
    Raises:
      ValueError: if there are none.
    """
    if not members:
        raise ValueError("ensemble: there are no members, must be at least 1")
    named = {str(i): member for i, member in enumerate(members)}

    def init(key):
        keys = jax.random.split(key, len(named))
        drawn = {name: member.init(k) for (name, member), k in zip(named.items(), keys, strict=True)}
        return {name: pair[0] for name, pair in drawn.items()}, {
            name: pair[1] for name, pair in drawn.items()
        }

    def apply(params, state, x, *, train=False, key=None):
        keys = [None] * len(named) if key is None else jax.random.split(key, len(named))
        runs = [
            member.apply(params[name], state[name], x, train=train, key=k)
            for (name, member), k in zip(named.items(), keys, strict=True)
        ]
        logs = jnp.stack([jax.nn.log_softmax(logits) for logits, _ in runs])
        mean = jax.nn.logsumexp(logs, axis=0) - jnp.log(len(named))
        return mean, dict(zip(named, (after for _, after in runs), strict=True))

    def features(params, state, x) -> dict[str, Array]:
        taps = {name: member.features(params[name], state[name], x) for name, member in named.items()}
        first = next(iter(taps.values()))
        return {tap: jnp.concatenate([of[tap] for of in taps.values()], axis=-1) for tap in first}

    return Model(init, apply, features)
