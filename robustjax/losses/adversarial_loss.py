"""The shape of an adversarial loss: an inner maximisation, then an outer risk at the point it found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray, Scalar

from robustjax.types import Metrics, Params, State


class AdversarialLoss(NamedTuple):
    """A Loss whose two halves can be had apart, for methods that attack once and take the risk elsewhere (AWP).

    Attributes:
      attack: (params, state, batch, key) -> the attacked inputs; sees the frozen network.
      risk: (params, state, batch, attacked, key) -> (scalar, (state, metrics)); trains the network.
    """

    attack: Callable[[Params, State, Any, PRNGKeyArray], Any]
    risk: Callable[[Params, State, Any, Any, PRNGKeyArray], tuple[Scalar, tuple[State, Metrics]]]

    def __call__(
        self, params: Params, state: State, batch: Any, key: PRNGKeyArray
    ) -> tuple[Scalar, tuple[State, Metrics]]:
        """Attack, then take the risk."""
        inner, outer = jax.random.split(key)
        attacked = jax.lax.stop_gradient(self.attack(params, state, batch, inner))
        return self.risk(params, state, batch, attacked, outer)
