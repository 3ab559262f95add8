"""Adversarial points made on one network and evaluated on another."""

import jax
from jaxtyping import Array

from robustjax import checks
from robustjax.attacks import objectives
from robustjax.attacks.compose import Surrogate
from robustjax.types import Attack, Found, Keys, Labels, LogitsFn


def transferred(attack: Attack, source: LogitsFn, *, measure: Surrogate = objectives.margin) -> Attack:
    """Attack a source network and measure the points on the target network, which is asked once.

    For targets whose gradients mislead: where points from another network break more than the target network's own,
    these are masked. `compose.worst_of` joins several sources.

    Args:
      attack: makes the points; best one that goes far beyond the source's boundary, as `against(pgd(...))`.
      source: the network it sees.
      measure: how to measure; the value returned is its, on the target network.

    Reference: Papernot et al. 2016, arXiv:1605.07277.
    """

    def attack_source(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        checks.array("transferred", x)
        y = checks.classes("transferred", y, len(x))
        point = attack(key, source, x, y).x
        return jax.lax.stop_gradient(Found(point, measure(logits_fn, y)(point)))

    return attack_source
