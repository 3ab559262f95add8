"""AutoAttack: suites of attacks, as data."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks, logit
from robustjax.attacks.apgd import apgd, apgd_shrinking
from robustjax.attacks.case import Case, Rows, check_cases, rows_of
from robustjax.attacks.compose import best_of, wrong_classes
from robustjax.attacks.fab import boundary, leads
from robustjax.attacks.solver import (
    OfLogits,
    Solver,
    ValueAndMerit,
    check_loss,
    checked_attack,
    classified,
    select,
)
from robustjax.attacks.square import square
from robustjax.attacks.starts import halfway
from robustjax.numerics import keys_for
from robustjax.threats import Threat
from robustjax.types import Attack, Found, Keys, Labels, Logits, LogitsFn

TargetedLoss = Callable[[Logits, Labels, Labels], Array]  # (logits, label, target), to be ascended
Compat = Literal["official"] | None


class Rank(NamedTuple):
    """Parameters of runs that aim at a class: its place among the wrong ones by falling logit at the image."""

    rank: Any


class Ascended(NamedTuple):
    """Parameters of APGD's runs.

    Attributes:
      loss: the number of the loss in `Apgd.losses`.
      rank: of the target, where the loss has one.
    """

    loss: Any
    rank: Any


class Apgd(NamedTuple):
    """APGD on a loss that is chosen at run time, so that all cases of a suite share one program.

    Attributes:
      steps, shrinking, compat: of the solver.
      classes: how many logits there are; it decides which losses are defined.
    """

    steps: int
    shrinking: bool
    compat: Compat
    classes: int | None  # None where only cross-entropy is wanted

    @property
    def losses(self) -> tuple[TargetedLoss, ...]:
        """List cross-entropy, DLR and targeted DLR, or the margin in their place."""
        if self.classes is None:
            return (_without_target(logit.cross_entropy),)
        return (
            _without_target(logit.cross_entropy),
            _without_target(logit.dlr if self.classes > 2 else logit.margin),
            logit.targeted_dlr if self.classes > 3 else logit.targeted_margin,
        )

    def __call__(self, threat: Threat) -> Case:
        """Build the case without its name and runs."""
        solver = (apgd_shrinking if self.shrinking else apgd)(threat, steps=self.steps, compat=self.compat)

        def objective(logits_fn: LogitsFn, rows: Rows) -> ValueAndMerit:
            target, losses = _target(rows), self.losses

            def loss(logits: Logits, y: Labels) -> Array:
                # All runs of a case have the same loss. A branch, unlike a sum with zeros, leaves its gradient alone.
                return jax.lax.switch(rows.parameters.loss[0], losses, logits, y, target)

            return classified(logits_fn, rows.data, loss)

        return Case("apgd", solver, objective)

    def case(
        self, threat: Threat, name: str, loss: int, *, restarts: int, targets: int = 1, note: str = ""
    ) -> Case:
        """Build a case that aims at the likeliest wrong classes, all restarts of one before the next."""
        ranks = np.repeat(np.arange(targets, dtype=np.int32), restarts)
        parameters = Ascended(np.full(len(ranks), loss, np.int32), ranks)
        return self(threat)._replace(
            name=name, runs=len(ranks), parameters=parameters, program=self, note=note
        )


def _without_target(loss: OfLogits) -> TargetedLoss:
    return lambda logits, y, target: loss(logits, y)


def _target(rows: Rows) -> Labels:
    ranked = (rows.clean if rows.at_best is None else rows.at_best)["ranked"]
    rank = jnp.minimum(rows.parameters.rank, ranked.shape[1] - 1)
    return jnp.take_along_axis(ranked, rank[:, None], axis=1)[:, 0]


def untargeted(name: str, solver: Solver, loss: OfLogits, *, restarts: int = 1, **settings: Any) -> Case:
    """Make a case on a classifier: ascend a loss of the logits, keep points by their margin.

    Args:
      name: of the case.
      solver: the search.
      loss: (logits, label) -> what is ascended.
      restarts: runs, with random numbers of their own.
      settings: `passes`, `start`, `black_box`, `warm_start` and `note` of `Case`.
    Raises:
      ValueError: for a loss that is not `signed` where the solver needs that.
    """
    check_loss(solver, loss)

    def objective(logits_fn: LogitsFn, rows: Rows) -> ValueAndMerit:
        return classified(logits_fn, rows.data, loss)

    return Case(name, solver, objective, restarts, **settings)


def targeted(
    name: str, solver: Solver, loss: TargetedLoss, *, targets: int, restarts: int = 1, **settings: Any
) -> Case:
    """Make a case on a classifier that aims at the likeliest wrong classes, all restarts of one before the next.

    Points are kept by their margin, so an attack at a target also counts what it pushed into another class.

    Args:
      name, solver, settings: as for `untargeted`.
      loss: (logits, label, target) -> what is ascended.
      targets: wrong classes to aim at, by falling logit at the image.
      restarts: runs at each of them.
    Raises:
      ValueError: as `untargeted`.
    """
    check_loss(solver, loss)

    def objective(logits_fn: LogitsFn, rows: Rows) -> ValueAndMerit:
        target = _target(rows)
        return classified(logits_fn, rows.data, lambda logits, y: loss(logits, y, target))

    ranks = Rank(np.repeat(np.arange(targets, dtype=np.int32), restarts))
    return Case(name, solver, objective, targets * restarts, parameters=ranks, **settings)


def ranked_classes(cases: Sequence[Case]) -> int:
    """Count the wrong classes that have to be ranked for these cases; at least one."""
    ranks = [case.parameters.rank for case in cases if isinstance(case.parameters, Rank | Ascended)]
    return max([1, *(int(np.max(rank, initial=0)) + 1 for rank in ranks)])


def standard(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of AutoAttack's standard version.

    Linf and l2: APGD on cross-entropy, APGD on the targeted DLR loss at 9 targets, FAB at 9 targets, Square with
    5000 queries. L1: five restarts of APGD through shrinking balls, the same at 5 targets, then as above.

    Args:
      threat: where adversarial points may lie.
      classes: how many logits there are; decides the targets, and the loss where DLR is undefined.
      compat: "official" is passed on to APGD, FAB and Square.
    Raises:
      ValueError: for fewer than two classes, an unknown compat, or l0, for which there is `l0_suite.standard`.

    Reference: Croce and Hein 2020, arXiv:2003.01690; l1: 2021, arXiv:2103.01208. With fewer than four classes
      the authors' code fails; here the margin takes the place of DLR and `note` says so.
    """
    checks.threat("standard", threat)
    shrinking = threat.norm == "l1"
    return (
        apgd_ce(threat, classes=classes, restarts=5 if shrinking else 1, shrinking=shrinking, compat=compat),
        apgd_targeted(
            threat, classes=classes, targets=5 if shrinking else 9, shrinking=shrinking, compat=compat
        ),
        fab_targeted(threat, classes=classes, compat=compat),
        random_search(threat, compat=compat),
    )


def plus(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of the plus version: more restarts, untargeted DLR and FAB besides.

    Args:
      threat, classes, compat: as for `standard`.
    Raises:
      ValueError: in l1, for which the version was not made (the authors' code runs it without the l1 recipe;
        compat="official" does so too), and as for `standard`.

    Reference: Croce and Hein 2020, arXiv:2003.01690.
    """
    checks.threat("plus", threat)
    if threat.norm == "l1" and compat != "official":
        raise ValueError("plus: norm is 'l1', must be 'linf' or 'l2'; for l1 use standard")
    return (
        apgd_ce(threat, classes=classes, restarts=5, compat=compat),
        apgd_dlr(threat, classes=classes, restarts=5, compat=compat),
        fab_untargeted(threat, classes=classes, restarts=5, compat=compat),
        random_search(threat, compat=compat),
        apgd_targeted(threat, classes=classes, compat=compat),
        fab_targeted(threat, classes=classes, compat=compat),
    )


def rand(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks for randomised classifiers: APGD on cross-entropy and on DLR.

    Attack the mean logits of 20 passes, `adaptive.averaged(stochastic, key, samples=20)`, not one random pass.

    Args:
      threat, classes, compat: as for `standard`.

    Reference: Croce and Hein 2020, arXiv:2003.01690. The authors' code averages gradients but takes logits,
      losses and predictions from one pass; here all see the mean.
    """
    checks.threat("rand", threat)
    return apgd_ce(threat, classes=classes, compat=compat), apgd_dlr(threat, classes=classes, compat=compat)


def apgd_ce(
    threat: Threat,
    *,
    classes: int | None = None,
    steps: int = 100,
    restarts: int = 1,
    shrinking: bool = False,
    compat: Compat = None,
) -> Case:
    """Ascend cross-entropy by APGD, in l1 optionally through shrinking balls.

    With `classes` it shares its program with `apgd_dlr` and `apgd_targeted` of as many steps.
    """
    if classes is not None:
        _check_classes("apgd_ce", classes)
    return Apgd(steps, shrinking, compat, classes).case(threat, "apgd-ce", 0, restarts=restarts)


def apgd_dlr(
    threat: Threat, *, classes: int, steps: int = 100, restarts: int = 1, compat: Compat = None
) -> Case:
    """Ascend the DLR loss by APGD; the margin with two classes."""
    _check_classes("apgd_dlr", classes)
    note = "" if classes > 2 else "the margin: DLR needs 3 classes"
    return Apgd(steps, False, compat, classes).case(threat, "apgd-dlr", 1, restarts=restarts, note=note)


def apgd_targeted(
    threat: Threat,
    *,
    classes: int,
    targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    shrinking: bool = False,
    compat: Compat = None,
) -> Case:
    """Ascend the targeted DLR loss by APGD; the targeted margin with fewer than four classes."""
    _check_classes("apgd_targeted", classes)
    note = "the targeted margin: targeted DLR needs 4 classes" if classes < 4 else ""
    auto = Apgd(steps, shrinking, compat, classes)
    return auto.case(threat, "apgd-t", 2, restarts=restarts, targets=min(targets, classes - 1), note=note)


def fab_targeted(
    threat: Threat,
    *,
    classes: int,
    targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    compat: Compat = None,
) -> Case:
    """Look for the nearest point beyond the boundary to each of the likeliest wrong classes."""
    _check_classes("fab_targeted", classes)
    return targeted(
        "fab-t",
        boundary(threat, steps=steps, compat=compat),
        logit.targeted_margin,
        targets=min(targets, classes - 1),
        restarts=restarts,
        start=_fab_start(threat, steps, restarts),
        passes=3,
    )


def fab_untargeted(
    threat: Threat, *, classes: int, steps: int = 100, restarts: int = 1, compat: Compat = None
) -> Case:
    """Look for the nearest point beyond any boundary, at the cost of one gradient per class."""
    _check_classes("fab_untargeted", classes)
    return untargeted(
        "fab",
        boundary(threat, steps=steps, compat=compat),
        leads,
        restarts=restarts,
        start=_fab_start(threat, steps, restarts),
        passes=classes + 2,
    )


def _fab_start(threat: Threat, steps: int, restarts: int) -> Callable[[Keys, Rows, Array], Any]:
    """Start the first of the restarts at the image itself, the others at half the radius."""
    again, first = boundary(threat, steps=steps, start=halfway(threat)), boundary(threat, steps=steps)

    def start(keys: Keys, rows: Rows, x: Array) -> Any:
        return select(rows.run % restarts == 0, first.init(keys, x), again.init(keys, x))

    return start


def random_search(threat: Threat, *, queries: int = 5000, compat: Compat = None) -> Case:
    """Ascend the margin by Square, which asks for values only."""
    solver = square(threat, queries=queries, compat=compat)
    return untargeted("square", solver, logit.margin, passes=1, black_box=True)


def worst_case(cases: Sequence[Case]) -> Attack:
    """Make one attack of a suite on a classifier: the point of highest margin that any of its runs meets.

    One compiled program, for use inside other programs. It goes on with misclassified images; `evaluation.suite` runs
    the same search over a data set, stops there, and can be interrupted.

    Raises:
      ValueError: if there is no case, or two of the same name.
    """
    check_cases(cases)

    def attack(key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
        x = jnp.asarray(x).astype(jnp.float32)
        keys, logits = keys_for(key, x.shape[0]), logits_fn(x)
        best = [Found(x, logit.margin(logits, y))]
        width = ranked_classes(cases)
        clean = {"ranked": wrong_classes(logits, y, width)}
        for case in cases:
            so_far, at_best = _strongest(best), clean
            if case.warm_start:
                at_best = {"ranked": wrong_classes(logits_fn(so_far.x), y, width)}

            def once(
                run: Array, case: Case = case, so_far: Found = so_far, at_best: dict[str, Array] = at_best
            ) -> Found:
                rows = rows_of(case, keys, y, clean, run, x, best=so_far.x, at_best=at_best)
                return case.run_whole(logits_fn, rows, x)

            best.append(best_of(jax.lax.map(once, jnp.arange(case.runs))))
        return _strongest(best)

    return checked_attack("worst_case", attack)


def _strongest(found: Sequence[Found]) -> Found:
    return best_of(jax.tree.map(lambda *rows: jnp.stack(rows), *found))


def _check_classes(name: str, classes: int) -> None:
    checks.count(name, "classes", classes, least=2)
