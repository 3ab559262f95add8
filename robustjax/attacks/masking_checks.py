"""Gradient-masking checks: on a few images before an evaluation, in the outcomes of its attacks after."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8, PRNGKeyArray

from robustjax import l0
from robustjax.attacks import attack_comparison, flags, masking_measurements
from robustjax.attacks.flags import Flag as Flag
from robustjax.attacks.flags import rows as rows
from robustjax.attacks.solver import check_finite
from robustjax.threats import Threat
from robustjax.types import Labels, LogitsFn

PASSES = 5  # of the same images, as in AutoAttack
STRIDE = 2.5  # eps: the way that all steps make together, so that PGD can cross the ball
ITSELF = -1  # start of a walk at the image, not at a random point
SEARCHES = ("more steps", "noise", "one step")


def checks(
    key: PRNGKeyArray,
    logits_fn: LogitsFn,
    x: Array | np.ndarray,
    y: Array | np.ndarray,
    threat: Threat,
    *,
    steps: int = 20,
    draws: int = 50,
    search: bool = True,
) -> tuple[Flag, ...]:
    """Try the network and small attacks on it with a few images, some 64, and say what looks wrong.

    Random outputs, probabilities, NaN, no gradients; PGD that more steps do not help, that uniform noise, random
    search or a single step beats, or that fails although the whole box is allowed. It runs on the host and
    compiles five programs, which later networks that do the same to other parameters share. A flag is a reason to
    look closer; no flag is no proof.

    Args:
      key: one key, or one per image.
      logits_fn: the network, differentiable; traced twice, and called several times as it is if the traces differ.
      x, y: images and labels; misclassified ones are counted among those classified correctly at first.
      threat: where adversarial points may lie.
      steps: of PGD on cross-entropy and on the margin.
      draws: uniform points in the threat, and queries of Square, in l0 of Sparse-RS.
      search: whether to run it; `from_outcomes` sees more where it is one of the attacks.
    Returns:
      One flag per check; only "inputs" if outputs and labels do not fit.
    Raises:
      ValueError: if steps is less than 2, draws less than 1 or eps infinite.

    Reference: Athalye et al. 2018, arXiv:1802.00420, section 3.1; Carlini et al. 2019, arXiv:1902.06705; Croce and
      Hein 2020, arXiv:2003.01690, and the warnings of their code; Pintor et al. 2022, arXiv:2106.09947.
    """
    if steps < 2:
        raise ValueError(f"checks: steps is {steps}, must be at least 2")
    if draws < 1:
        raise ValueError(f"checks: draws is {draws}, must be at least 1")
    check_finite("checks", threat, l0=True)
    x, y = jnp.asarray(np.asarray(x, np.float32)), jnp.asarray(np.asarray(y, np.int32))
    shape: Any = getattr(jax.eval_shape(logits_fn, x), "shape", ())
    box = np.asarray(threat.lower), np.asarray(threat.upper)
    fit = flags.inputs(shape, np.asarray(x), np.asarray(y), *box)
    if not flags.fits(shape, np.asarray(y)):
        return (fit,)
    classes = shape[-1]

    network, again = (masking_measurements.hoisted(logits_fn, x) for _ in range(2))
    replays = np.stack([np.asarray(masking_measurements.look(network, x)) for _ in range(PASSES)])
    calls = replays
    if not masking_measurements.same_network(network, again):
        # A compiled program would replay what Python drew when it was traced: call the function itself.
        calls = np.stack([np.asarray(logits_fn(x), np.float32) for _ in range(PASSES)])
    right = (calls[0].argmax(axis=-1) == np.asarray(y)) & ~np.isnan(calls[0]).any(axis=-1)
    slopes = _slopes(network, x, y, classes)
    return (
        fit,
        flags.few_classes(classes),
        flags.randomised(calls, replays, np.asarray(y)),
        flags.probabilities(calls[0]),
        flags.not_finite(calls[0], {name: size for name, (size, _) in slopes.items()}),
        *(flags.zero_gradient(name, size[right], value[right]) for name, (size, value) in slopes.items()),
        *_searches(key, network, x, y, right, threat, steps, draws, search),
    )


def rehearse(
    network: masking_measurements.Hoisted,
    x: Array,
    y: Array,
    threat: Threat,
    *,
    draws: int = 50,
    search: bool = True,
) -> None:
    """Compile the programs of `checks` of the same images, threat and draws, by running them for a step or two."""
    x, y = jax.device_put((np.asarray(x, np.float32), np.asarray(y, np.int32)))
    logits = np.asarray(masking_measurements.look(network, x))
    _slopes(network, x, y, logits.shape[-1])
    _searches(jax.random.key(0), network, x, y, np.ones(len(x), bool), threat, 2, draws, search)


def from_outcomes(
    names: Sequence[str],
    outcome: Int8[np.ndarray, "a n"],
    margin: np.ndarray,
    *,
    black_box: Collection[str] = ("square",),
) -> tuple[Flag, ...]:
    """Look at what the attacks of a suite did to each image.

    Args:
      names: of the attacks.
      outcome: (a, n): 1 misclassified, 0 robust, -1 not run.
      margin: (a, n) the largest max_{j != y} z_j - z_y that each attack reached; NaN where it was not run.
      black_box: names of those that ask for no gradient.
    Returns:
      Flags about attacks without gradients that do better than the others, and about margins near zero.
    Raises:
      ValueError: if there is not one row per name.
    """
    outcome, margin = np.asarray(outcome), np.asarray(margin)
    if not len(names) == len(outcome) == len(margin):
        raise ValueError(
            f"from_outcomes: {len(names)} names, {len(outcome)} rows of outcomes and {len(margin)} of margins given, "
            "must be as many of each"
        )
    blind = np.array([name in black_box for name in names], bool)
    if blind.all() or not blind.any():
        why = "needs attacks with and without gradients"
        both = tuple(flags.unchecked(name, why) for name in ("black box alone", "black box ahead"))
    else:
        both = (
            attack_comparison.alone(outcome[blind], outcome[~blind]),
            attack_comparison.ahead(outcome, margin, blind),
        )
    return (*both, attack_comparison.ties(margin))


def _slopes(
    network: masking_measurements.Hoisted, x: Array, y: Labels, classes: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    losses = {"cross-entropy": False} | ({"DLR": True} if classes > 2 else {})
    found = {name: masking_measurements.slope(network, x, y, dlr) for name, dlr in losses.items()}
    return {name: (np.asarray(size), np.asarray(value)) for name, (size, value) in found.items()}


def _searches(
    key: PRNGKeyArray,
    network: LogitsFn,
    x: Array,
    y: Labels,
    right: np.ndarray,
    threat: Threat,
    steps: int,
    draws: int,
    search: bool,
) -> tuple[Flag, ...]:
    if not right.any():
        why = "no image is classified correctly"
        return tuple(flags.unchecked(name, why) for name in (*SEARCHES, "unlimited radius"))
    ball, box = _arrays(threat, threat.eps, x), _arrays(threat, _diameter(threat, x), x)
    radius, diameter = (float(np.max(one.eps)) for one in (ball, box))

    def walk(around: Threat, start: int, marks: Sequence[int], *, margin: bool, stride: float = STRIDE):
        share = stride / marks[-1]
        found = masking_measurements.walk(
            network, key, x, y, around, start, np.array(marks, np.int32), share, margin
        )
        return jax.tree.map(lambda column: np.asarray(column)[..., right], found)

    unlimited = flags.unchecked("unlimited radius", "the box is infinite")
    if np.isfinite(diameter):
        robust = right[right]
        for start, length in ((0, steps), (0, 5 * steps), (ITSELF, 5 * steps)):
            if robust.any():
                robust = robust & ~walk(box, start, (1, 1, length), margin=True).broken
        unlimited = attack_comparison.unlimited(robust, diameter)
    if not radius > 0:
        return (*(flags.unchecked(name, "the radius is 0") for name in SEARCHES), unlimited)

    marks = (1, max(1, steps // 4), steps)
    by_loss, by_margin = (walk(ball, 1, marks, margin=margin) for margin in (False, True))
    once = walk(ball, ITSELF, (1, 1, 1), margin=False, stride=1.0).last[-1]
    weak = {"uniform noise": masking_measurements.noise(network, key, x, y, ball, 2, draws)}
    if search:
        weak["random search"] = masking_measurements.searched(network, key, x, y, ball, 2 + draws, draws)
    many = by_loss.broken | by_margin.broken
    return (
        attack_comparison.more_steps(marks, by_loss.last, by_loss.rise, ~many),
        attack_comparison.beaten(
            "noise", {name: np.asarray(broken)[right] for name, broken in weak.items()}, many, luck=False
        ),
        attack_comparison.beaten("one step", {"one step": once}, many, luck=True),
        unlimited,
    )


def _diameter(threat: Threat, x: Array) -> float:
    span = np.asarray(threat.upper, np.float32) - np.asarray(threat.lower, np.float32)
    if threat.norm == "l0":
        return x[0].size / l0.width(x.shape, threat.channels) if np.isfinite(span).all() else np.inf
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.norm]
    return float(np.linalg.norm(np.broadcast_to(span, x.shape[1:]).ravel(), ord=order))


def _arrays(threat: Threat, eps: Any, x: Array) -> Threat:
    # Threats of equal shapes and types share a program.
    lower, upper = (np.asarray(edge, np.float32) for edge in (threat.lower, threat.upper))
    radii = np.broadcast_to(np.asarray(eps, np.float32), len(x)).copy()
    return dataclasses.replace(threat, eps=radii, lower=lower, upper=upper)
