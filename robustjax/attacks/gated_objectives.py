"""Objectives of adaptive attacks on a classifier behind a gate and a translator.

The defence answers f(T(x)) where the gap of its gate is positive and f(x) elsewhere. Every surrogate here has its own
objective, and all keep points by one merit: the margin of the hard defence, at every iterate, with the points that
fool f unseen by the gate before all others. Nothing that is varied in a sweep (losses, penalties, temperatures,
targets) is part of a program: `AttackParameters` and `Target` are arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import logit
from robustjax.attacks.solver import ValueAndMerit
from robustjax.numerics import divide, per_example
from robustjax.types import Labels, Logits, LogitsFn, Objective, PerExample

UNSEEN = 1e4  # added to the merit of a point that fools f and passes the gate; far above any margin
LOSSES = ("cross-entropy", "margin", "dlr", "targeted dlr")


class AttackedDefence(NamedTuple):
    """The parts of a defence as an attacker sees them, with slopes of his choosing.

    Attributes:
      plain: f.
      through: x -> f(T(x)).
      gap: positive where the gate sends x through T, in a unit of its own.
      features: what may be matched, (b, d) each.
    """

    plain: LogitsFn
    through: LogitsFn
    gap: Objective
    features: tuple[Callable[[Array], Array], ...] = ()


class AttackParameters(NamedTuple):
    """Settings of a surrogate, all traced: one for all examples, or one per example.

    Attributes:
      losses: weights of `LOSSES`, (4,) or (4, b), usually one of them 1.
      penalty: of the gate, per unit of gap.
      slack: how far beyond the threshold a penalty still pushes, in units of gap.
      warmth: the width of the soft gate, in units of gap.
      mix: of the soft gate, 1 for a mean of logits, 0 for a mean of losses.
    """

    losses: Any
    penalty: Any = 0.0
    slack: Any = 0.02
    warmth: Any = 0.05
    mix: Any = 0.0


class Target(NamedTuple):
    """Where an attack wants each example to go: a class, and features to be matched."""

    target: Labels
    features: tuple[Float[Array, "b d"], ...] = ()


Surrogate = Callable[[AttackedDefence, Labels, Target, AttackParameters], ValueAndMerit]


def only(name: str) -> Float[Array, "4"]:
    """Weigh one of `LOSSES` alone.

    Raises:
      ValueError: for another name.
    """
    if name not in LOSSES:
        raise ValueError(f"only: loss is {name!r}, must be one of {', '.join(LOSSES)}")
    return jnp.asarray([float(name == one) for one in LOSSES])


def mixed_loss(logits: Logits, y: Labels, target: Labels, weights: Float[Array, "4 ..."]) -> PerExample:
    """Add up the losses by weight; with fewer classes than a ratio needs, margins stand in for it."""
    classes, gap = logits.shape[-1], logit.margin(logits, y)
    aimed = logit.targeted_margin(logits, y, target)
    values = [
        logit.cross_entropy(logits, y),
        gap,
        logit.dlr(logits, y) if classes >= 3 else gap,
        logit.targeted_dlr(logits, y, target) if classes >= 4 else aimed,
    ]
    # Where a class is masked a loss may be infinite that has no weight.
    terms = (w * jnp.where(w == 0, 0.0, v) for w, v in zip(weights, values, strict=True))
    return sum(terms, jnp.zeros_like(gap))


def merit(plain: Logits, through: Logits, gap: PerExample, y: Labels) -> PerExample:
    """Compute the margin of the hard defence, positive where it errs, and `UNSEEN` more where it errs untranslated."""
    f = logit.margin(plain, y)
    hard = jnp.where(gap <= 0, f, logit.margin(through, y))  # a gap that is NaN is routed
    return hard + jnp.where((gap <= 0) & (f > 0), UNSEEN, 0.0)


def oblivious(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """TM0: attack f alone, and keep points by f alone, as somebody who knows of no defence."""

    def both(x: Array) -> tuple[PerExample, PerExample]:
        logits = defence.plain(x)
        return mixed_loss(logits, y, target.target, parameters.losses), logit.margin(logits, y)

    return both


def either_way(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """TM2: know f and T but not the gate: fool both answers, and keep points by the lesser margin."""

    def both(x: Array) -> tuple[PerExample, PerExample]:
        answers = defence.plain(x), defence.through(x)
        value = sum((mixed_loss(z, y, target.target, parameters.losses) for z in answers), jnp.zeros(()))
        return value, jnp.minimum(*(logit.margin(z, y) for z in answers))

    return both


def through(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A1: L(f(T(x))), whatever the gate says, whose slope is not computed.

    With the slope of the identity in T it is A5.
    """

    def value(seen: Seen) -> PerExample:
        return mixed_loss(seen.through, y, target.target, parameters.losses)

    return _kept_by_merit(defence, y, value)


def forced(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A2: L(f(T(x))) - c relu(slack - gap): fool the translator and be sent through it."""

    def value(seen: Seen) -> PerExample:
        risk = mixed_loss(seen.through, y, target.target, parameters.losses)
        return risk - parameters.penalty * jax.nn.relu(parameters.slack - seen.gap)

    return _kept_by_merit(defence, y, value)


def unseen(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A3: L(f(x)) - c relu(gap + slack): fool f where the gate does not look."""

    def value(seen: Seen) -> PerExample:
        risk = mixed_loss(seen.plain, y, target.target, parameters.losses)
        return risk - parameters.penalty * jax.nn.relu(seen.gap + parameters.slack)

    return _kept_by_merit(defence, y, value)


def selective(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A3, selective PGD: ascend L(f(x)) where f is right, and lower the gap where it errs.

    Its value jumps from one to the other: use solvers that follow slopes without comparing values,
    such as `pgd_solver`.

    Reference: Bryniarski et al. 2021, arXiv:2106.15023.
    """

    def value(seen: Seen) -> PerExample:
        fooled = logit.margin(seen.plain, y) > 0
        return jnp.where(fooled, -seen.gap, mixed_loss(seen.plain, y, target.target, parameters.losses))

    return _kept_by_merit(defence, y, value)


def orthogonal(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A3, orthogonal PGD: as `selective`, each step along what leaves the other goal as it is, to first order.

    g_L - (g_L . g_s / |g_s|^2) g_s where f is right, and the mirror image where it errs.

    Reference: Bryniarski et al. 2021, arXiv:2106.15023. The value is linear in x, with that slope.
    """

    def both(x: Array) -> tuple[PerExample, PerExample]:
        plain, back = jax.vjp(defence.plain, x)
        gap, back_gap = jax.vjp(defence.gap, x)

        def risk(z: Logits) -> Array:
            return mixed_loss(z, y, target.target, parameters.losses).sum()

        (up,), (down,) = back(jax.grad(risk)(plain)), back_gap(-jnp.ones_like(gap))
        fooled = per_example((logit.margin(plain, y) > 0).astype(x.dtype), x)
        way = jax.lax.stop_gradient(fooled * _beside(down, up) + (1 - fooled) * _beside(up, down))
        return (way * x).reshape(len(x), -1).sum(axis=1), merit(plain, defence.through(x), gap, y)

    return both


def softened(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A4: put a sigmoid of gap / warmth in the place of the gate, in the mean of losses or of logits."""

    def value(seen: Seen) -> PerExample:
        w = jax.nn.sigmoid(seen.gap / parameters.warmth)
        z = w[:, None] * seen.through + (1 - w[:, None]) * seen.plain
        losses = [
            mixed_loss(one, y, target.target, parameters.losses) for one in (z, seen.through, seen.plain)
        ]
        return parameters.mix * losses[0] + (1 - parameters.mix) * (w * losses[1] + (1 - w) * losses[2])

    return _kept_by_merit(defence, y, value)


def matched(
    defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters
) -> ValueAndMerit:
    """A6: come near the features of an image of another class, -sum |phi(x) - phi_t|^2 / |phi_t|^2.

    Beats detectors that read features, since a perfect match is as usual as its target.
    """
    del parameters

    def both(x: Array) -> tuple[PerExample, PerExample]:
        value = jnp.zeros(len(x))
        for features, goal in zip(defence.features, target.features, strict=True):
            away = jnp.square(features(x) - goal).sum(axis=1)
            value = value - divide(away, jnp.square(goal).sum(axis=1))
        return value, merit(defence.plain(x), defence.through(x), defence.gap(x), y)

    return both


def asked(defence: AttackedDefence, y: Labels, target: Target, parameters: AttackParameters) -> ValueAndMerit:
    """A7: the margin of the hard defence, for searches that ask for values only."""
    del target, parameters

    def both(x: Array) -> tuple[PerExample, PerExample]:
        plain, through, gap = defence.plain(x), defence.through(x), defence.gap(x)
        hard = jnp.where(gap <= 0, logit.margin(plain, y), logit.margin(through, y))
        return hard, merit(plain, through, gap, y)

    return both


class Seen(NamedTuple):
    """All that a defence says of a point."""

    plain: Logits
    through: Logits
    gap: PerExample


def _kept_by_merit(defence: AttackedDefence, y: Labels, value: Callable[[Seen], PerExample]) -> ValueAndMerit:
    def both(x: Array) -> tuple[Any, PerExample]:
        seen = Seen(defence.plain(x), defence.through(x), defence.gap(x))
        return value(seen), merit(*seen, y)

    return both


def _beside(along: Array, other: Array) -> Array:
    """Take from one gradient what lies along another."""
    a, b = along.reshape(len(along), -1), other.reshape(len(other), -1)
    share = divide((a * b).sum(axis=1), jnp.square(b).sum(axis=1))
    return along - per_example(share, along) * other
