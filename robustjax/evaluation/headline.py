"""When a robust accuracy may be printed: what a strict evaluation of a defence must have done, checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustjax.analysis.intervals import Estimate, proportion
from robustjax.attacks import masking_checks
from robustjax.attacks.flags import Flag
from robustjax.evaluation.defence_results import DefenceResults

LEAST = 200  # examples
NEEDED = ("A1", "A2", "A3", "A4")
BROKEN = 0.05  # the accuracy that radius 1 must not leave
APART = 0.10  # the worst case below the static number by more than this takes its place


@dataclasses.dataclass(frozen=True)
class Headline:
    """The number to print, or why none may be.

    Attributes:
      estimate: accuracy under everything that was tried, with its Clopper-Pearson interval; None if refused.
      static: accuracy under attacks that know f alone (TM0), None if there were none.
      refusals: why there is no number; empty if there is one.
      says: one line for a report.
    """

    estimate: Estimate | None
    static: Estimate | None
    refusals: tuple[str, ...]
    says: str


def headline(
    found: DefenceResults,
    *,
    images: Any,
    calibration: Any | None,
    single: Any | None,
    at_one: float | None,
    exempt: Sequence[str] = (),
) -> Headline:
    """Refuse a robust accuracy that the evaluation does not support.

    There is none if A1 to A4 were not all run, on fewer than 200 examples, if a point left its ball or the box, if
    the gate's threshold comes from test images (or it is unknown whence), if the translator's answer depends on its
    batch-mates, or if radius 1 leaves more than 5 % accuracy: then the attacks do not work.

    Args:
      found: what attacks did.
      images: those attacked, (n, ...).
      calibration: the images that the threshold comes from; None if unknown, which is refused.
      single: (m, k) logits of f(T(x)) for the first m images, each in a batch of its own; None is refused.
      at_one: accuracy at radius 1 (linf), or where every image of the box is allowed; None is refused.
      exempt: attacks that make no sense here, such as those on the gate of a classifier without one.
    """
    refusals = [
        *_not_run(found, exempt),
        *_too_few(found),
        *(
            f"points of {name} left the ball or the box"
            for name, stayed in zip(found.attacks, found.feasible, strict=True)
            if not stayed
        ),
        *_calibrated(images, calibration),
        *_alone(found, single),
        *_unlimited(at_one),
    ]  # fmt: skip
    static = proportion(found.robust("TM0")) if "TM0" in found.models else None
    if refusals:
        return Headline(None, static, tuple(refusals), "no robust accuracy: " + "; ".join(refusals))
    worst = proportion(found.robust())
    says = f"robust accuracy {percent(worst)} under the worst of {len(found.attacks)} attacks"
    if static is not None:
        gap = static.value - worst.value
        says += f"; against attacks that do not know the defence {percent(static)}"
        says += f", {100 * gap:.0f} points too high" if gap > APART else ""
    return Headline(worst, static, (), says)


def by_threat_model(found: DefenceResults) -> dict[str, Estimate]:
    """Estimate the accuracy under each threat model; TM3 knows everything, so it counts all attacks."""
    models = sorted(set(found.models) | {"TM3"})
    return {m: proportion(found.robust() if m == "TM3" else found.robust(m)) for m in models}


def by_attack(found: DefenceResults) -> list[dict[str, Any]]:
    """Tabulate what each attack left, found unseen by the gate, and cost."""
    return [
        {
            "attack": name,
            "threat model": model,
            "accuracy %": percent(proportion(found.robust(name))),
            "fooled f unseen %": f"{100 * found.unseen[i].mean():.1f}",
            "runs": int(found.runs[i]),
            "iterations x images": int(found.gradients[i]),
            "seconds": f"{found.seconds[i]:.1f}",
        }
        for i, (name, model) in enumerate(zip(found.attacks, found.models, strict=True))
    ]


def masking(found: DefenceResults, checks: Sequence[Flag] = ()) -> tuple[Flag, ...]:
    """Look for signs of masked gradients: searches without gradients that find more than those with.

    Args:
      found: what attacks did.
      checks: flags of `masking_checks.checks` on f after T, whose gradients the attacks on the translator use.
    """
    own = [i for i, m in enumerate(found.models) if m in ("TM1", "TM3")]
    outcome = np.where(found.tried[own], found.wrong[own].astype(np.int8), -1).astype(np.int8)
    outcome = np.where(found.clean_wrong, -1, outcome)
    names = [found.attacks[i] for i in own]
    black = [name for i, name in zip(own, names, strict=True) if found.models[i] == "TM1"]
    margin = np.where(outcome >= 0, found.margin[own], np.nan)
    return (*checks, *masking_checks.from_outcomes(names, outcome, margin, black_box=black))


def percent(found: Estimate) -> str:
    """Write a proportion in percent with its interval."""
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _not_run(found: DefenceResults, exempt: Sequence[str]) -> list[str]:
    ran: Mapping[str, bool] = {
        name: bool(found.tried[i].any() and found.runs[i] > 0) or bool(found.clean_wrong.all())
        for i, name in enumerate(found.attacks)
    }
    missing = [
        a
        for a in NEEDED
        if a not in exempt and not any(name.split()[0] == a and ok for name, ok in ran.items())
    ]
    return [f"{', '.join(missing)} not run"] if missing else []


def _too_few(found: DefenceResults) -> list[str]:
    n = len(found.label)
    return [f"{n} examples, needs at least {LEAST}"] if n < LEAST else []


def _calibrated(images: Any, calibration: Any | None) -> list[str]:
    if calibration is None:
        return ["it is not known which images the threshold comes from"]
    seen = {np.ascontiguousarray(one, np.float32).tobytes() for one in np.asarray(calibration)}
    shared = sum(np.ascontiguousarray(one, np.float32).tobytes() in seen for one in np.asarray(images))
    return [f"the threshold comes from test images: {shared} of them are in both sets"] if shared else []


def _alone(found: DefenceResults, single: Any | None) -> list[str]:
    if single is None:
        return ["it is not known whether the translator depends on the batch"]
    alone = np.asarray(single)
    off = float(np.abs(alone - found.through[: len(alone)]).max(initial=0.0))
    scale = max(float(np.abs(alone).max(initial=0.0)), 1.0)
    same = (alone.argmax(axis=1) == found.through[: len(alone)].argmax(axis=1)).all()
    if same and off <= 1e-3 * scale:
        return []
    return [f"the translator depends on the batch: logits of an image alone differ by {off:.2g}"]


def _unlimited(at_one: float | None) -> list[str]:
    if at_one is None:
        return ["radius 1 was not tried"]
    return (
        [f"radius 1 leaves {100 * at_one:.1f} % accuracy: the attacks do not work"] if at_one > BROKEN else []
    )
