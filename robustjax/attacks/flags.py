"""Gradient-masking checks as data, and those that the answers of a network show.

Every function takes numbers that somebody measured and gives a `Flag`; `masking_checks` measures. A flag that is not
raised is no proof of anything.
"""

from collections.abc import Sequence

import numpy as np

from robustjax.checks import SPREAD
from robustjax.checks import probabilities as probabilities
from robustjax.numerics import TINY
from robustjax.types import Flag as Flag


def rows(flags: Sequence[Flag]) -> list[dict[str, str | bool]]:
    """Turn flags into the rows of a table, those raised first."""
    return [
        {
            "check": flag.name,
            "raised": flag.raised,
            "what was seen": flag.says,
            "numbers": ", ".join(f"{name} {value:.4g}" for name, value in flag.evidence.items()),
        }
        for flag in sorted(flags, key=lambda flag: not flag.raised)
    ]


def unchecked(name: str, why: str) -> Flag:
    """Tell that a check could not be made."""
    return Flag(name, False, f"not checked: {why}", {})


def fits(shape: tuple[int, ...], y: np.ndarray) -> bool:
    """Say whether outputs of this shape can be logits and y their labels."""
    shaped = len(shape) == 2 and shape[1] > 1 and y.shape == shape[:1]
    return shaped and bool(((y >= 0) & (y < shape[1])).all())


def inputs(
    shape: tuple[int, ...], x: np.ndarray, y: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Flag:
    """Look for images, labels and outputs that do not fit each other.

    Args:
      shape: of what the network returns for x; x: images, (b, ...); y: labels, (b,).
      lower, upper: the box that the images must lie in.
    """
    shaped = len(shape) == 2 and shape[1] > 1 and shape[:1] == y.shape == x.shape[:1]
    strange = int(((y < 0) | (y >= shape[1])).sum()) if shaped else 0
    outside = float(np.max(np.maximum(lower - x, x - upper), initial=0, where=np.isfinite(x)))
    troubles = [
        (not shaped, f"logits are {shape} for images {x.shape} and labels {y.shape}, not (images, classes)"),
        (strange > 0, f"{strange} labels name no class"),
        (not np.isfinite(x).all(), "images hold NaN or infinite values"),
        (outside > 0, f"images lie up to {outside:.3g} outside the box"),
    ]
    seen = "; ".join(text for there, text in troubles if there)
    evidence = {"labels without class": float(strange), "outside the box": outside}
    return Flag("inputs", bool(seen), seen or "images, labels and logits fit each other", evidence)


def few_classes(classes: int) -> Flag:
    """Tell which losses of AutoAttack are undefined for so few classes.

    Reference: Croce and Hein 2020, arXiv:2003.01690: DLR needs three classes, targeted DLR four.
    """
    lost = ["DLR"] * (classes < 3) + ["targeted DLR"] * (classes < 4)
    says = f"undefined for {classes} classes: {' and '.join(lost)}; margins stand in" if lost else ""
    return Flag(
        "few classes", bool(lost), says or f"{classes} classes suffice for DLR", {"classes": float(classes)}
    )


def randomised(calls: np.ndarray, compiled: np.ndarray, y: np.ndarray) -> Flag:
    """Compare passes of the same images: z / |z| and the number of correct predictions.

    An attack on a random network keeps points by luck; average it over passes first.

    Args:
      calls: (p, b, k), logits from calls one after another, not through one compiled program.
      compiled: (q, b, k), from running one compiled program; it may round in another way than the calls.
      y: labels.

    Reference: Croce et al.'s AutoAttack warns from the same numbers; random defences: Athalye et al. 2018,
      arXiv:1802.00420.
    """
    spread, off, counts = 0.0, 0.0, []
    scaled = []
    for passes in (calls, compiled):
        known = np.where(np.isfinite(passes), passes, 0)
        unit = known / (np.linalg.norm(known, axis=-1, keepdims=True) + 1e-10)
        scaled.append(unit)
        pairs = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
        spread = max(spread, float(pairs.max()))
        right = (passes.argmax(axis=-1) == y).sum(axis=-1)
        counts.append(right)
        off = max(off, float(right.max() - right.min()))
    between = float(np.linalg.norm(scaled[0][0] - scaled[1][0], axis=-1).max())
    raised = spread > SPREAD or off > 0
    says = (
        f"passes of the same images differ by up to {spread:.2g} and in {off:.0f} correct predictions"
        if raised
        else f"{len(calls) + len(compiled)} passes of the same images agree"
    )
    evidence = {"spread": spread, "predictions": off, "compiled and not": between}
    return Flag("random outputs", raised, says, evidence)


def not_finite(logits: np.ndarray, slopes: dict[str, np.ndarray]) -> Flag:
    """Look for NaN and infinity in logits and gradients, where an ascent stands still or walks blindly.

    Args:
      logits: (b, k); slopes: by loss, the largest entry of each image's gradient, (b,), NaN or infinite if any is.
    """
    shares = {"logits": float((~np.isfinite(logits)).any(axis=-1).mean())}
    shares |= {f"gradients of {name}": float((~np.isfinite(size)).mean()) for name, size in slopes.items()}
    bad = [f"{name} at {100 * share:.3g} % of the images" for name, share in shares.items() if share > 0]
    says = f"NaN or infinite: {', '.join(bad)}" if bad else "logits and gradients are finite"
    return Flag("not finite", bool(bad), says, shares)


def zero_gradient(loss: str, slope: np.ndarray, value: np.ndarray) -> Flag:
    """Look for images at which a loss has no gradient, so that an attack along it cannot move.

    Zero is what the attacks of this package take for zero, `numerics.TINY`, and one image is enough, as in AutoAttack:
    it will count as robust.

    Args:
      loss: its name; slope: the largest entry of each gradient, (b,); value: of the loss, (b,).

    Reference: vanishing gradients as defence: Athalye et al. 2018, arXiv:1802.00420; as indicator of
      failure: Pintor et al. 2022, arXiv:2106.09947; of cross-entropy, by scale alone: Croce and Hein 2020,
      arXiv:2003.01690.
    """
    known = slope[np.isfinite(slope)]
    gone = int((known <= TINY).sum())
    says = (
        f"{loss} has no gradient at {gone} of {len(slope)} images"
        if gone
        else f"{loss} has gradients everywhere"
    )
    evidence = {
        "share zero": gone / max(len(slope), 1),
        "median": float(np.median(known)) if len(known) else 0.0,
        "share with loss 0": float((value == 0).mean()) if len(value) else 0.0,
    }
    return Flag(f"no gradient of {loss}", gone > 0, says, evidence)
