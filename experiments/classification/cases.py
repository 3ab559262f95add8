"""The attacks that classification.attack knows by name, and its suites of them."""

from collections.abc import Callable
from typing import Any

from robustjax import logit
from robustjax.attacks import autoattack
from robustjax.attacks.autoattack import Trial
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.ddn import ddn
from robustjax.attacks.deepfool import deepfool
from robustjax.attacks.fab import leads
from robustjax.attacks.fmn import fmn
from robustjax.attacks.spsa import spsa
from robustjax.attacks.steady import steady
from robustjax.threats import Threat
from robustjax.types import Labels, Logits, PerExample


def _pgd(name: str, loss: Callable[..., Any]) -> Callable[[Threat, int, Any], Trial]:
    def build(threat: Threat, classes: int, cfg: Any) -> Trial:
        del classes
        solver = steady(threat, steps=cfg.steps, step_size=cfg.step * threat.eps)
        return Trial(name, solver, lambda z, y, _: loss(z, y), restarts=cfg.restarts)

    return build


def _cross_entropy(logits: Logits, label: Labels, _: Labels) -> PerExample:
    return logit.cross_entropy(logits, label)


def _margin(logits: Logits, label: Labels, _: Labels) -> PerExample:
    return logit.margin(logits, label)


ATTACKS: dict[str, Callable[[Threat, int, Any], Trial]] = {
    "apgd-ce": lambda t, k, c: autoattack.apgd_ce(t, steps=c.steps, restarts=c.restarts, compat=c.compat),
    "apgd-dlr": lambda t, k, c: autoattack.apgd_dlr(
        t, classes=k, steps=c.steps, restarts=c.restarts, compat=c.compat
    ),
    "apgd-t": lambda t, k, c: autoattack.apgd_targeted(
        t, classes=k, steps=c.steps, restarts=c.restarts, compat=c.compat
    ),
    "fab": lambda t, k, c: autoattack.fab_untargeted(t, classes=k, steps=c.steps, restarts=c.restarts),
    "fab-t": lambda t, k, c: autoattack.fab_targeted(t, classes=k, steps=c.steps, restarts=c.restarts),
    "square": lambda t, k, c: autoattack.random_search(t, queries=c.queries, compat=c.compat),
    "pgd-ce": _pgd("pgd-ce", logit.cross_entropy),
    "pgd-margin": _pgd("pgd-margin", logit.margin),
    "pgd-dlr": _pgd("pgd-dlr", logit.dlr),
    "deepfool": lambda t, k, c: Trial(
        "deepfool", deepfool(t, steps=c.steps), lambda z, y, _: leads(z, y), passes=k + 1
    ),
    "ddn": lambda t, k, c: Trial("ddn", ddn(t, steps=c.steps), _cross_entropy),
    "fmn": lambda t, k, c: Trial("fmn", fmn(t, steps=c.steps), _margin),
    "cw": lambda t, k, c: Trial("cw", carlini_wagner(t, searches=5, steps=c.steps), _margin),
    "spsa": lambda t, k, c: Trial(
        "spsa", spsa(t, steps=c.steps, step_size=c.step * t.eps), _margin, passes=257
    ),
}
BLACK_BOX = ("square", "spsa")


def listed(threat: Threat, *, classes: int, cfg: Any) -> tuple[Trial, ...]:
    """List the attacks of the suite."""
    if cfg.suite == "custom":
        return tuple(ATTACKS[name](threat, classes, cfg) for name in cfg.attacks)
    version = {"standard": autoattack.standard, "plus": autoattack.plus, "rand": autoattack.rand}[cfg.suite]
    return version(threat, classes=classes, compat=cfg.compat)
