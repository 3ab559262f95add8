"""The highest confidence around OOD images: several searches, each for what the others miss."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from robustjax import checks
from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd_solver
from robustjax.attacks.square import square
from robustjax.attacks.starts import Start
from robustjax.numerics import Norm, per_example
from robustjax.numerics import norm as norm_of
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.score_attacks import Search, highest, over_classes, over_radii, raised
from robustjax.ood.scores import Score, scored
from robustjax.threats import Threat
from robustjax.types import Keys, LogitsFn, PerExample


def worst_confidence(
    threat: Threat,
    logits_fn: LogitsFn,
    *,
    steps: int = 100,
    restarts: int = 5,
    class_steps: int | None = None,
    queries: int = 300,
) -> Search:
    """Search for the largest max_k p_k around each OOD image; the image itself is a candidate.

    1. APGD on the log odds of the likeliest class, from `restarts` random starts;
    2. APGD on the log odds of every class: the likeliest at the start need not be the one that can become likeliest;
    3. momentum PGD from the image moved towards flat grey: noise of high contrast masks gradients;
    4. APGD on the divergence from uniform, the surrogate of training: it shows whether training only masked gradients;
    5. Square on the log odds, which asks for no gradients: around OOD images that were trained on, they may vanish.

    Args:
      threat: around the OOD images.
      logits_fn: the network.
      steps: of each run.
      restarts: random starts of the first search.
      class_steps: of the runs at a class; `steps` by default.
      queries: of Square, at least 200.
    Raises:
      ValueError: if queries is less than 200.
    Returns:
      A search whose value is `msp_margin`, the log odds of the largest probability; see `probability`.

    Reference: the evaluation of Augustin, Meinke and Hein 2020, arXiv:2003.09461, which is the first search with
      one start; grey starts as in Bitterwolf, Meinke and Hein 2020, arXiv:2007.08473.
    """
    _check("worst_confidence", queries)
    score = confidence_score(logits_fn)
    ascent = apgd(threat, steps=steps)
    grey = pgd_solver(
        threat,
        steps=steps,
        step_size=2.5 * threat.eps / max(steps, 1),
        momentum=0.9,
        start=toward_grey(threat),
    )
    return highest(
        raised(ascent, score, restarts=restarts),
        over_classes(apgd(threat, steps=class_steps or steps), score, logits_fn),
        raised(grey, score),
        raised(ascent, score, surrogates=[objectives.ce_to_uniform(logits_fn)]),
        raised(square(threat, queries=queries), score),
    )


def confidence_over_radii(
    logits_fn: LogitsFn,
    radii: Sequence[float],
    *,
    norm: Norm = "l2",
    steps: int = 100,
    restarts: int = 1,
    queries: int = 200,
) -> Search:
    """Search for the highest confidence at rising radii: from the best point so far, from random ones, and by Square.

    The best point of a smaller radius is carried on, so that gradients alone would draw a flat curve where they vanish.

    Args:
      logits_fn: the network.
      radii: rising, in the units of x; 0 is the image itself.
      norm: of the balls.
      steps: of each APGD run.
      restarts: random starts at each radius.
      queries: of Square at each radius, at least 200.
    Raises:
      ValueError: if queries is less than 200.
    Returns:
      A search (key, x) -> Found that leads with the radii, with values that never fall; see `worst_confidence`.
    """
    _check("confidence_over_radii", queries)
    score = confidence_score(logits_fn)

    def search_at(eps: Scalar, warm: Start) -> Search:
        threat = Threat(norm, eps)
        fresh = raised(apgd(threat, steps=steps), score, restarts=restarts)
        blind = raised(square(threat, queries=queries), score)
        return highest(raised(apgd(threat, steps=steps, start=warm), score), fresh, blind)

    return over_radii(search_at, radii, direction="raise")


def confidence_score(logits_fn: LogitsFn) -> Score:
    """Build the score log(p / (1 - p)) of the largest probability p: its order, without saturation."""
    return scored(logits_fn, msp_margin)


def probability(log_odds: PerExample) -> PerExample:
    """Compute a probability from its log odds."""
    return jax.nn.sigmoid(jnp.asarray(log_odds))


def toward_grey(threat: Threat) -> Start:
    """Start where the image is as near to its own mean grey as the threat allows.

    Reference: the DeContraster start of Bitterwolf, Meinke and Hein 2020, arXiv:2007.08473, in any norm.
    """
    kind = checks.norm("toward_grey", threat.norm)

    def start(key: Keys, x: Array) -> Array:
        del key
        flat = jnp.broadcast_to(x.mean(axis=tuple(range(1, x.ndim)), keepdims=True), x.shape)
        if kind == "linf":
            return threat.project(flat, x)
        # Pixels keep their proportions; a projection in l1 would change a few of them only.
        length = norm_of(flat - x, kind)
        share = jnp.where(length > threat.eps, threat.eps / jnp.maximum(length, 1e-12), 1.0)
        return x + per_example(share, x) * (flat - x)

    return start


def _check(name: str, queries: int) -> None:
    if queries < 200:
        raise ValueError(
            f"{name}: queries is {queries}, must be at least 200: gradients alone can be blind on a score"
        )
