"""Gradient-masking checks for scores of OOD detectors: on a few images, and in what a suite found.

A detector that was trained against attacks may look robust because its gradients vanish. A flag is a reason to look
closer; no flag is no proof.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax.attacks.apgd import apgd
from robustjax.attacks.flags import Flag, unchecked
from robustjax.attacks.masking_measurements import hoisted
from robustjax.checks import norm as length_norm
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.numerics import constant, fold, keys_for, norm
from robustjax.ood import metrics
from robustjax.ood.scores import Score
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Mask, PerExample, Radius

FURTHER = 0.1  # of the way that gradients move a score: what random search may do by luck
SHARE = 0.1  # of the images of a side
AUROC = 0.01  # that the attacks of one kind may lose to the others
FLAT = 0.2  # of the images: where a larger radius may improve nothing
AGREE = 1e-3  # of a score and of the spread of all, between two passes of an image


def from_results(
    results: ScoreResults, *, black_box: Collection[str] = ("square",), of_class: str = "apgd-class"
) -> tuple[Flag, ...]:
    """Look at what the attacks of a suite did to each score.

    Args:
      results: of `score_suite`.
      black_box: names of the attacks that ask for no gradient.
      of_class: name of the attack that raises every class in turn.
    Returns:
      For both sides, flags about attacks without gradients that do better than those with, and about images that no
      attack moves; and one about the ascent of every class against that of the score.
    """
    blind = np.array([name in black_box for name in results.attacks], bool)
    found: list[Flag] = []
    for side, rows in (("ID", results.is_id), ("OOD", ~results.is_id)):
        if not rows.any():
            continue
        name = f"black box ahead on {side}"
        if blind.all() or not blind.any():
            found.append(unchecked(name, "needs attacks with and without gradients"))
        else:
            found.append(_ahead(name, results, rows, results.scores[blind], results.scores[~blind]))
        found.append(_moved(side, results, rows))
    own, each = (results.attacks.index(n) if n in results.attacks else -1 for n in ("apgd-score", of_class))
    name = "every class ahead on OOD"
    if min(own, each) < 0:
        found.append(unchecked(name, "needs the ascent of the score and of every class"))
    elif not results.is_id.all():
        scores = results.scores[[each]], results.scores[[own]]
        found.append(_ahead(name, results, ~results.is_id, *scores, who="the ascent of every class"))
    return tuple(found)


def over_radii(curve: Sequence[ScoreResults]) -> Flag:
    """Look for a larger radius that improves nothing.

    The best point of a smaller radius is carried on, so a blind attack draws a flat curve instead of a rising one.

    Args:
      curve: results on the same images at rising radii, each given the last. The scores that the attacks reached
        themselves are compared with what they were given.
    """
    name, flat, total = "larger radius", 0, 0
    for small, large in itertools.pairwise(curve):
        sign = np.where(large.is_id, -1.0, 1.0)
        reached, given = (sign * large.scores).max(axis=0), sign * small.worst
        flat += int((reached <= given + 1e-6 * (1 + np.abs(given))).sum())
        total += len(given)
    if not total:
        return unchecked(name, "needs two radii")
    says = f"a larger radius, searched afresh, improves nothing on {flat} of {total} images"
    return Flag(name, flat > FLAT * total, says, {"flat": float(flat), "images": float(total)})


def checks(
    key: PRNGKeyArray,
    score: Score,
    images: np.ndarray,
    is_id: np.ndarray,
    threat: Threat,
    *,
    steps: int = 50,
    draws: int = 50,
) -> tuple[Flag, ...]:
    """Try a score and small attacks on it with a few images, some 32 of each side, and say what looks wrong.

    Random scores and scores that depend on the rest of the batch; gradients that are zero; uniform noise that beats
    gradients; twice the radius that improves nothing; and the whole box, in which every OOD image can become an ID
    image, and every ID image an OOD one. It compiles three programs.

    Args:
      key: one key.
      score: images -> (b,), larger on ID images; called several times as it is, then traced.
      images: (b, ...) floats in the box; is_id: (b,) which of them are ID.
      threat: where attacked images may lie.
      steps: of APGD on the score.
      draws: uniform points in the threat.
    Returns:
      One flag per check.

    Reference: Athalye et al. 2018, arXiv:1802.00420, section 3.1; Carlini et al. 2019, arXiv:1902.06705.
    """
    x, inside = jnp.asarray(images, jnp.float32), jnp.asarray(is_id, bool)
    # A compiled program would replay what Python drew when it was traced: call the function itself.
    first, again = (np.asarray(score(x), np.float64) for _ in range(2))
    half = max(1, len(x) // 2)
    alone = np.concatenate(
        [np.asarray(score(part), np.float64) for part in (x[:half], x[half:]) if len(part)]
    )
    spread = _spread(first)
    flags = [
        _agree("random scores", "two passes of the same images", first, again, spread),
        _agree("batch mates", "the same images in other batches", first, alone, spread),
    ]
    if not np.isfinite(first).all():
        bad = int((~np.isfinite(first)).sum())
        return (*flags, Flag("not finite", True, f"{bad} of {len(x)} scores are not finite", {"images": bad}))

    traced, keys, away = hoisted(score, x), keys_for(key, len(x)), np.where(is_id, -1.0, 1.0)
    ball, wide = _arrays(threat, threat.eps, x), _arrays(threat, _diameter(threat, x), x)
    double = _arrays(threat, jnp.minimum(2 * jnp.asarray(threat.eps), _diameter(threat, x)), x)
    clean = away * first
    slope = np.asarray(_slope(traced, x))
    noise = np.asarray(_noisy(traced, fold(keys, 3), x, inside, ball, draws), np.float64)

    def best(around: Threat, number: int) -> np.ndarray:
        found = np.asarray(_ascent(traced, fold(keys, number), x, inside, around, steps).value, np.float64)
        return np.maximum(found, clean)

    near, far, everywhere = (best(around, i) for i, around in enumerate((ball, double, wide)))
    for side, rows in (("ID", np.asarray(is_id, bool)), ("OOD", ~np.asarray(is_id, bool))):
        if rows.any():
            flags += [
                _saturated(side, first[rows], slope[rows]),
                _noise(side, noise[rows], near[rows], clean[rows]),
                _radius(side, far[rows], near[rows], clean[rows]),
            ]
            if rows.all() or not np.isfinite(everywhere).all():
                continue
            # What every image of the other side shows to be within reach.
            goal = np.quantile(away[rows][0] * first[~rows], 0.05)
            flags.append(_unlimited(side, everywhere[rows], goal))
    return tuple(flags)


def _ahead(
    name: str,
    results: ScoreResults,
    rows: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    *,
    who: str = "search without gradients",
) -> Flag:
    """Compare two groups of attacks (a, n) on one side: by image, and by the AUROC that each leaves."""
    sign = -1.0 if results.is_id[rows][0] else 1.0
    clean = sign * results.clean[rows]

    def reached(scores: np.ndarray) -> np.ndarray:
        return np.fmax(clean, np.fmax.reduce(sign * scores[:, rows], axis=0))

    by_one, by_other = reached(one), reached(other)
    spread = _spread(results.clean)
    lead = by_one - by_other > FURTHER * np.abs(by_other - clean) + 1e-3 * spread
    count, total = int(lead.sum()), int(rows.sum())
    lost, areas = 0.0, {}
    if 0 < total < len(rows):
        apart = [_auroc(sign * values, results.clean[~rows], sign) for values in (by_one, by_other)]
        lost, areas = apart[1] - apart[0], {"AUROC": apart[0], "AUROC of the others": apart[1]}
    says = f"{who} moves {count} of {total} scores further than the other attacks"
    if areas:
        says += f", AUROC {areas['AUROC']:.3f} against {areas['AUROC of the others']:.3f}"
    raised = count > max(1.0, SHARE * total) or lost > AUROC
    return Flag(name, raised, says, {"share": count / total, **areas})


def _auroc(attacked: np.ndarray, left_alone: np.ndarray, sign: float) -> float:
    return metrics.auroc(attacked, left_alone) if sign < 0 else metrics.auroc(left_alone, attacked)


def _moved(side: str, results: ScoreResults, rows: np.ndarray) -> Flag:
    stuck, total = int((results.worst[rows] == results.clean[rows]).sum()), int(rows.sum())
    says = f"no attack moves {stuck} of {total} scores"
    return Flag(f"unmoved on {side}", stuck > SHARE * total, says, {"share": stuck / total})


def _agree(name: str, what: str, first: np.ndarray, again: np.ndarray, spread: float) -> Flag:
    apart, scale = np.abs(first - again), AGREE * (spread + np.abs(first))
    count = int((np.nan_to_num(apart) > scale).sum())
    says = f"{what} differ on {count} of {len(first)} scores, by up to {np.nanmax(apart, initial=0.0):.2g}"
    return Flag(name, count > 0, says, {"share": count / len(first), "spread": spread})


def _spread(scores: np.ndarray) -> float:
    """Measure how far scores lie apart by their quartiles: distances of some images may be enormous."""
    known = np.asarray(scores, np.float64)[np.isfinite(scores)]
    if not known.size:
        return 1.0
    low, high = np.quantile(known, [0.25, 0.75])
    return float(high - low) or float(known.std()) or 1.0


def _saturated(side: str, score: np.ndarray, slope: np.ndarray) -> Flag:
    flat, total = ~(slope > 0), len(score)
    tied = total - len(np.unique(score))
    says = f"the gradient is zero or not finite at {int(flat.sum())} of {total} images, {tied} scores are repeated"
    raised = int(flat.sum()) > SHARE * total or tied > 0.5 * total
    return Flag(
        f"saturation on {side}", raised, says, {"zero gradient": float(flat.mean()), "tied": tied / total}
    )


def _noise(side: str, noise: np.ndarray, near: np.ndarray, clean: np.ndarray) -> Flag:
    ahead = noise > near + FURTHER * np.abs(near - clean) + 1e-6 * (1 + np.abs(near))
    says = f"uniform noise moves {int(ahead.sum())} of {len(near)} scores further than gradients"
    return Flag(
        f"noise on {side}", ahead.sum() > max(1.0, 0.05 * len(near)), says, {"share": float(ahead.mean())}
    )


def _radius(side: str, far: np.ndarray, near: np.ndarray, clean: np.ndarray) -> Flag:
    flat = far <= near + 1e-3 * np.abs(near - clean) + 1e-6 * np.abs(near)
    says = f"twice the radius, searched afresh, improves nothing on {int(flat.sum())} of {len(near)} images"
    return Flag(
        f"larger radius on {side}", flat.sum() > FLAT * len(near), says, {"share": float(flat.mean())}
    )


def _unlimited(side: str, reached: np.ndarray, goal: float) -> Flag:
    short, total = int((reached < goal).sum()), len(reached)
    other = "OOD" if side == "ID" else "ID"
    says = f"with the whole box allowed, {short} of {total} images stay short of the scores of {other} images"
    return Flag(f"unlimited radius on {side}", short > SHARE * total, says, {"share": short / total})


@jax.jit
def _slope(score: Score, x: Array) -> PerExample:
    return norm(jax.grad(lambda z: score(z).sum())(x), "linf")


@jax.jit
def _noisy(score: Score, keys: Keys, x: Array, is_id: Mask, threat: Threat, draws: int | Array) -> PerExample:
    """Find the worst score of uniform points in the threat, with the sign of the adversary."""

    def once(i: Array, worst: PerExample) -> PerExample:
        value = score(threat.sample(fold(keys, i), x))
        return jnp.maximum(worst, jnp.where(is_id, -value, value))

    return jax.lax.fori_loop(0, draws, once, constant(x, -jnp.inf))


@partial(jax.jit, static_argnames="steps")
def _ascent(score: Score, keys: Keys, x: Array, is_id: Mask, threat: Threat, steps: int) -> Found:
    return apgd(threat, steps=steps)(keys, lambda z: jnp.where(is_id, -score(z), score(z)), x)


def _diameter(threat: Threat, x: Array) -> Radius:
    span = (jnp.asarray(edge, jnp.float32) for edge in (threat.upper, threat.lower))
    upper, lower = span
    size = math.prod(x.shape[1:])
    kind = length_norm("score_checks", threat.norm)
    return norm(jnp.broadcast_to(upper - lower, x.shape[1:]).reshape(1, size), kind)[0]


def _arrays(threat: Threat, eps: Radius, x: Array) -> Threat:
    # Threats of equal shapes and types share a program.
    lower, upper = (jnp.asarray(edge, jnp.float32) for edge in (threat.lower, threat.upper))
    return Threat(threat.norm, constant(x, eps), lower, upper)
