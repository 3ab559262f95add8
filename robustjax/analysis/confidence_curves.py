"""How the confidence in the true class and in the best other one moves over radii around data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.compose import Surrogate
from robustjax.attacks.pgd import Start
from robustjax.numerics import Norm
from robustjax.ood.score_attacks import Search, highest, over_radii, up
from robustjax.threats import Threat
from robustjax.types import Images, Labels, LogitsFn


class Rivals(NamedTuple):
    """Probabilities at the worst point found in each ball; means over examples make the two curves.

    Attributes:
      own: (r, n) of the true class.
      other: (r, n) of the likeliest other class.
    """

    own: Float[Array, "r n"]
    other: Float[Array, "r n"]


def rivals_over_radii(
    logits_fn: LogitsFn,
    y: Labels,
    radii: Sequence[float],
    *,
    norm: Norm = "l2",
    steps: int = 100,
    restarts: int = 1,
    surrogate: Surrogate = objectives.margin,
) -> Callable[[PRNGKeyArray, Images], Rivals]:
    """Attack data at rising radii, each from the last one's worst point and afresh, and read both probabilities.

    Args:
      logits_fn: the network.
      y: true classes.
      radii: rising, in the units of x; 0 is the image itself.
      norm: of the balls.
      steps: of each APGD run.
      restarts: fresh random starts at each radius.
      surrogate: what is climbed: the margin, which is largest where another class leads by most, or
        `objectives.cross_entropy`, for the lowest confidence in the true class.
    Returns:
      (key, images) -> Rivals. What was climbed never falls with the radius; with the margin, a probability may.

    Reference: the radius-confidence plots of Augustin, Meinke and Hein 2020, arXiv:2003.09461, with warm starts.
    """
    score = surrogate(logits_fn, y)

    def search_at(eps: Scalar, warm: Start) -> Search:
        threat = Threat(norm, eps)
        fresh = up(apgd(threat, steps=steps), score, restarts=restarts)
        return highest(up(apgd(threat, steps=steps, start=warm), score), fresh)

    search = over_radii(search_at, radii, side="up")

    def curves(key: PRNGKeyArray, x: Images) -> Rivals:
        worst = search(key, x).x
        return jax.lax.map(lambda z: _rivals(logits_fn(z), y), worst)

    return curves


def _rivals(logits: Array, y: Labels) -> Rivals:
    p = jax.nn.softmax(logits)
    own = jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype)
    return Rivals((p * own).sum(axis=-1), (p * (1.0 - own)).max(axis=-1))
