"""Attacks on the scores of detectors by name: adaptive ones, and those that published tables are made with.

An attack of your own is one function, given by `--attacks my_module:my_attack`:

    def my_attack(threat, detector, *, steps, restarts):
        ascent = pgd(threat, steps=steps, step_size=threat.eps / 4)
        return ScoreAttack(on_id=lowered(ascent, detector.score), on_ood=raised(ascent, detector.score))
"""

from typing import Any, NamedTuple, Protocol

import jax

from robustjax import logit
from robustjax.attacks.apgd import apgd
from robustjax.catalog.names import named
from robustjax.ood import presets
from robustjax.ood.detectors import BuiltDetector
from robustjax.ood.reject_scores import rejection_margin
from robustjax.ood.score_attacks import ScoreAttack, lowered, raised
from robustjax.threats import Threat
from robustjax.types import Images, Objective, PerExample


class AttackBuilder(Protocol):
    """Build an attack on a detector; the radius of the threat may be traced."""

    def __call__(
        self, threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int
    ) -> ScoreAttack: ...


class NamedAttack(NamedTuple):
    """An attack on scores.

    Attributes:
      build: see `AttackBuilder`.
      published: in linf, with steps of its own, and without what was found at smaller radii, as a paper evaluates.
    """

    build: AttackBuilder
    published: bool = False


def adaptive(threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int) -> ScoreAttack:
    """Attack both sides by APGD on the score, and on the detector's surrogate where it has one."""
    ascent, score = apgd(threat, steps=steps), detector.score
    raising = [score] if detector.surrogate is None else [score, detector.surrogate]
    lowering = [_negative(one) for one in raising]
    return ScoreAttack(
        lowered(ascent, score, surrogates=lowering, restarts=restarts),
        raised(ascent, score, surrogates=raising, restarts=restarts),
    )


def _strong(threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int) -> ScoreAttack:
    return presets.strong(threat, detector.score, detector.logits_fn, steps=steps, restarts=restarts)


def _aloe(threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.aloe(threat, detector.score, detector.logits_fn)


def _atom(threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.atom(threat, detector.score, _accepted(detector))


def _atd(threat: Threat, detector: BuiltDetector, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.atd(threat, detector.score)


SCORE_ATTACKS: dict[str, NamedAttack] = {
    "adaptive": NamedAttack(adaptive),
    "strong": NamedAttack(_strong),
    "aloe": NamedAttack(_aloe, published=True),
    "atom": NamedAttack(_atom, published=True),
    "atd": NamedAttack(_atd, published=True),
}


def score_attack(name: str, *, flag: str = "--attacks") -> NamedAttack:
    """Find an attack by name; `module:name` is an `AttackBuilder` of the user's.

    Raises:
      ValueError: in one line, if there is no such attack, or nothing to import.
    """
    found: Any = named(SCORE_ATTACKS, name, flag=flag)
    return found if isinstance(found, NamedAttack) else NamedAttack(found)


def _accepted(detector: BuiltDetector) -> Objective:
    """Choose ATOM's surrogate by the outputs: away from the reject classes, or else from the uniform prediction."""

    def objective(x: Images) -> PerExample:
        logits = detector.logits_fn(x)
        if logits.shape[-1] > detector.classes:
            return jax.nn.softplus(rejection_margin(logits, classes=detector.classes))
        return logit.ce_to_uniform(logits)

    return objective


def _negative(score: Objective) -> Objective:
    return lambda x: -score(x)
