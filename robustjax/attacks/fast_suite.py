"""The fast suite: near AutoAttack's result, where gradients are sound, for a twelfth of its passes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int8

from robustjax import checks, logit
from robustjax.attacks import attack_comparison, suites
from robustjax.attacks.annealed_pgd import annealed_pgd
from robustjax.attacks.autoattack import Compat, targeted, untargeted
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.flags import Flag
from robustjax.attacks.pma import pma
from robustjax.attacks.square import square
from robustjax.threats import Threat
from robustjax.types import Keys

PMA_STEPS = 10  # of each of its two runs
TARGETS, STEPS = 9, 20  # wrong classes to aim at, and steps at each of them
FIRST = (
    1.0  # the first of these steps, in radii: the start is good, and twice the radius would leave it behind
)
QUERIES = 400  # of the search around the strongest point
MADE = 1000  # queries that it counts as made: its windows begin at a fortieth of the image


def fast(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of the fast suite: each begins where the ones before ended.

    PMA from two random starts; annealed PGD on the targeted margin from the strongest point so far, at the wrong
    classes in the order of their logits there; Square from the strongest point so far, with small windows.

    Of an image that stays robust it asks 827 passes with ten classes, where the standard suite asks 9,721. Numbers of
    steps were chosen on networks of digits, MNIST and Fashion-MNIST. On others it agreed with standard on all of 359
    images of digits, and on 986 of 1,000 of an MNIST network with masked gradients, where it was 0.8 points higher.

    Args:
      threat: where adversarial points may lie, in linf or l2.
      classes: how many logits there are.
      compat: must be None: nobody has published this suite.
    Raises:
      ValueError: for another norm, fewer than two classes, or a compat.

    Reference: PMA: Xie et al. 2024, arXiv:2411.15210; Square: Andriushchenko et al. 2020, arXiv:1912.00049; what it is
      measured by: Croce and Hein 2020, arXiv:2003.01690. The combination is ours.
    """
    checks.threat("fast", threat, l0=True)
    if threat.norm not in ("linf", "l2"):
        raise ValueError(
            f"fast: norm is {threat.norm!r}, must be 'linf' or 'l2'; for {threat.norm} use standard"
        )
    if compat is not None:
        raise ValueError(f"fast: compat is {compat!r}, must be None: there is no published suite")
    checks.count("fast", "classes", classes, least=2)
    return pma(threat, steps=PMA_STEPS), at_targets(threat, classes=classes), around(threat)


def at_targets(threat: Threat, *, classes: int, targets: int = TARGETS, steps: int = STEPS) -> Case:
    """Ascend the targeted margin by annealed PGD from the strongest point of the cases before.

    Args:
      threat: in linf, l2 or l1.
      classes: how many logits there are.
      targets: wrong classes to aim at, by falling logit at that point.
      steps: at each of them.
    """

    def start(keys: Keys, rows: Rows, x: Array) -> Any:
        again = annealed_pgd(threat, steps=steps, first=FIRST, start=lambda key, z: rows.best)
        return again.init(keys, x)

    return targeted(
        "targets",
        annealed_pgd(threat, steps=steps, first=FIRST),
        logit.targeted_margin,
        targets=min(targets, classes - 1),
        start=start,
        warm_start=True,
    )


def around(threat: Threat, *, queries: int = QUERIES, made: int = MADE) -> Case:
    """Search at random from the strongest point of the cases before.

    It asks for values only, but how far it comes hangs on the gradients that led to its start: for the gradient-masking
    checks that compare margins it is no attack without gradients. What it alone breaks `searched` counts.

    Args:
      threat: in linf, l2 or l1.
      queries: of Square.
      made: how many count as made, which decides the size of the windows.
    """

    def start(keys: Keys, rows: Rows, x: Array) -> Any:
        return square(threat, queries=queries, start=lambda key, z: rows.best, made=made).init(keys, x)

    solver = square(threat, queries=queries, made=made)
    return untargeted("square-best", solver, logit.margin, passes=1, start=start, warm_start=True)


def standard_passes(threat: Threat, *, classes: int) -> int:
    """Count the forward and backward passes that the standard suite makes of every image that stays robust."""
    return sum(case.whole for case in suites.standard(threat, classes=classes))


def searched(outcome: Int8[np.ndarray, "a n"]) -> Flag:
    """Look for images that the search around the strongest point breaks and the gradients before it do not.

    Args:
      outcome: of the suite's cases, in their order: 1 misclassified, 0 robust, -1 not run.
    """
    return attack_comparison.alone(outcome[-1:], outcome[:-1])


def not_enough(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """Say, where a check of network or gradients raised a flag, that the fast suite is not enough."""
    raised = [flag.name for flag in flags if flag.raised]
    if not raised:
        return ()
    says = (
        f"{', '.join(raised)}: the fast suite is made for sound gradients and is not enough here; run the standard "
        "suite, and plus where that raises a flag too"
    )
    return (Flag("fast is not enough", True, says, {}),)
