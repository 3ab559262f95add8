"""Attacks on classifiers by name, and suites of them.

A user's attack is one function, named as `module:name`. Of `(threat)`, it returns an ascent
`(key, objective, x) -> Found` or a `Solver`, which is run on the margin with `AttackSettings.restarts`; of
`(threat, classes)` it may return a `Case`. An ascent gets one key for each image, `key` of shape (b,), and what it
finds outside the threat is projected onto it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Array

from robustjax import logit
from robustjax.attacks import autoattack, fast_suite, suites
from robustjax.attacks.annealed_pgd import annealed_pgd
from robustjax.attacks.autoattack import Compat, targeted, untargeted
from robustjax.attacks.boundary_attack import boundary_attack
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.case import Case
from robustjax.attacks.ddn import ddn
from robustjax.attacks.deepfool import deepfool
from robustjax.attacks.fab import leads
from robustjax.attacks.fmn import fmn
from robustjax.attacks.geoda import geoda
from robustjax.attacks.hop_skip_jump import hop_skip_jump
from robustjax.attacks.nes import nes
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.pma import pma
from robustjax.attacks.rays import rays
from robustjax.attacks.sigma_zero import sigma_zero
from robustjax.attacks.sign_opt import sign_opt
from robustjax.attacks.simba import simba
from robustjax.attacks.solver import OfLogits, Solver, of_ascent
from robustjax.attacks.sparse_rs import sparse_rs, sparse_rs_frame, sparse_rs_patch
from robustjax.attacks.spsa import spsa
from robustjax.attacks.super_deepfool import super_deepfool
from robustjax.attacks.transferable import at_scales, diverse, momentum_iterative, translated
from robustjax.attacks.vfga import vfga
from robustjax.attacks.zoo import zoo
from robustjax.catalog.names import named
from robustjax.threats import Threat
from robustjax.types import Ascent, Found, Keys, Objective


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """Settings of attacks by name; each takes what it has a use for.

    Attributes:
      steps: iterations of a run.
      step: length of a step of PGD and SPSA, as a share of the radius; in l0 of 64 widths of the box.
      restarts: runs, at each target where there are targets.
      queries: of Square, SimBA, Sparse-RS and searches by decisions.
      compat: "official" as the authors' code does it, bug-compatible.
    """

    steps: int = 100
    step: float = 0.1
    restarts: int = 1
    queries: int = 5000
    compat: Compat = None


Build = Callable[[Threat, int, AttackSettings], Case]  # (threat, classes, settings)


def _pgd(name: str, loss: OfLogits) -> Build:
    def build(threat: Threat, classes: int, its: AttackSettings) -> Case:
        del classes
        solver = pgd_solver(threat, steps=its.steps, step_size=its.step * threat.step_unit)
        return untargeted(name, solver, loss, restarts=its.restarts)

    return build


def _travelling(name: str, *, gradients: int = 1, **settings: Any) -> Build:
    def build(threat: Threat, classes: int, its: AttackSettings) -> Case:
        del classes
        solver = momentum_iterative(
            threat, steps=its.steps, step_size=its.step * threat.eps, keep="best", **settings
        )
        passes = 1 + 2 * gradients  # each forth and back, and a look at the point itself
        return untargeted(name, solver, logit.cross_entropy, restarts=its.restarts, passes=passes)

    return build


def _by_queries(name: str, search: Callable[..., Solver]) -> Build:
    def build(threat: Threat, classes: int, its: AttackSettings) -> Case:
        del classes
        solver = search(threat, queries=its.queries)
        return untargeted(name, solver, logit.margin, restarts=its.restarts, passes=1, black_box=True)

    return build


ATTACKS: dict[str, Build] = {
    "apgd-ce": lambda t, k, s: autoattack.apgd_ce(
        t, classes=k, steps=s.steps, restarts=s.restarts, compat=s.compat
    ),
    "apgd-dlr": lambda t, k, s: autoattack.apgd_dlr(
        t, classes=k, steps=s.steps, restarts=s.restarts, compat=s.compat
    ),
    "apgd-t": lambda t, k, s: autoattack.apgd_targeted(
        t, classes=k, steps=s.steps, restarts=s.restarts, compat=s.compat
    ),
    "fab": lambda t, k, s: autoattack.fab_untargeted(
        t, classes=k, steps=s.steps, restarts=s.restarts, compat=s.compat
    ),
    "fab-t": lambda t, k, s: autoattack.fab_targeted(
        t, classes=k, steps=s.steps, restarts=s.restarts, compat=s.compat
    ),
    "square": lambda t, k, s: autoattack.random_search(t, queries=s.queries, compat=s.compat),
    "pgd-ce": _pgd("pgd-ce", logit.cross_entropy),
    "pgd-margin": _pgd("pgd-margin", logit.margin),
    "pgd-dlr": _pgd("pgd-dlr", logit.dlr),
    "pma": lambda t, k, s: pma(t, steps=s.steps, restarts=s.restarts),
    "multi-targeted": lambda t, k, s: targeted(
        "multi-targeted",
        annealed_pgd(t, steps=s.steps),
        logit.targeted_margin,
        targets=min(k - 1, 9),
        restarts=s.restarts,
    ),
    "deepfool": lambda t, k, s: untargeted("deepfool", deepfool(t, steps=s.steps), leads, passes=k + 1),
    "sdf": lambda t, k, s: untargeted("sdf", super_deepfool(t, steps=s.steps), leads, passes=k + 1),
    "ddn": lambda t, k, s: untargeted("ddn", ddn(t, steps=s.steps), logit.cross_entropy),
    "fmn": lambda t, k, s: untargeted("fmn", fmn(t, steps=s.steps), logit.margin),
    "cw": lambda t, k, s: untargeted("cw", carlini_wagner(t, searches=5, steps=s.steps), logit.margin),
    "sigma-zero": lambda t, k, s: untargeted("sigma-zero", sigma_zero(t, steps=s.steps), logit.margin),
    "vfga": lambda t, k, s: untargeted("vfga", vfga(t, steps=s.steps), logit.cross_entropy, passes=32),
    "sparse-rs": _by_queries("sparse-rs", sparse_rs),
    "sparse-rs-patch": _by_queries("sparse-rs-patch", sparse_rs_patch),
    "sparse-rs-frame": _by_queries("sparse-rs-frame", sparse_rs_frame),
    "spsa": lambda t, k, s: untargeted(
        "spsa", spsa(t, steps=s.steps, step_size=s.step * t.eps), logit.margin, passes=257, black_box=True
    ),
    "nes": lambda t, k, s: untargeted(
        "nes", nes(t, steps=s.steps, step_size=s.step * t.eps), logit.margin, passes=51, black_box=True
    ),
    "zoo": lambda t, k, s: untargeted(
        "zoo", zoo(t, steps=s.steps, step_size=s.step * t.eps), logit.margin, passes=257, black_box=True
    ),
    "mi": _travelling("mi"),
    "ni": _travelling("ni", look_ahead=True),
    "di": _travelling("di", gradient=diverse()),
    "ti": _travelling("ti", gradient=translated()),
    "si-ni": _travelling("si-ni", gradients=5, look_ahead=True, gradient=at_scales()),
    "vmi": _travelling("vmi", gradients=6, neighbours=5),
    "simba": _by_queries("simba", simba),
    "hsj": _by_queries("hsj", hop_skip_jump),
    "boundary": _by_queries("boundary", boundary_attack),
    "rays": _by_queries("rays", rays),
    "sign-opt": _by_queries("sign-opt", sign_opt),
    "geoda": _by_queries("geoda", geoda),
}
Suite = Literal["standard", "plus", "rand", "fast", "custom"]
SUITES: dict[str, Callable[..., tuple[Case, ...]]] = {
    "standard": suites.standard,
    "plus": autoattack.plus,
    "rand": autoattack.rand,
    "fast": fast_suite.fast,
}


def attack(
    name: str, threat: Threat, classes: int, settings: AttackSettings, *, flag: str = "--attacks"
) -> Case:
    """Build an attack by name, or the user's as `module:name`.

    Args:
      name: of `ATTACKS`, or `package.module:name` of a function of (threat) or (threat, classes). A case that it
        returns is run as it is; an ascent or a solver maximises the margin, in `settings.restarts` runs.
      threat: where adversarial points may lie.
      classes: how many logits there are.
      settings: of attacks in the table.
      flag: what the name was given to, for the error.
    Raises:
      ValueError: for an unknown name, or a function that returns none of these.
    """
    build: Any = named(ATTACKS, name, flag=flag)
    if name in ATTACKS:
        return build(threat, classes, settings)
    found: Any = build(threat) if len(inspect.signature(build).parameters) == 1 else build(threat, classes)
    if isinstance(found, Case):
        return found
    if not isinstance(found, Ascent):
        raise ValueError(
            f"{flag}: {name} gives {type(found).__name__}, must give (key, objective, x) -> Found, a Solver or a Case"
        )
    solver = found if isinstance(found, Solver) else of_ascent(_within(threat, found, who=f"{flag}: {name}"))
    return untargeted(name.rpartition(":")[2], solver, logit.margin, restarts=settings.restarts)


def _within(threat: Threat, search: Ascent, *, who: str) -> Ascent:
    """Keep what a user's search finds in the threat, and say how it is called where it fails."""

    def ascent(key: Keys, objective: Objective, x: Array) -> Found:
        try:
            found: Any = search(key, objective, x)
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(
                f"{who} fails: {type(error).__name__}: {first}; it is called as (key, objective, x) with images x of "
                f"shape {x.shape} and a key for each, of shape {key.shape}: draw by threat.sample(key, x), or by "
                "jax.vmap(lambda one: jax.random.normal(one, x.shape[1:]))(key)"
            ) from error
        shape = getattr(getattr(found, "x", None), "shape", None)
        if shape != x.shape:
            raise ValueError(
                f"{who} returns {type(found).__name__ if shape is None else f'points of shape {shape}'} for images of "
                f"shape {x.shape}, must return types.Found(x, value) with as many points"
            )
        return Found(threat.project(found.x.astype(x.dtype), x), found.value)

    return ascent


def suite(
    name: str, threat: Threat, classes: int, *, attacks: Sequence[str] = (), settings: AttackSettings
) -> tuple[Case, ...]:
    """Build a suite by name, in l0 for "standard" one of its own; for "custom" the `attacks` in this order."""
    if name == "custom":
        return tuple(attack(one, threat, classes, settings) for one in attacks)
    return SUITES[name](threat, classes=classes, compat=settings.compat)
