"""Attacks on the scores of detectors by name: adaptive ones, and those that published tables are made with.

An attack of your own is one function, given by `--attacks my_module:my_attack`:

    def my_attack(threat, detector, *, steps, restarts):
        ascent = pgd(threat, steps=steps, step_size=threat.eps / 4)
        return ScoreAttack(on_id=lowered(ascent, detector.score), on_ood=raised(ascent, detector.score))
"""

from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from robustjax import logit
from robustjax.attacks.case import Case
from robustjax.catalog.names import named
from robustjax.evaluation import score_cases
from robustjax.ood import presets
from robustjax.ood.detectors import ScoredNetwork, logits_of
from robustjax.ood.reject_scores import rejection_margin
from robustjax.ood.score_attacks import ScoreAttack
from robustjax.threats import Threat
from robustjax.types import Images, Objective, PerExample


@runtime_checkable
class AttackBuilder(Protocol):
    """Build an attack on a detector; the radius of the threat may be traced."""

    def __call__(
        self, threat: Threat, detector: ScoredNetwork, *, steps: int, restarts: int
    ) -> ScoreAttack: ...


@runtime_checkable
class CasesBuilder(Protocol):
    """List the cases of an attack; the radius of the threat may be traced.

    `classes` are the logits of the network, None where it has none; `surrogate` says whether the detector names one.
    """

    def __call__(
        self, threat: Threat, *, classes: int | None, surrogate: bool, steps: int, restarts: int
    ) -> tuple[Case, ...]: ...


class NamedAttack(NamedTuple):
    """An attack on scores.

    Attributes:
      cases: see `CasesBuilder`.
      published: in linf, with steps of its own, and as a paper evaluates: without what was found at smaller radii, and
        with the last point of an attack also where it helps the detector.
    """

    cases: CasesBuilder
    published: bool = False


def _adaptive(
    threat: Threat, *, classes: int | None, surrogate: bool, steps: int, restarts: int
) -> tuple[Case, ...]:
    del classes
    return score_cases.adaptive(threat, surrogate=surrogate, steps=steps, restarts=restarts)


def whole(name: str, build: AttackBuilder) -> CasesBuilder:
    """Run an attack of `ood.score_attacks` as one case."""

    def cases(
        threat: Threat, *, classes: int | None, surrogate: bool, steps: int, restarts: int
    ) -> tuple[Case, ...]:
        del classes, surrogate
        return (score_cases.searched(name, partial(build, steps=steps, restarts=restarts), threat),)

    return cases


def _aloe(threat: Threat, detector: ScoredNetwork, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.aloe(threat, detector.score, None if detector.of_activations else logits_of(detector))


def _atom(threat: Threat, detector: ScoredNetwork, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.atom(threat, detector.score, None if detector.of_activations else _accepted(detector))


def _atd(threat: Threat, detector: ScoredNetwork, *, steps: int, restarts: int) -> ScoreAttack:
    del steps, restarts
    return presets.atd(threat, detector.score)


SCORE_ATTACKS: dict[str, NamedAttack] = {
    "adaptive": NamedAttack(_adaptive),
    "strong": NamedAttack(score_cases.standard),
    "aloe": NamedAttack(whole("aloe", _aloe), published=True),
    "atom": NamedAttack(whole("atom", _atom), published=True),
    "atd": NamedAttack(whole("atd", _atd), published=True),
}


def score_attack(name: str, *, flag: str = "--attacks") -> NamedAttack:
    """Find an attack by name; `module:name` is an `AttackBuilder` of the user's.

    Raises:
      ValueError: in one line, if there is no such attack, or nothing to import.
    """
    found: Any = named(SCORE_ATTACKS, name, flag=flag)
    return found if isinstance(found, NamedAttack) else NamedAttack(whole(name, found))


def _accepted(detector: ScoredNetwork) -> Objective:
    """Choose ATOM's surrogate by the outputs: away from the reject classes, or else from the uniform prediction."""

    def objective(x: Images) -> PerExample:
        logits = logits_of(detector)(x)
        if detector.classes is not None and logits.shape[-1] > detector.classes:
            return jax.nn.softplus(rejection_margin(logits, classes=detector.classes))
        return logit.ce_to_uniform(logits)

    return objective
