"""The attacks on detectors that published tables are made with, and a strong one."""

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.square import square
from robustjax.ood import surrogates
from robustjax.ood.score_attacks import Sides, down, highest, lowest, over_classes, up
from robustjax.ood.scores import Score
from robustjax.ood.uint8_grid import uint8_pgd
from robustjax.threats import Threat
from robustjax.types import LogitsFn, Number, Objective


def aloe(logits_fn: LogitsFn, score: Score, *, eps: Number = 1 / 255, steps: int = 10) -> Sides:
    """Attack both sides as ALOE evaluates: ten steps of one level, data towards uniform, outliers away from entropy.

    The last point counts, even where it is better for the detector than the image. The random start of the
    published code is none at this radius, because it is truncated; here there is none at any.

    Args:
      logits_fn: the network.
      score: what the detector reads.
      eps: radius in linf.
      steps: of 1/255.

    Reference: Chen et al. 2020, arXiv:2003.09711, without batch statistics and truncation.
    """
    ascent = uint8_pgd(Threat("linf", eps), steps=steps, keep="last")
    return Sides(
        down(ascent, score, surrogates=[surrogates.toward_uniform(logits_fn)], clean=False),
        up(ascent, score, surrogates=[surrogates.certain(logits_fn)], clean=False),
    )


def atom(score: Score, surrogates: Objective, *, eps: Number = 8 / 255, steps: int = 40) -> Sides:
    """Attack outliers only, as ATOM evaluates: forty steps of one level from a random start, best point.

    Args:
      score: what the detector reads.
      surrogates: `attacks.objectives.ce_to_uniform` for MSP and ODIN, `surrogates.away_from_rejection` for networks
        with reject classes.
      eps: radius in linf.
      steps: of 1/255.

    Reference: Chen et al. 2021, arXiv:2006.15207. The image itself competes by its score, there by the objective.
    """
    ascent = uint8_pgd(Threat("linf", eps), steps=steps, start="uniform")
    return Sides(None, up(ascent, score, surrogates=[surrogates]))


def atd(score: Score, *, eps: Number = 8 / 255, steps: int = 100) -> Sides:
    """Attack both sides along the score: PGD with a hundred steps of 2.5 eps / 100 from a random start.

    Reference: Azizmalayeri et al. 2022, arXiv:2209.15246. The best point counts.

    Args:
      score: what the detector reads, in a form that does not saturate.
      eps: radius in linf.
      steps: of 2.5 eps / steps.
    """
    ascent = pgd(Threat("linf", eps), steps=steps, step_size=2.5 * eps / max(steps, 1))
    return Sides(down(ascent, score), up(ascent, score))


def strong(
    threat: Threat,
    score: Score,
    logits_fn: LogitsFn | None = None,
    *,
    steps: int = 100,
    restarts: int = 5,
    queries: int = 1000,
) -> Sides:
    """Attack both sides by APGD on the score and every surrogate, from several starts, and by Square; keep the worst.

    With K classes that is (6 + K) times `restarts` runs of APGD; the score alone, twice `restarts`. Square asks for
    scores only, so that it also moves scores whose gradients say nothing.

    Args:
      threat: in any norm.
      score: what the detector reads, in a form that does not saturate.
      logits_fn: of the network behind it, for cross-entropy to uniform, entropy and every class; None for scores of
        features alone.
      steps: of each run.
      restarts: random starts.
      queries: of Square on the score, once on each side; 0 for none.
    """
    ascent = apgd(threat, steps=steps)

    def fallen(x):
        return -score(x)

    unsure, sure = [fallen], [score]
    if logits_fn is not None:
        unsure += [surrogates.toward_uniform(logits_fn), surrogates.uncertain_log(logits_fn)]
        sure += [objectives.ce_to_uniform(logits_fn), surrogates.certain_log(logits_fn)]
    downwards = [down(ascent, score, surrogates=unsure, restarts=restarts)]
    upwards = [up(ascent, score, surrogates=sure, restarts=restarts)]
    if logits_fn is not None:
        upwards.append(over_classes(ascent, score, logits_fn, restarts=restarts))
    if queries:
        blind = square(threat, queries=queries)
        downwards.append(down(blind, score))
        upwards.append(up(blind, score))
    return Sides(lowest(*downwards), highest(*upwards))
