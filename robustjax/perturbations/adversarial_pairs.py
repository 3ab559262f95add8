"""Pairs of an adversarial or shifted image and the clean one that it was made from: what a translator trains on.

They are `Pairs` like all others, (key, images) -> ImagePair; the adversarial or shifted image is the perturbed view.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import logit
from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import fgsm, pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.spsa import spsa
from robustjax.attacks.square import square
from robustjax.attacks.starts import at_origin
from robustjax.numerics import fold, keys_for, per_example
from robustjax.perturbations.pairs import ImagePair, Pairs
from robustjax.perturbations.tones import Shift
from robustjax.threats import Threat
from robustjax.types import Attack, Images, Keys, LogitsFn

ATTACKS: dict[str, Callable[[float], Attack]] = {
    "fgsm": lambda eps: against(fgsm(Threat("linf", eps)), objectives.cross_entropy),
    "bim": lambda eps: _pgd(eps, start=at_origin),
    "pgd": lambda eps: _pgd(eps),
    "apgd": lambda eps: as_attack(apgd(Threat("linf", eps), steps=25)),
    "square": lambda eps: as_attack(square(Threat("linf", eps), queries=500)),
    "spsa": lambda eps: against(spsa(Threat("linf", eps), steps=40, samples=64), objectives.margin),
    # Its radius is in l2: that of a linf ball's corner on 4 % of the pixels of a digit of 28 x 28.
    "cw": lambda eps: as_attack(
        carlini_wagner(Threat("l2", 5.6 * eps), searches=3, steps=60, step_size=0.05, initial_const=1.0),
        logit.margin,
    ),
}


def identity() -> Pairs:
    """Pair every image with itself, so that a translator leaves clean images as they are."""
    return lambda key, x: ImagePair(x, x)


def attacked(logits_fn: LogitsFn, attack: Attack) -> Pairs:
    """Pair images with what an attack makes of them.

    The attack is given the network's own answers for labels: with true ones, wrongly classified images would stay,
    and one-step attacks tell the label by the direction of their step.

    Args:
      logits_fn: the network that is attacked.
      attack: finds the adversarial image; `ATTACKS` has some by name.
    """

    def pairs(key: Keys, x: Images) -> ImagePair:
        answer = logits_fn(x).argmax(axis=1).astype(jnp.int32)
        return ImagePair(x, jax.lax.stop_gradient(attack(key, logits_fn, x, answer).x))

    return pairs


def shifted(shift: Shift, *strengths: float) -> Pairs:
    """Pair images with a natural shift of them, each at one of the strengths, those of the shift by default."""
    choices = jnp.asarray(strengths or shift.strengths, jnp.float32)

    def pairs(key: Keys, x: Images) -> ImagePair:
        which = _chosen(keys_for(key, x.shape[0]), len(choices))
        return ImagePair(x, shift.apply(x, choices[which]))

    return pairs


def every(*kinds: Pairs) -> Pairs:
    """Make all kinds of pairs of every image: kind by kind, so many times as many rows.

    Raises:
      ValueError: if there are no kinds.
    """
    _check("every", kinds)

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        views = [kind(fold(keys, i), x) for i, kind in enumerate(kinds)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *views)

    return pairs


def one_of(*kinds: Pairs) -> Pairs:
    """Make one kind of pair of every image, drawn anew each time. All kinds are computed for that.

    Raises:
      ValueError: if there are no kinds.
    """
    _check("one_of", kinds)

    def pairs(key: Keys, x: Images) -> ImagePair:
        keys = keys_for(key, x.shape[0])
        which = _chosen(fold(keys, 0), len(kinds))
        made = x
        for i, kind in enumerate(kinds):
            made = jnp.where(per_example(which == i, x), kind(fold(keys, 1 + i), x).perturbed, made)
        return ImagePair(x, made)

    return pairs


def _pgd(eps: float, **settings) -> Attack:
    ascent = pgd(Threat("linf", eps), steps=20, step_size=eps / 8, **settings)
    return against(ascent, objectives.cross_entropy)


def _chosen(keys: Keys, count: int) -> Array:
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(keys)


def _check(name: str, kinds: tuple[Pairs, ...]) -> None:
    if not kinds:
        raise ValueError(f"{name}: no kind of pair given, must be at least one")
