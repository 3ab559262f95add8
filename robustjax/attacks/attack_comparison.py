"""Gradient-masking checks that compare attacks: the stronger must not lose to the weaker.

Like those in `flags` the functions take numbers and give a `Flag`. Images are those classified correctly, since
only these can be broken.
"""

from collections.abc import Sequence

import numpy as np

from robustjax.attacks.flags import Flag

SHARE = 0.002  # of all images: AutoAttack's threshold for what black-box attacks may break alone
AHEAD = 0.1  # of the images that are robust to everything: where black-box attacks may come nearer by luck
# Of the margin that gradients leave: on a linear network, where gradients say everything, Square comes nearer by up to
# 7 % at 95 of 100 images, as gradients of cross-entropy and DLR lead to another corner than that of the margin.
NEARER = 0.1
LUCK = 0.05  # of the images: what a random start may do
TIE = 1e-4  # in units of the logits: other hardware or another batch size may decide otherwise


def more_steps(counts: Sequence[int], last: np.ndarray, rise: np.ndarray, robust: np.ndarray) -> Flag:
    """Look for an ascent that more steps do not help.

    Raised if the last points after more steps break fewer images than after few, or if images stay robust although
    the loss ended no higher than it began.

    Args:
      counts: steps made; last: (len(counts), b) whether the last point after so many is misclassified.
      rise: (b,) loss at the last point less that at the first; robust: (b,) whether no point met was misclassified.

    Reference: Carlini et al. 2019, arXiv:1902.06705; incomplete optimisation: Pintor et al. 2022,
      arXiv:2106.09947.
    """
    broken, total = last.sum(axis=1), len(rise)
    lost = int(max((broken[i] - broken[i:].min() for i in range(len(broken))), default=0))
    stuck = int((robust & ~(rise > 0)).sum())
    seen = []
    if lost > _luck(total):
        seen.append(f"{lost} fewer of {total} images are broken after more steps")
    if stuck > _luck(total):
        seen.append(f"the loss does not rise at {stuck} of {total} images")
    evidence = {f"broken after {n}": float(b) for n, b in zip(counts, broken, strict=True)}
    says = "; ".join(seen) or "more steps reach a higher loss"
    return Flag("more steps", bool(seen), says, {**evidence, "without rise": float(stuck)})


def beaten(name: str, weak: dict[str, np.ndarray], strong: np.ndarray, *, luck: bool) -> Flag:
    """Look for images that a weak search breaks and a strong one does not.

    Args:
      name: of the check.
      weak: by name, (b,) whether a search that should lose broke the image; strong: the same of the one that
        should win.
      luck: whether the weak search may win on a few images by luck.

    Reference: random search and one-step attacks that beat iterated ones: Athalye et al. 2018, arXiv:1802.00420,
      section 3.1, and Carlini et al. 2019, arXiv:1902.06705.
    """
    alone = np.zeros_like(strong)
    for broken in weak.values():
        alone = alone | (broken & ~strong)
    count, total = int(alone.sum()), len(strong)
    raised = count > (_luck(total) if luck else 0)
    who = " and ".join(weak)
    says = f"{who} broke {count} of {total} images that steps along the gradient did not"
    evidence = {f"broken by {one}": float(broken.sum()) for one, broken in weak.items()}
    return Flag(
        name,
        raised,
        says,
        {**evidence, "broken by gradient": float(strong.sum()), "only without": float(count)},
    )


def unlimited(robust: np.ndarray, eps: float) -> Flag:
    """Look for images that an attack cannot break although every image of the box is allowed.

    Reference: Athalye et al. 2018, arXiv:1802.00420, section 3.1; Pintor et al. 2022, arXiv:2106.09947.
    """
    left, total = int(robust.sum()), len(robust)
    says = (
        f"{left} of {total} images are robust in the whole box"
        if left
        else f"all of {total} images are misclassified in the whole box"
    )
    return Flag(
        "unlimited radius", left > 0, says, {"robust": float(left), "images": float(total), "radius": eps}
    )


def alone(blind: np.ndarray, seeing: np.ndarray) -> Flag:
    """Look for images that attacks without gradients break and those with gradients, where they ran, do not.

    Args:
      blind, seeing: (a, n) outcomes of both kinds: 1 misclassified, 0 robust, -1 not run.

    Reference: the check of AutoAttack's code for Square, with its threshold of 0.2 % of all images, per example;
      Athalye et al. 2018, arXiv:1802.00420, section 3.1.
    """
    tried = (blind >= 0).any(axis=0) & (seeing >= 0).any(axis=0)
    only = int(((blind == 1).any(axis=0) & tried & ~(seeing == 1).any(axis=0)).sum())
    total = max(blind.shape[1], 1)
    says = f"{only} of {total} images are broken only without gradients"
    return Flag(
        "black box alone",
        only > SHARE * total,
        says,
        {"share": only / total, "tried by both": float(tried.sum())},
    )


def ahead(outcome: np.ndarray, margin: np.ndarray, blind: np.ndarray) -> Flag:
    """Look for images that are robust to everything, yet whose margin attacks without gradients bring nearer to zero.

    Args:
      outcome, margin: (a, n), margins NaN where an attack was not run; blind: (a,) bool, which use no gradients.
    """
    reached = np.where(np.isnan(margin), -np.inf, margin)
    without, by_gradient = reached[blind].max(axis=0), reached[~blind].max(axis=0)
    robust = ~(outcome == 1).any(axis=0) & np.isfinite(without) & np.isfinite(by_gradient)
    nearer, total = (
        int((robust & (without > by_gradient + NEARER * np.where(robust, np.abs(by_gradient), 0.0))).sum()),
        int(robust.sum()),
    )
    says = f"at {nearer} of {total} robust images, attacks without gradients come nearer"
    evidence = {"share": nearer / max(total, 1), "images": float(total)}
    return Flag("black box ahead", nearer > max(1.0, AHEAD * total), says, evidence)


def ties(margin: np.ndarray) -> Flag:
    """Look for outcomes that rounding could turn: images whose largest margin lies within `TIE` of zero.

    Args:
      margin: (a, n), NaN where an attack was not run.
    """
    known = ~np.isnan(margin)
    best = np.where(known, margin, -np.inf).max(axis=0, initial=-np.inf)
    near, total = int((np.abs(best) < TIE).sum()), margin.shape[1]
    says = f"the margin of {near} of {total} images lies within {TIE:g} of 0"
    return Flag(
        "near ties",
        near > SHARE * max(total, 1),
        says,
        {"images": float(near), "share": near / max(total, 1)},
    )


def _luck(total: int) -> float:
    return max(1.0, LUCK * total)
