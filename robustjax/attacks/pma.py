"""PMA: the margin of probabilities, whose two terms are ascended one at a time before their difference."""

import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks, logit
from robustjax.attacks.annealed_pgd import annealed_pgd
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.solver import ValueAndMerit, classified
from robustjax.threats import Threat
from robustjax.types import Labels, Logits, LogitsFn


def pma(threat: Threat, *, steps: int = 100, restarts: int = 1) -> Case:
    """Ascend one term of the margin of probabilities, then the margin itself, by steps that fall to zero twice.

        first half of the steps:  -p_y in the first run, max_{j != y} p_j in the second;  then max_{j != y} p_j - p_y

    Where one term's gradient is much larger than the other's, the margin alone follows that term only; a start from
    each of them avoids what that misses.

    Args:
      threat: where the result must lie, in linf, l2 or l1.
      steps: gradient steps of a run, at least 2; each half also evaluates its first point.
      restarts: pairs of runs.
    Returns:
      A case of 2 * restarts runs that keeps points by their margin.
    Raises:
      ValueError: if steps is less than 2, restarts less than 1, eps infinite or the norm l0.

    Reference: Xie et al. 2024, arXiv:2411.15210 (PMA), after the margin decomposition of Ma et al. 2020,
      arXiv:2006.13726. Their first step of each run, which ascends p_y, is left out, and a half begins at the best
      point of the one before, not at its last.
    """
    checks.count("pma", "steps", steps, least=2)
    checks.count("pma", "restarts", restarts)
    half = steps // 2 + 1  # evaluations of the first stage

    def objective(logits_fn: LogitsFn, rows: Rows) -> ValueAndMerit:
        def loss(logits: Logits, y: Labels) -> Array:
            log_own = -logit.cross_entropy(logits, y)
            margin, own = logit.probability_margin(logits, y), jnp.exp(log_own)
            term = jnp.where(rows.run % 2 == 0, -own, margin + own)
            return jnp.where(rows.step < half, term, margin)

        return classified(logits_fn, rows.data, loss)

    return Case("pma", annealed_pgd(threat, steps=steps, stages=2), objective, 2 * restarts)
