"""The fast suite: AutoAttack's result, on networks whose gradients are sound, for a tenth of its passes."""

from collections.abc import Sequence

from jaxtyping import Array

from robustjax import checks, logit
from robustjax.attacks import suites
from robustjax.attacks.autoattack import Apgd, Compat, apgd_ce, untargeted
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.flags import Flag
from robustjax.attacks.square import square
from robustjax.threats import Threat
from robustjax.types import Keys

TARGETS = 9
STEPS = 25  # of every run along gradients
QUERIES = 300  # of the search around the strongest point
MADE = 200  # queries that it counts as made: its first windows cover a tenth of the image


def fast(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of the fast suite.

    APGD on cross-entropy; APGD on the targeted DLR loss, with the wrong classes in the order of their logits at the
    strongest point so far; then Square from the strongest point so far, with small windows.

    Args:
      threat: where adversarial points may lie, in linf or l2.
      classes: how many logits there are.
      compat: must be None: nobody has published this suite.
    Raises:
      ValueError: for another norm, fewer than two classes, or a compat.
    """
    checks.threat("fast", threat, l0=True)
    if threat.norm not in ("linf", "l2"):
        raise ValueError(
            f"fast: norm is {threat.norm!r}, must be 'linf' or 'l2'; for {threat.norm} use standard"
        )
    if compat is not None:
        raise ValueError(f"fast: compat is {compat!r}, must be None: there is no published suite")
    checks.count("fast", "classes", classes, least=2)
    targets = Apgd(STEPS, False, None, classes, best_first=True)
    return (
        apgd_ce(threat, classes=classes, steps=STEPS),
        targets.case(threat, "apgd-t", 2, restarts=1, targets=min(TARGETS, classes - 1)),
        around(threat),
    )


def around(threat: Threat, *, queries: int = QUERIES, made: int = MADE) -> Case:
    """Search at random from the strongest point of the cases before.

    It asks for values only, but what it finds hangs on the gradients that led to its start: for the gradient-masking
    checks it is no attack without gradients.

    Args:
      threat: in linf or l2.
      queries: of Square.
      made: how many count as made, which decides the size of the windows.
    """

    def start(keys: Keys, rows: Rows, x: Array):
        return square(threat, queries=queries, start=lambda key, z: rows.best, made=made).init(keys, x)

    solver = square(threat, queries=queries, made=made)
    return untargeted("square-best", solver, logit.margin, passes=1, start=start, warm_start=True)


def standard_passes(threat: Threat, *, classes: int) -> int:
    """Count the forward and backward passes that the standard suite makes of every image that stays robust."""
    return sum(case.whole for case in suites.standard(threat, classes=classes))


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
