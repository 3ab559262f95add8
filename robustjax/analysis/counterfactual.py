"""Visual counterfactuals: the image near this one that a class would have, over growing balls."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Scalar

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.frank_wolfe import frank_wolfe
from robustjax.attacks.pgd import Start
from robustjax.numerics import norm as length
from robustjax.ood.score_attacks import Search, highest, over_radii, up
from robustjax.threats import Threat
from robustjax.types import Ascent, Images, Labels, LogitsFn

Ball = Literal["l2", "l1.5", "linf", "l1"]


def toward(
    logits_fn: LogitsFn,
    target: Labels,
    radii: Sequence[float],
    *,
    norm: Ball = "l2",
    steps: int = 100,
    restarts: int = 1,
) -> Search:
    """Make a class as likely as possible: maximise log p_t(x') over each ball around x, and the box.

    Every radius starts from the best point of the last one and, anew, from random points, and keeps the better:
    the probability never falls as the radius grows. Its logarithm is outlier_surrogate, since p_t itself has no slope
    where it is small. A single descent from an outlier often ends on the plateau that training made there, and
    what is a failed search then looks like a modest network: hence restarts and APGD's long first steps.

    Args:
      logits_fn: the network.
      target: the class to reach, one per example.
      radii: rising, in the units of x; at 0 the image stays as it is.
      norm: of the balls; l1.5 by Frank-Wolfe, which has no random starts: it begins anew at the image.
      steps: of each run.
      restarts: fresh starts at each radius.
    Returns:
      A search (key, x) -> Found that leads with the radii: images (r, b, h, w, c) and log p_t (r, b).
    Raises:
      ValueError: for an unknown norm or radii that do not rise.

    Reference: Augustin, Meinke and Hein 2020, arXiv:2003.09461, where radii are independent and p_t is climbed;
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
        fresh = up(ascent(eps, None), score, restarts=1 if norm == "l1.5" else restarts)
        return highest(up(ascent(eps, warm), score), fresh)

    return over_radii(search_at, radii, side="up")


def to_all_classes(x: Images, classes: int) -> tuple[Images, Labels]:
    """Repeat every image for every class: (n k, h, w, c), images first, and the targets 0 .. k - 1 in turn."""
    target = jnp.tile(jnp.arange(classes, dtype=jnp.int32), x.shape[0])
    return jnp.repeat(x, classes, axis=0), target


class Quality(NamedTuple):
    """What became of some images at one radius.

    Attributes:
      valid: share whose class is the target with more than the asked probability.
      probability: mean p_t.
      distance: mean realised distance from the start, in l2.
      judged: share that another network puts into the target class; NaN without one.
    """

    valid: float
    probability: float
    distance: float
    judged: float


def quality(
    start: Array,
    found: Array,
    logits: Array,
    target: Array,
    judge: Array | None = None,
    *,
    sure: float = 0.9,
) -> Quality:
    """Measure counterfactuals at one radius.

    A judge must be trained otherwise or be of another architecture, best robust: a second plain network is fooled
    by what fools the first, and agreement with it says nothing.

    Args:
      start: (n, h, w, c).
      found: counterfactuals, likewise.
      logits: (n, k) of the network they were made with.
      target: (n,).
      judge: (n, k) logits of another network.
      sure: the probability that a valid one exceeds.
    """
    wanted = np.asarray(target)
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)))[np.arange(len(wanted)), wanted]
    hit = np.asarray(logits).argmax(axis=1) == wanted
    moved = np.asarray(length(jnp.asarray(found) - jnp.asarray(start), "l2"))
    agrees = np.nan if judge is None else float((np.asarray(judge).argmax(axis=1) == wanted).mean())
    return Quality(float((hit & (p > sure)).mean()), float(p.mean()), float(moved.mean()), agrees)
