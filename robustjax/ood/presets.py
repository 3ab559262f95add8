"""The attacks on detectors that published tables are made with, and a strong one."""

from robustjax import checks
from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.square import square
from robustjax.ood import surrogates
from robustjax.ood.score_attacks import ScoreAttack, highest, lowered, lowest, over_classes, raised
from robustjax.ood.scores import Score
from robustjax.ood.uint8_grid import uint8_pgd
from robustjax.threats import Threat
from robustjax.types import LogitsFn, Objective


def aloe(threat: Threat, score: Score, logits_fn: LogitsFn | None, *, steps: int = 10) -> ScoreAttack:
    """Attack both sides as ALOE evaluates: ID images towards the uniform prediction, OOD images away from entropy.

    Ten steps of one level. The last point counts, even where it is better for the detector than the image. The
    random start of the published code is none at radius 1/255, because it is truncated; here there is none at any.

    Args:
      threat: in linf; published with eps 1/255.
      score: what the detector reads.
      logits_fn: the network; None for scores of inner activations, which are then maximised themselves, as the
        authors maximise the logistic regression of Mahalanobis distances.
      steps: of 1/255.
    Raises:
      ValueError: if the threat is not linf.

    Reference: Chen et al. 2020, arXiv:2003.09711, without batch statistics and truncation. Of the logistic regression
      the authors maximise the cross-entropy of its two probabilities taken as logits, whose slope vanishes where they
      are sure; here its log odds.
    """
    ascent = uint8_pgd(threat, steps=steps, keep="last")
    uniform = () if logits_fn is None else (surrogates.toward_uniform(logits_fn),)
    certain = () if logits_fn is None else (surrogates.certain(logits_fn),)
    return ScoreAttack(
        lowered(ascent, score, surrogates=uniform, clean=False),
        raised(ascent, score, surrogates=certain, clean=False),
    )


def atom(threat: Threat, score: Score, surrogate: Objective | None, *, steps: int = 40) -> ScoreAttack:
    """Attack OOD images only, as ATOM evaluates: forty steps of one level from a random start, best point.

    Args:
      threat: in linf; published with eps 8/255.
      score: what the detector reads.
      surrogate: `attacks.objectives.ce_to_uniform` for MSP and ODIN, `surrogates.away_from_rejection` for networks
        with reject classes; None for scores of inner activations, which are maximised themselves as in `aloe`.
      steps: of 1/255.
    Raises:
      ValueError: if the threat is not linf.

    Reference: Chen et al. 2021, arXiv:2006.15207. The image itself competes by its score, there by the surrogate.
    """
    ascent = uint8_pgd(threat, steps=steps, start="uniform")
    return ScoreAttack(None, raised(ascent, score, surrogates=() if surrogate is None else (surrogate,)))


def atd(threat: Threat, score: Score, *, steps: int = 100) -> ScoreAttack:
    """Attack both sides along the score: PGD with a hundred steps of 2.5 eps / 100 from a random start.

    Args:
      threat: published in linf with eps 8/255.
      score: what the detector reads, in a form that does not saturate.
      steps: of 2.5 eps / steps.

    Reference: Azizmalayeri et al. 2022, arXiv:2209.15246. The best point counts.
    """
    checks.threat("atd", threat)
    ascent = pgd(threat, steps=steps, step_size=2.5 * threat.eps / max(steps, 1))
    return ScoreAttack(lowered(ascent, score), raised(ascent, score))


def strong(
    threat: Threat,
    score: Score,
    logits_fn: LogitsFn | None = None,
    *,
    steps: int = 100,
    restarts: int = 5,
    queries: int = 1000,
) -> ScoreAttack:
    """Attack both sides by APGD on the score and every surrogate, with restarts, and by Square; keep the worst.

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

    def negative(x):
        return -score(x)

    lowering, raising = [negative], [score]
    if logits_fn is not None:
        lowering += [surrogates.toward_uniform(logits_fn), surrogates.uncertain_log(logits_fn)]
        raising += [objectives.ce_to_uniform(logits_fn), surrogates.certain_log(logits_fn)]
    on_id = [lowered(ascent, score, surrogates=lowering, restarts=restarts)]
    on_ood = [raised(ascent, score, surrogates=raising, restarts=restarts)]
    if logits_fn is not None:
        on_ood.append(over_classes(ascent, score, logits_fn, restarts=restarts))
    if queries:
        random_search = square(threat, queries=queries)
        on_id.append(lowered(random_search, score))
        on_ood.append(raised(random_search, score))
    return ScoreAttack(lowest(*on_id), highest(*on_ood))
