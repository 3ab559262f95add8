"""Kinds of attack on a score by name, and the corrupted images that several scores are judged on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.catalog import ood_losses
from robustjax.catalog.detectors import Kit
from robustjax.data.sources import Split
from robustjax.numerics import fold
from robustjax.ood import presets, score_attacks
from robustjax.ood import surrogates as published
from robustjax.ood.corruption_attacks import copies
from robustjax.ood.score_attacks import Sides
from robustjax.ood.scores import Score
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.threats import Threat

PUBLISHED = ("aloe", "atom", "atd")  # presets in linf
KINDS = ("adaptive", "strong", *PUBLISHED)


def sides(
    kind: str, kit: Kit, score: Score, around: Score | None, *, norm: Any, eps: Any, steps: int, restarts: int
) -> Sides:
    """Build a kind of attack at a radius, which may be traced.

    adaptive: APGD on the score, and around its input step where it has one. strong: that and every surrogate and
    class. aloe, atom, atd: as those papers evaluate; ATOM leaves data alone.
    """
    threat = Threat(norm, eps)
    if kind == "adaptive":
        raised = [score] if around is None else [score, around]
        lowered = [_negative(one) for one in raised]
        ascent = apgd(threat, steps=steps)
        return Sides(
            score_attacks.down(ascent, score, surrogates=lowered, restarts=restarts),
            score_attacks.up(ascent, score, surrogates=raised, restarts=restarts),
        )
    if kind == "strong":
        return presets.strong(threat, score, kit.logits_fn, steps=steps, restarts=restarts)
    if kind == "aloe":
        return presets.aloe(kit.logits_fn, score, eps=eps)
    if kind == "atd":
        return presets.atd(score, eps=eps)
    rejecting = kit.method in ood_losses.REJECTING
    surrogate = (
        published.away_from_rejection(kit.logits_fn, classes=kit.classes)
        if rejecting
        else objectives.ce_to_uniform(kit.logits_fn)
    )
    return presets.atom(score, surrogate, eps=eps)


def corrupted(split: Split, *, seed: int, batch_size: int, say: Callable[[str], None]) -> np.ndarray:
    """Make all 95 corrupted copies of every image, bytes (95, n, h, w, c); each corruption compiles once."""
    count = len(split.label)
    size = min(batch_size, count)
    made = np.empty((5 * len(CORRUPTIONS), *split.image.shape), np.uint8)
    for i, name in enumerate(CORRUPTIONS):
        say(f"{split.info.name}: {name}")
        one = jax.jit(copies(name))
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows, jnp.int32))
            found = one(fold(keys, i), jnp.asarray(split.image[rows], jnp.float32) / 255)
            keep = min(size, count - start)
            made[5 * i : 5 * i + 5, start : start + keep] = np.rint(255 * np.asarray(found))[:, :keep]
    return made


def _negative(score: Score) -> Score:
    return lambda x: -score(x)
