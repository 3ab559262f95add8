"""The evaluation attack on the parameters u of a perturbation set, to be sent through the set."""

from robustjax import checks
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.threats import Threat
from robustjax.types import Attack


def worst_case(threat: Threat, *others: Attack, steps: int, restarts: int) -> Attack:
    """Build an attack on u: the worst of PGD on cross-entropy and on the margin, of u = 0, and of other attacks.

    Args:
      threat: of u, such as `space.threat`.
      others: more attacks on u, such as the encoding of a real perturbation.
      steps: of each search, each a twentieth of the radius long.
      restarts: of each search, from random starts.
    Returns:
      An attack on vectors; `sets.attack_through(space, attack)` turns it into one on images.
    """
    checks.threat("worst_case", threat)
    repeated = compose.restarts(pgd(threat, steps=steps, step_size=threat.eps / 20), restarts)
    surrogates = (objectives.cross_entropy, objectives.margin)
    return compose.worst_of(*(compose.against(repeated, surrogate) for surrogate in surrogates), *others)
