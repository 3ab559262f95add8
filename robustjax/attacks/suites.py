"""Suites by the norm of the threat: AutoAttack's, and in l0 our own."""

from robustjax.attacks import autoattack, l0_suite
from robustjax.attacks.autoattack import Compat
from robustjax.attacks.case import Case
from robustjax.threats import Threat


def standard(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of AutoAttack's standard version, in l0 those of `l0_suite.standard`.

    Args:
      threat, classes, compat: as for these.
    Raises:
      ValueError: as these.
    """
    chosen = l0_suite.standard if threat.norm == "l0" else autoattack.standard
    return chosen(threat, classes=classes, compat=compat)
