"""Visual counterfactuals: the most probable image of a target class near an image, over balls of rising radius."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Scalar, Shaped

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.frank_wolfe import frank_wolfe
from robustjax.attacks.starts import Start
from robustjax.numerics import norm as length
from robustjax.ood.score_attacks import Search, highest, over_radii, raised
from robustjax.threats import Threat
from robustjax.types import Ascent, Labels, LogitsFn

BallNorm = Literal["l2", "l1.5", "linf", "l1"]


def toward(
    logits_fn: LogitsFn,
    target: Labels,
    radii: Sequence[float],
    *,
    norm: BallNorm = "l2",
    steps: int = 100,
    restarts: int = 1,
) -> Search:
    """Maximise log p_t(x') of a target class t over each ball around x, and the box.

    Every radius starts from the best point of the last one and also from random points, and keeps the better: the
    probability never falls as the radius grows. Its logarithm is maximised, since p_t itself has no slope where it is
    small. A single ascent from an OOD image often ends on the plateau that training made there, and a failed search
    then looks like low confidence: hence restarts and APGD's long first steps.

    Args:
      logits_fn: the network.
      target: the class to reach, one per example.
      radii: rising, in the units of x; at 0 the image stays as it is.
      norm: of the balls; l1.5 by Frank-Wolfe, which has no random starts and starts again at the image.
      steps: of each run.
      restarts: random starts at each radius.
    Returns:
      A search (key, x) -> Found that leads with the radii: images (r, b, h, w, c) and log p_t (r, b).
    Raises:
      ValueError: for an unknown norm or radii that do not rise.

    Reference: Augustin, Meinke and Hein 2020, arXiv:2003.09461, where radii are independent and p_t is maximised;
      l1.5: Boreiko et al. 2022, arXiv:2205.07972.
    """
    if norm not in ("l2", "l1.5", "linf", "l1"):
        raise ValueError(f"toward: norm is {norm!r}, must be one of l2, l1.5, linf, l1")
    score = objectives.targeted_cross_entropy(logits_fn, target)

    def ascent(eps: Scalar, start: Start | None) -> Ascent:
        if norm == "l1.5":
            return frank_wolfe(p=1.5, eps=eps, steps=steps, start=start)
        return apgd(Threat(norm, eps), steps=steps, start=start)

    def search_at(eps: Scalar, warm: Start) -> Search:
        fresh = raised(ascent(eps, None), score, restarts=1 if norm == "l1.5" else restarts)
        return highest(raised(ascent(eps, warm), score), fresh)

    return over_radii(search_at, radii, direction="raise")


def to_all_classes(x: Shaped[Array, "n ..."], classes: int) -> tuple[Shaped[Array, "nk ..."], Labels]:
    """Repeat every image for every class: (n k, h, w, c), images first, and the targets 0 .. k - 1 in turn."""
    target = jnp.tile(jnp.arange(classes, dtype=jnp.int32), x.shape[0])
    return jnp.repeat(x, classes, axis=0), target


class Quality(NamedTuple):
    """How good counterfactuals are at one radius.

    Attributes:
      valid: share whose predicted class is the target, with more than the asked probability.
      probability: mean p_t.
      distance: mean realised distance from the start, in l2.
      agreement: share that an evaluation network puts into the target class; NaN without one.
    """

    valid: float
    probability: float
    distance: float
    agreement: float


def quality(
    start: Array,
    found: Array,
    logits: Array,
    target: Array,
    evaluation_logits: Array | None = None,
    *,
    probability: float = 0.9,
) -> Quality:
    """Measure counterfactuals at one radius.

    The evaluation network must be trained in another way or have another architecture, and is best robust: a second
    plain network is fooled by what fools the first, and agreement with it says nothing.

    Args:
      start: (n, h, w, c).
      found: counterfactuals, likewise.
      logits: (n, k) of the network they were made with.
      target: (n,).
      evaluation_logits: (n, k) of the evaluation network.
      probability: what a valid one exceeds.
    """
    target_class = np.asarray(target)
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)))[np.arange(len(target_class)), target_class]
    hit = np.asarray(logits).argmax(axis=1) == target_class
    moved = np.asarray(length(jnp.asarray(found) - jnp.asarray(start), "l2"))
    agreement = np.nan
    if evaluation_logits is not None:
        agreement = float((np.asarray(evaluation_logits).argmax(axis=1) == target_class).mean())
    return Quality(float((hit & (p > probability)).mean()), float(p.mean()), float(moved.mean()), agreement)
