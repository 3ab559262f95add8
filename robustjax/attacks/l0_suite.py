"""The suite for l0, where AutoAttack has none: gradients, the smooth count, and random search."""

from robustjax import checks, logit
from robustjax.attacks.autoattack import Compat, untargeted
from robustjax.attacks.case import Case
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.sigma_zero import sigma_zero
from robustjax.attacks.solver import OfLogits
from robustjax.attacks.sparse_rs import sparse_rs
from robustjax.threats import Threat

STEP = 8.0  # largest change of a feature in a step, in widths of the box; 1 breaks fewer images


def standard(threat: Threat, *, classes: int, compat: Compat = None) -> tuple[Case, ...]:
    """List the attacks of the l0 suite.

    PGD-l0 of 100 steps on cross-entropy and on the margin, five random starts each; sigma-zero with 1,000 steps;
    Sparse-RS with 10,000 queries. It holds no targeted attack, no other search for minimum norms (FMN, VFGA), and
    nothing made for randomised networks. Patches and frames of as many pixels are weaker adversaries and not in it.
    Of the images of digits that some two pixels at corners of the box break, by trying all, it broke 148 of 148 of one
    network and 147 of 148 of another.

    Args:
      threat: how many pixels or features may change, in a finite box.
      classes: how many logits there are.
      compat: must be None: nobody has published such a suite.
    Raises:
      ValueError: for another norm, an infinite box, fewer than two classes, or a compat.

    Reference: Croce and Hein 2019, arXiv:1909.05040; Cina et al. 2024, arXiv:2402.01879; Croce et al. 2022,
      arXiv:2006.12834. The pair of a white-box attack and Sparse-RS is that of Zhong et al. 2024, arXiv:2405.05075.
    """
    if compat is not None:
        raise ValueError(f"standard: compat is {compat!r} in l0, must be None: there is no published suite")
    checks.count("standard", "classes", classes, least=2)
    return (
        pgd_l0(threat, "pgd-ce", logit.cross_entropy),
        pgd_l0(threat, "pgd-margin", logit.margin),
        untargeted("sigma-zero", sigma_zero(threat), logit.margin),
        random_pixels(threat),
    )


def pgd_l0(threat: Threat, name: str, loss: OfLogits, *, steps: int = 100, restarts: int = 5) -> Case:
    """Ascend a loss by PGD-l0, from random pixels of random colours."""
    if threat.norm != "l0":
        raise ValueError(f"pgd_l0: norm is {threat.norm!r}, must be 'l0'")
    solver = pgd_solver(threat, steps=steps, step_size=STEP * threat.side)
    return untargeted(name, solver, loss, restarts=restarts)


def random_pixels(threat: Threat, *, queries: int = 10_000) -> Case:
    """Ascend the margin by Sparse-RS, which asks for values only."""
    solver = sparse_rs(threat, queries=queries)
    return untargeted("sparse-rs", solver, logit.margin, passes=1, black_box=True)
