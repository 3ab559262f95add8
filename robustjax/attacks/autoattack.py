"""AutoAttack: suites of attacks, as data, and what one of them is."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from robustjax import logit
from robustjax.attacks.apgd import apgd, apgd_shrinking
from robustjax.attacks.compose import best_of, wrong_classes
from robustjax.attacks.fab import boundary, leads
from robustjax.attacks.solver import Judged, Solver, classified, select
from robustjax.attacks.square import square
from robustjax.attacks.starts import halfway
from robustjax.numerics import constant, fold, keys_for
from robustjax.threats import Threat
from robustjax.types import Attack, Found, Labels, Logits, LogitsFn

Climbed = Callable[[Logits, Labels, Labels], Array]  # (logits, label, target) -> what the solver climbs
Compat = Literal["official"] | None


class Trial(NamedTuple):
    """One attack of a suite: a solver, what it climbs, at how many targets it aims and how often it starts.

    It makes `runs` runs per image, the restarts of the likeliest wrong class first. Points are kept by their
    margin, so an attack at a target also counts what it pushed into another class.

    Attributes:
      name: unique within a suite; the random numbers of a trial depend on it and not on its place.
      targets: wrong classes to aim at, by falling logit at the image; 0 for an untargeted attack.
      first: draws the start of the first restart, where it differs from that of the others.
      passes: forward and backward passes per step, to tell how long the rest takes.
      note: where it differs from what its name promises.
    """

    name: str
    solver: Solver
    loss: Climbed
    targets: int = 0
    restarts: int = 1
    first: Solver | None = None
    passes: int = 2
    note: str = ""

    @property
    def runs(self) -> int:
        """How many runs an image costs that resists them all."""
        return max(self.targets, 1) * self.restarts

    def objective(self, logits_fn: LogitsFn, y: Labels, target: Labels) -> Judged:
        """Say what a run climbs, and the margin by which points are kept."""
        return classified(logits_fn, y, lambda logits, y: self.loss(logits, y, target))

    def init(self, keys: PRNGKeyArray, run: Int[Array, "b"], x: Array) -> Any:
        """Draw the start of a run for each example, from one key per example."""
        own = jax.vmap(jax.random.fold_in)(fold(keys, zlib.crc32(self.name.encode())), run)
        state = self.solver.init(own, x)
        if self.first is None:
            return state
        return select(run % self.restarts == 0, self.first.init(own, x), state)


def standard(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Trial, ...]:
    """List the attacks of AutoAttack's standard version.

    Linf and l2: APGD on cross-entropy, APGD on the targeted DLR loss at 9 targets, FAB at 9 targets, Square with
    5000 queries. L1: five restarts of APGD through shrinking balls, the same at 5 targets, then as above.

    Args:
      threat: where adversarial points may lie.
      classes: how many logits there are; decides the targets, and the loss where DLR is undefined.
      compat: "official" is passed on to APGD and Square.
    Raises:
      ValueError: for fewer than two classes, or an unknown compat.

    Reference: Croce and Hein 2020, arXiv:2003.01690; l1: 2021, arXiv:2103.01208. With fewer than four classes
      the authors' code fails; here the margin takes the place of DLR and `note` says so.
    """
    shrinking = threat.norm == "l1"
    return (
        apgd_ce(threat, restarts=5 if shrinking else 1, shrinking=shrinking, compat=compat),
        apgd_targeted(
            threat, classes=classes, targets=5 if shrinking else 9, shrinking=shrinking, compat=compat
        ),
        fab_targeted(threat, classes=classes),
        random_search(threat, compat=compat),
    )


def plus(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Trial, ...]:
    """List the attacks of the plus version: more restarts, untargeted DLR and FAB besides.

    Args:
      threat, classes, compat: as for `standard`.
    Raises:
      ValueError: in l1, for which the version was not made (the authors' code runs it without the l1 recipe;
        compat="official" does so too), and as for `standard`.

    Reference: Croce and Hein 2020, arXiv:2003.01690.
    """
    if threat.norm == "l1" and compat != "official":
        raise ValueError("plus: norm is 'l1', must be 'linf' or 'l2'; for l1 use standard")
    return (
        apgd_ce(threat, restarts=5, compat=compat),
        apgd_dlr(threat, classes=classes, restarts=5, compat=compat),
        fab_untargeted(threat, classes=classes, restarts=5),
        random_search(threat, compat=compat),
        apgd_targeted(threat, classes=classes, compat=compat),
        fab_targeted(threat, classes=classes),
    )


def rand(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Trial, ...]:
    """List the attacks for randomised classifiers: APGD on cross-entropy and on DLR.

    Attack the mean logits of 20 passes, `adaptive.averaged(stochastic, key, passes=20)`, not one random pass.

    Args:
      threat, classes, compat: as for `standard`.

    Reference: Croce and Hein 2020, arXiv:2003.01690. The authors' code averages gradients but takes logits,
      losses and verdicts from one pass; here all see the mean.
    """
    return apgd_ce(threat, compat=compat), apgd_dlr(threat, classes=classes, compat=compat)


def apgd_ce(
    threat: Threat, *, steps: int = 100, restarts: int = 1, shrinking: bool = False, compat: Compat = None
) -> Trial:
    """Climb cross-entropy by APGD, in l1 optionally through shrinking balls."""
    solver = (apgd_shrinking if shrinking else apgd)(threat, steps=steps, compat=compat)
    return Trial("apgd-ce", solver, lambda z, y, _: logit.cross_entropy(z, y), restarts=restarts)


def apgd_dlr(
    threat: Threat, *, classes: int, steps: int = 100, restarts: int = 1, compat: Compat = None
) -> Trial:
    """Climb the DLR loss by APGD; the margin with two classes."""
    _check_classes("apgd_dlr", classes)
    loss, note = (logit.dlr, "") if classes > 2 else (logit.margin, "the margin: DLR needs 3 classes")
    solver = apgd(threat, steps=steps, compat=compat)
    return Trial("apgd-dlr", solver, lambda z, y, _: loss(z, y), restarts=restarts, note=note)


def apgd_targeted(
    threat: Threat,
    *,
    classes: int,
    targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    shrinking: bool = False,
    compat: Compat = None,
) -> Trial:
    """Climb the targeted DLR loss by APGD; the targeted margin with fewer than four classes."""
    _check_classes("apgd_targeted", classes)
    solver = (apgd_shrinking if shrinking else apgd)(threat, steps=steps, compat=compat)
    few = classes < 4
    return Trial(
        "apgd-t",
        solver,
        logit.targeted_margin if few else logit.targeted_dlr,
        min(targets, classes - 1),
        restarts,
        note="the targeted margin: targeted DLR needs 4 classes" if few else "",
    )


def fab_targeted(
    threat: Threat, *, classes: int, targets: int = 9, steps: int = 100, restarts: int = 1
) -> Trial:
    """Look for the nearest point beyond the boundary to each of the likeliest wrong classes."""
    _check_classes("fab_targeted", classes)
    again, first = boundary(threat, steps=steps, start=halfway(threat)), boundary(threat, steps=steps)
    return Trial(
        "fab-t", again, logit.targeted_margin, min(targets, classes - 1), restarts, first=first, passes=3
    )


def fab_untargeted(threat: Threat, *, classes: int, steps: int = 100, restarts: int = 1) -> Trial:
    """Look for the nearest point beyond any boundary, at the cost of one gradient per class."""
    _check_classes("fab_untargeted", classes)
    again, first = boundary(threat, steps=steps, start=halfway(threat)), boundary(threat, steps=steps)
    return Trial(
        "fab", again, lambda z, y, _: leads(z, y), restarts=restarts, first=first, passes=classes + 2
    )


def random_search(threat: Threat, *, queries: int = 5000, compat: Compat = None) -> Trial:
    """Climb the margin by Square, which asks for values only."""
    solver = square(threat, queries=queries, compat=compat)
    return Trial("square", solver, lambda z, y, _: logit.margin(z, y), passes=1)


def worst_case(trials: Sequence[Trial]) -> Attack:
    """Make one attack of a suite: the point of highest margin that any of its runs meets.

    One compiled program, for use inside other programs. It gives broken images no rest; `evaluation.suite` runs
    the same search over a data set, stops there, and can be interrupted.

    Raises:
      ValueError: if there is no trial, or two of the same name.
    """
    check_trials(trials)

    def attack(key: PRNGKeyArray, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        keys, clean = keys_for(key, x.shape[0]), logits_fn(x)
        best = [Found(x, logit.margin(clean, y))]
        for trial in trials:
            # wrong_classes needs at least one column, which untargeted trials ignore.
            ranked = wrong_classes(clean, y, max(trial.targets, 1))

            def once(run: Array, trial: Trial = trial, ranked: Array = ranked) -> Found:
                target = ranked[:, run // trial.restarts] if trial.targets else y
                state = trial.init(keys, constant(x, run, jnp.int32), x)
                judge = trial.objective(logits_fn, y, target)
                return trial.solver.finish(trial.solver.advance(judge, state, trial.solver.length))

            found = jax.lax.map(once, jnp.arange(trial.runs))
            best.append(best_of(found))
        stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *best)
        return jax.lax.stop_gradient(best_of(stacked))

    return attack


def check_trials(trials: Sequence[Trial]) -> None:
    """Refuse a suite that is empty, or in which two trials have one name.

    Raises:
      ValueError: in these cases.
    """
    names = [trial.name for trial in trials]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"autoattack: the trials are {names}, must be at least one, with names of their own")


def _check_classes(name: str, classes: int) -> None:
    if classes < 2:
        raise ValueError(f"{name}: classes is {classes}, must be at least 2")
