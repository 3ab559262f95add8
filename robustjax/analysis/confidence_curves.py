"""Probabilities of the true class and of the likeliest other class under attack, over radii."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Scalar

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.compose import Surrogate
from robustjax.attacks.square import square
from robustjax.attacks.starts import Start
from robustjax.numerics import Norm
from robustjax.ood.score_attacks import Search, highest, over_radii, raised
from robustjax.threats import Threat
from robustjax.types import Images, Keys, Labels, LogitsFn


class ClassProbabilities(NamedTuple):
    """Probabilities at the worst point found in each ball; means over examples make the two curves.

    Attributes:
      true: (r, n) of the true class.
      other: (r, n) of the likeliest other class.
    """

    true: Float[Array, "r n"]
    other: Float[Array, "r n"]


def class_probabilities_over_radii(
    logits_fn: LogitsFn,
    y: Labels,
    radii: Sequence[float],
    *,
    norm: Norm = "l2",
    steps: int = 100,
    restarts: int = 1,
    queries: int = 200,
    surrogate: Surrogate = objectives.margin,
) -> Callable[[Keys, Images], ClassProbabilities]:
    """Attack ID images at rising radii: from the worst point so far, from random ones, and by Square.

    Args:
      logits_fn: the network.
      y: true classes.
      radii: rising, in the units of x; 0 is the image itself.
      norm: of the balls.
      steps: of each APGD run.
      restarts: random starts at each radius.
      queries: of Square at each radius; the worst point of a smaller radius is carried on, so that an attack that is
        blind would draw a flat curve.
      surrogate: what the attack maximises: the margin, which is largest where another class leads by most, or
        `objectives.cross_entropy`, for the lowest confidence in the true class.
    Returns:
      (key, images) -> ClassProbabilities. The surrogate never falls with the radius; with the margin, the
      probability of the likeliest other class may.

    Reference: the radius-confidence plots of Augustin, Meinke and Hein 2020, arXiv:2003.09461, with warm starts.
    """
    score = surrogate(logits_fn, y)

    def search_at(eps: Scalar, warm: Start) -> Search:
        threat = Threat(norm, eps)
        fresh = raised(apgd(threat, steps=steps), score, restarts=restarts)
        blind = raised(square(threat, queries=queries), score)
        return highest(raised(apgd(threat, steps=steps, start=warm), score), fresh, blind)

    search = over_radii(search_at, radii, direction="raise")

    def curves(key: Keys, x: Images) -> ClassProbabilities:
        worst = search(key, x).x
        return jax.lax.map(lambda z: _probabilities(logits_fn(z), y), worst)

    return curves


def _probabilities(logits: Array, y: Labels) -> ClassProbabilities:
    p = jax.nn.softmax(logits)
    true = jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype)
    return ClassProbabilities((p * true).sum(axis=-1), (p * (1.0 - true)).max(axis=-1))
