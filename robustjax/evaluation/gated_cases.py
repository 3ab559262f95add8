"""Cases against a defence behind a gate: the attacks of a strict evaluation, by what the adversary knows.

TM0 knows f alone. TM1 asks the defence for values. TM2 knows f and T. TM3 knows everything. TM4 knows an
independent training of the defence. TM3 includes what all others find.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from robustjax import checks
from robustjax.attacks import gated_objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.case import Case
from robustjax.attacks.gated_objectives import AttackParameters, Surrogate
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.solver import Solver
from robustjax.attacks.spsa import spsa
from robustjax.attacks.square import square
from robustjax.attacks.starts import at_origin
from robustjax.evaluation.defences import GatedParameters, GatedProgram
from robustjax.threats import Threat

Search = Callable[[Threat, int], Solver]


def even(threat: Threat, steps: int) -> Solver:
    """Follow PGD with steps of eps / 20, or longer where 20 of them are more than there are."""
    checks.threat("gated_cases", threat)
    return pgd_solver(threat, steps=steps, step_size=threat.eps * max(1 / 20, 2.5 / steps))


def single(threat: Threat, steps: int) -> Solver:
    """Follow FGSM: one step to the edge, from the image itself."""
    checks.threat("gated_cases", threat)
    return pgd_solver(threat, steps=steps, step_size=threat.eps, start=at_origin)


def auto(threat: Threat, steps: int) -> Solver:
    """Follow APGD."""
    return apgd(threat, steps=steps)


def asking(threat: Threat, steps: int) -> Solver:
    """Follow Square."""
    return square(threat, queries=steps)


def estimating(threat: Threat, steps: int) -> Solver:
    """Follow SPSA, with 32 pairs of values and steps of eps / 10."""
    # Values of few pairs at once stay in the caches of a CPU.
    return spsa(threat, steps=steps, samples=32, step_size=threat.eps * 0.1, chunk_size=4)


@dataclasses.dataclass(frozen=True)
class GatedCase:
    """One search with one setting; `cases_of` turns those of one attack into cases of the runner.

    Attributes:
      attack: the name it is reported under; searches of one name add up.
      model: TM0 to TM4.
      surrogate, search, steps: what is ascended, how, and how long.
      loss: of `gated_objectives.LOSSES`.
      penalty, warmth, mix: of `gated_objectives.AttackParameters`.
      rank: which of the likeliest wrong classes is the target, or which nearest image is matched.
      slope: of the translator: its own, or that of the identity (BPDA).
      anneal: how many times wider the soft gate begins.
      goal: where a search stops: once the defence errs, once it errs unseen by the gate, or at its end.
      from_source: whether the attack sees the source alone.
    """

    attack: str
    model: Literal["TM0", "TM1", "TM2", "TM3", "TM4"]
    surrogate: Surrogate
    search: Search = auto
    steps: int = 100
    loss: str = "margin"
    penalty: float = 0.0
    warmth: float = 0.05
    mix: float = 0.0
    rank: int = 0
    slope: Literal["exact", "identity"] = "exact"
    anneal: float = 1.0
    goal: Literal["wrong", "unseen", "end"] = "wrong"
    from_source: bool = False

    def program(self, samples: int | None, chunk_size: int | None = None) -> GatedProgram:
        """Collect what decides which program runs; `samples` are the draws of a random translator to average."""
        return GatedProgram(
            self.surrogate,
            self.search,
            self.steps,
            self.slope,
            self.anneal,
            samples,
            self.from_source,
            self.goal == "end",
            self.model == "TM1",
            chunk_size,
        )


def cases_of(
    plan: Sequence[GatedCase],
    threat: Threat,
    *,
    samples: int | None = None,
    chunk_size: int | None = None,
) -> tuple[Case, ...]:
    """Turn the searches of one attack into cases, in this order; neighbours of one program are runs of one case.

    Their random numbers hang on their place in the attack.

    Args:
      plan: searches of one name and one goal.
      threat: where points may lie.
      samples: draws of a random translator to average; None to fix the draw.
      chunk_size: of them at a time, all by default.
    """
    groups: list[list[int]] = []
    for place, one in enumerate(plan):
        same = place > 0 and one.program(samples) == plan[place - 1].program(samples) and one.goal != "end"
        if same:
            groups[-1].append(place)
        else:
            groups.append([place])
    return tuple(_case([plan[i] for i in places], places, threat, samples, chunk_size) for places in groups)


def _case(
    some: Sequence[GatedCase],
    places: Sequence[int],
    threat: Threat,
    samples: int | None,
    chunk_size: int | None,
) -> Case:
    program = some[0].program(samples, chunk_size)
    numbers = {
        name: np.array([getattr(one, name) for one in some], np.float32)
        for name in ("penalty", "warmth", "mix")
    }
    losses = np.stack([np.asarray(gated_objectives.only(one.loss)) for one in some])
    settings = AttackParameters(losses, slack=np.full(len(some), 0.02, np.float32), **numbers)
    ranks = np.array([one.rank for one in some], np.int32)
    return program(threat)._replace(
        name=f"{some[0].attack} {places[0]}: {some[0].surrogate.__name__}",
        runs=len(some),
        parameters=GatedParameters(settings, ranks, np.array(places, np.int32)),
        program=program,
    )


def goal_of(plan: Sequence[GatedCase]) -> float:
    """Give the merit beyond which an example needs no further search of an attack.

    Raises:
      ValueError: if its searches differ in this.
    """
    goals = {0.5 * gated_objectives.UNSEEN if one.goal == "unseen" else 0.0 for one in plan}
    if len(goals) > 1:
        raise ValueError(f"evaluate: the searches of {plan[0].attack} have several goals, must have one")
    return goals.pop()


def static(steps: int = 40) -> tuple[GatedCase, ...]:
    """TM0: FGSM, PGD and APGD on f alone, replayed on the defence."""
    return tuple(
        GatedCase(name, "TM0", gated_objectives.oblivious, search, length, "cross-entropy", goal="end")
        for name, search, length in (
            ("FGSM on f", single, 1),
            ("PGD on f", even, steps),
            ("APGD on f", auto, steps),
        )
    )


def adaptive(
    classes: int,
    *,
    steps: int = 100,
    restarts: int = 5,
    penalties: tuple[float, ...] = (1.5, 15.0, 150.0),
    queries: int = 5000,
    estimates: int = 100,
    matches: int = 3,
    targets: int | None = None,
    spare: int = 1,
) -> tuple[GatedCase, ...]:
    """TM1 to TM3: the attacks A1 to A7.

    Args:
      classes: k.
      steps: of every run along gradients, and half as many again for selective and orthogonal PGD.
      restarts: of cross-entropy in A1, and of selective PGD; the other losses and attacks make `spare`.
      penalties: of A2 and A3, per unit of gap: with a gap in units of the threshold of a distance of some 15, these are
        0.1, 1 and 10 per unit of distance.
      queries: of Square; 0 for none.
      estimates: of SPSA; 0 for none.
      matches: nearest images of other classes whose features A6 matches; 0 for none.
      targets: of targeted DLR; all wrong classes by default, 0 for none.
      spare: restarts of what is not named above.
    """
    targets = classes - 1 if targets is None else min(targets, classes - 1)
    long = steps + steps // 2
    plain = ("cross-entropy", "margin", "dlr")

    def losses(attack: str, model: Any, surrogate: Surrogate, **more: Any) -> list[GatedCase]:
        """Try every loss, the surest first: restarts and targets change only keys and arguments."""
        first = [
            GatedCase(attack, model, surrogate, steps=steps, loss=loss, **more) for loss in plain
        ] * spare
        ranks = range(targets)
        return first + [
            GatedCase(attack, model, surrogate, steps=steps, loss="targeted dlr", rank=r, **more)
            for r in ranks
        ]

    def hidden(surrogate: Surrogate, **more: Any) -> list[GatedCase]:
        return [
            GatedCase("A3 gate bypass", "TM3", surrogate, goal="unseen", loss=loss, **more)
            for loss in ("margin", "cross-entropy")
        ]

    a1 = [
        *losses("A1 through translator", "TM3", gated_objectives.through),
        *[
            GatedCase(
                "A1 through translator", "TM3", gated_objectives.through, steps=steps, loss="cross-entropy"
            )
        ]
        * (restarts - spare),
    ]
    a2 = [
        GatedCase("A2 forced routing", "TM3", gated_objectives.forced, steps=steps, loss=loss, penalty=c)
        for c in penalties
        for loss in plain[:2]
    ]
    a3 = [
        *hidden(gated_objectives.selective, search=even, steps=long),
        *hidden(gated_objectives.orthogonal, search=even, steps=long),
        *(
            one
            for c in penalties
            for one in hidden(gated_objectives.unseen, search=auto, steps=steps, penalty=c)
        ),
        *hidden(gated_objectives.selective, search=even, steps=long)[:1] * (restarts - 1),
    ]
    a4 = [
        GatedCase("A4 soft gate", "TM3", gated_objectives.softened, even, steps, loss, mix=mix, anneal=10.0)
        for mix in (0.0, 1.0)
        for loss in plain
    ]
    a5 = losses("A5 BPDA identity", "TM3", gated_objectives.through, slope="identity")
    a6 = [
        GatedCase("A6 feature matching", "TM3", gated_objectives.matched, steps=steps, rank=r)
        for r in range(matches)
    ]
    a7 = [GatedCase("A7 Square", "TM1", gated_objectives.asked, asking, queries)] * bool(queries)
    a7 += [GatedCase("A7 SPSA", "TM1", gated_objectives.asked, estimating, estimates)] * bool(estimates)
    tm2 = [
        GatedCase("f and T, gate unknown", "TM2", gated_objectives.either_way, auto, steps, loss, goal="end")
        for loss in ("margin", "cross-entropy")
    ]
    return (*a1, *a2, *a3, *a4, *a5, *a6, *a7, *tm2)


def transferred(steps: int = 100) -> tuple[GatedCase, ...]:
    """TM4: A1, selective A3 and A4 on another training, run to their ends, evaluated on the defence."""
    long = steps + steps // 2  # as in `adaptive`, so that its programs serve here too
    kinds = (
        (gated_objectives.through, auto, steps, 1.0),
        (gated_objectives.selective, even, long, 1.0),
        (gated_objectives.softened, even, steps, 10.0),
        (gated_objectives.either_way, auto, steps, 1.0),
    )
    return tuple(
        GatedCase(
            "transfer from another training",
            "TM4",
            surrogate,
            search,
            length,
            anneal=wide,
            goal="end",
            from_source=True,
        )
        for surrogate, search, length, wide in kinds
    )


def at_radius_one(steps: int) -> tuple[GatedCase, ...]:
    """List what is enough to break a defence where everything is allowed, of the programs of `adaptive`.

    A3 comes first, so that it tries all images also where the others are tried on what is left.
    """
    long = steps + steps // 2
    return (
        GatedCase("A3 gate bypass", "TM3", gated_objectives.selective, even, long, goal="unseen"),
        GatedCase("A3 gate bypass", "TM3", gated_objectives.unseen, steps=steps, penalty=15.0, goal="unseen"),
        GatedCase("A1 through translator", "TM3", gated_objectives.through, steps=steps),
        GatedCase("A4 soft gate", "TM3", gated_objectives.softened, even, steps, anneal=10.0),
    )


def on_the_classifier(case: GatedCase) -> GatedCase:
    """Turn A1 against a classifier without a gate: nothing is translated, so what goes through is the classifier."""
    return dataclasses.replace(case, surrogate=gated_objectives.unseen)
