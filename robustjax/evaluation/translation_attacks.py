"""Attack a classifier behind a gate and a translator: the plans, the radius at which all must fall, and the headline.

What experiments on OOD-to-ID translation ask of the attack runner is in this module alone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.attacks import gated_objectives, masking_checks
from robustjax.attacks.flags import Flag
from robustjax.evaluation import defences, gated_cases, purifier
from robustjax.evaluation.assessments import Assessment as Assessment
from robustjax.evaluation.assessments import joined as joined
from robustjax.evaluation.defences import as_argument as as_argument
from robustjax.evaluation.gated_cases import GatedCase as GatedCase
from robustjax.evaluation.headline import Headline as Headline
from robustjax.evaluation.headline import by_attack as by_attack
from robustjax.evaluation.headline import by_threat_model as by_threat_model
from robustjax.evaluation.headline import headline
from robustjax.evaluation.headline import masking as masking
from robustjax.evaluation.runner import Progress
from robustjax.numerics import keys_for
from robustjax.ood.translate import Defence
from robustjax.threats import Threat
from robustjax.types import Batch

Arrays = dict[str, np.ndarray]
SHOWN = 10  # images whose attacked versions are kept for pictures


def static() -> tuple[GatedCase, ...]:
    """List the attacks of TM0, which know the classifier alone."""
    return gated_cases.static()


def adaptive(
    classes: int,
    *,
    steps: int,
    restarts: int,
    targets: int,
    queries: int,
    estimates: int,
    penalties: tuple[float, ...] = (1.5, 15.0, 150.0),
    matches: int = 3,
) -> tuple[GatedCase, ...]:
    """List the attacks of TM1 to TM3; see `gated_cases.adaptive`."""
    return gated_cases.adaptive(
        classes, steps=steps, restarts=restarts, targets=targets, queries=queries, estimates=estimates,
        penalties=penalties, matches=matches,
    )  # fmt: skip


def transferred(steps: int) -> tuple[GatedCase, ...]:
    """List the attacks of TM4, which know a copy that was trained independently."""
    return gated_cases.transferred(steps)


def at_radius_one(steps: int) -> tuple[GatedCase, ...]:
    """List what is enough to break a defence where everything is allowed, of the programs of `adaptive`.

    A3 comes first, so that it tries all images also where the others are tried on what is left.
    """
    long = steps + steps // 2
    return (
        GatedCase("A3 gate bypass", "TM3", gated_objectives.selective, gated_cases.even, long, goal="unseen"),
        GatedCase("A3 gate bypass", "TM3", gated_objectives.unseen, steps=steps, penalty=15.0, goal="unseen"),
        GatedCase("A1 through translator", "TM3", gated_objectives.through, steps=steps),
        GatedCase("A4 soft gate", "TM3", gated_objectives.softened, gated_cases.even, steps, anneal=10.0),
    )


def on_the_classifier(case: GatedCase) -> GatedCase:
    """Turn A1 against a classifier without a gate: nothing is translated, so what goes through is the classifier."""
    return dataclasses.replace(case, surrogate=gated_objectives.unseen)


def attack_defence(
    defence: Defence,
    test: Batch,
    eps: float,
    plan: Sequence[GatedCase],
    *,
    seed: int,
    batch_size: int = 128,
    samples: int | None = None,
    copy: Defence | None = None,
    pool: tuple[Any, Any] | None = None,
    every: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Assessment:
    """Run a plan in linf; the radius is an argument of its programs.

    Args:
      defence: what is attacked.
      test: images and labels.
      eps: radius, linf.
      plan: the attacks.
      seed: of all draws.
      batch_size: images on the device.
      samples: draws of a random translator that every gradient averages; None for a fixed draw.
      copy: another training of the defence, for attacks that transfer.
      pool: images and labels whose features may be matched.
      every: attack all images; else only those that no attack before has brought to an error.
      progress: called after every segment of an attack.
    """
    threat = Threat("linf", jnp.float32(eps), jnp.float32(0), jnp.float32(1))
    return purifier.assess(
        jax.random.key(seed), defence, test.image, test.label, threat, plan, batch_size=batch_size, passes=samples,
        copy=copy, pool=pool, every=every, progress=progress,
    )  # fmt: skip


def robust(found: Assessment, *names: str) -> np.ndarray:
    """Say which images are right under the attacks of these names or threat models, or under all: (n,)."""
    return found.robust(*names)


def one_by_one(defence: Defence, images: Any, *, key: Any = None, samples: int | None = None) -> np.ndarray:
    """Compute f(T(x)) for images, each in a batch of its own, with the draws that `attack_defence` gives them."""
    keys = keys_for(jax.random.key(0) if key is None else key, len(images))

    @jax.jit
    def one(defence: Defence, keys: Any, x: Any) -> Any:
        return defences.seen_by(defence, keys, slope="exact", passes=samples).through(x)

    x, given = jnp.asarray(images), as_argument(defence)
    return np.concatenate([np.asarray(one(given, keys[i : i + 1], x[i : i + 1])) for i in range(len(x))])


def gradient_checks(defence: Defence, test: Batch, eps: float) -> tuple[Flag, ...]:
    """Look for masked gradients of f after T, on 64 images; fewer would say little."""
    if len(test.label) < 64:
        return ()
    return masking_checks.checks(
        jax.random.key(3), jax.tree_util.Partial(_through, defence.logits_fn, defence.translate), test.image[:64],
        test.label[:64], Threat("linf", eps), steps=20, draws=20,
    )  # fmt: skip


def _through(f: Any, translate: Any, x: Any) -> Any:
    keys = jax.random.split(jax.random.key(0), len(x))
    return f(jnp.clip(translate(keys, x), 0.0, 1.0))


def conclude(
    found: Assessment,
    test: Batch,
    calibration: Any,
    single: np.ndarray,
    at_one: float | None,
    exempt: Sequence[str] = (),
) -> Headline:
    """Say what may be printed of a defence; see `headline.headline`."""
    return headline(
        found, images=test.image, calibration=calibration, single=single, at_one=at_one, exempt=exempt
    )


def in_arrays(found: Assessment) -> Arrays:
    """Turn an assessment into arrays for a file, with the first points of every attack only."""
    out = {name: np.asarray(getattr(found, name)) for name in found.__dataclass_fields__}
    return out | {"x": found.x[:, :SHOWN]}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Assessment:
    """Undo `in_arrays`."""
    names = {name: tuple(str(one) for one in arrays[name]) for name in ("attacks", "models")}
    fields: dict[str, Any] = {n: names.get(n, arrays[n]) for n in Assessment.__dataclass_fields__}
    return Assessment(**fields)
