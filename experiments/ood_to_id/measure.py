"""What experiments on translation measure: the gate, the detection claim with its controls, natural shifts, attacks.

Everything that is compiled takes networks as `jax.tree_util.Partial`s over their weights, so that other seeds and other
translators of the same shapes share programs.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id.recipe import Network
from robustjax import logit
from robustjax.attacks import gated_objectives, masking_checks, objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.evaluation import defences, gated_cases, headline, purifier
from robustjax.evaluation.gated_cases import GatedCase
from robustjax.evaluation.purifier import Assessment
from robustjax.numerics import keys_for
from robustjax.ood import controls, feature_scores, gaussian_scores, logit_scores
from robustjax.ood.gates import Gate, score_of
from robustjax.ood.gates import gated as gate_of
from robustjax.ood.metrics import threshold_keeping
from robustjax.ood.odin import odin
from robustjax.ood.ssd import Unsquared, ssd
from robustjax.ood.translate import Defence, defended, gathered, route_table
from robustjax.perturbations import tones
from robustjax.threats import Threat
from robustjax.types import Batch

Arrays = dict[str, np.ndarray]
SHOWN = 10  # images whose attacked versions are kept for pictures
SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)  # of eps
SHIFTS = (
    ("darker", 0.7),
    ("darker", 0.5),
    ("darker", 0.3),
    ("darker", 0.1),
    ("sharper", 2.0),
    ("sharper", 4.0),
)


class Parts(NamedTuple):
    """What a system is made of, as arguments for compiled functions.

    Attributes:
      f: images -> logits.
      translate: (keys, images) -> images.
      eyes: features that attacks may match and detectors read: of the encoder, and of f before its last layer.
      calibration: held-out training images, which set thresholds.
    """

    f: Any
    translate: Any
    eyes: tuple[Any, Any]
    calibration: Any


def as_logits(network: Network) -> Any:
    """Turn a network into images -> logits, a `Partial` over its weights."""
    return jax.tree_util.Partial(_run(network.model.apply), network.params, network.state)


def as_features(network: Network) -> Any:
    """Turn a network into images -> (b, d), what comes before its head: a `Partial` over its weights."""
    return jax.tree_util.Partial(_tapped(network.model.features), network.params, network.state)


@functools.cache
def _run(apply: Any) -> Callable[..., Any]:
    return lambda params, state, x: apply(params, state, x)[0].astype(jnp.float32)


@functools.cache
def _tapped(features: Any) -> Callable[..., Any]:
    def last(params: Any, state: Any, x: Any) -> Any:
        taps = features(params, state, x)
        return taps[max(taps)].astype(jnp.float32)

    return last


# --- gates and detectors ----------------------------------------------------------------------------------


def detectors(parts: Parts, train: Batch) -> dict[str, Any]:
    """Fit every score on training images: larger on data."""
    label = np.asarray(train.label)
    ours, theirs = (np.asarray(jax.jit(eye)(train.image)) for eye in parts.eyes)
    margin, energy = (jax.tree_util.Partial(form) for form in (logit_scores.msp_margin, logit_scores.energy))
    return {
        "SSD": score_of(parts.eyes[0], Unsquared(ssd(ours, covariance="truncated"))),
        "Mahalanobis of f": score_of(
            parts.eyes[1], Unsquared(gaussian_scores.mahalanobis(theirs, label, shrinkage="ledoit-wolf"))
        ),
        "nearest neighbours": score_of(parts.eyes[0], feature_scores.knn(ours, neighbours=10)),
        "max softmax": score_of(parts.f, margin),
        "energy": score_of(parts.f, energy),
        "ODIN": jax.tree_util.Partial(odin(parts.f)),
    }


def calibrated(score: Any, calibration: Any, *, rate: float = 0.05, distance: bool = True) -> Gate:
    """Set the threshold on held-out training images; the unit of the gap is the threshold itself for distances."""
    scores = np.asarray(jax.jit(lambda x: score(x))(jnp.asarray(calibration)))
    threshold = threshold_keeping(scores, 1 - rate)
    return gate_of(score, threshold, calibration=None if distance else scores)


# --- is what is adversarial an outlier? -------------------------------------------------------------------


@jax.jit
def _climbed(key: Any, f: Any, x: Any, y: Any, eps: Any) -> Any:
    ascent = pgd(Threat("linf", eps), steps=40, step_size=eps / 10)
    return against(ascent, objectives.cross_entropy)(key, f, x, y).x


def families(parts: Parts, test: Batch, eps: float, other: Any) -> dict[str, Any]:
    """Make everything whose scores the detection claim is read from: attacks, and noise of the same size.

    Args:
      parts: of the system.
      test: images and labels.
      eps: radius, linf.
      other: logits of a classifier trained against attacks.
    """
    key, x, y = jax.random.key(11), test.image, test.label
    found = {"clean": x}
    for share in SHARES:
        found[f"PGD {share:g} eps"] = _climbed(key, parts.f, x, y, jnp.float32(share * eps))
        found[f"sign noise {share:g} eps"] = controls.sign_noise(key, x, share * eps)
    strong = found["PGD 1 eps"]
    return found | {
        "PGD 1 eps, 8 bits": controls.rounded(strong),
        "uniform noise 1 eps": controls.uniform_noise(key, x, eps),
        "normal noise as far as PGD": controls.as_far(key, x, strong),
        "PGD on an adversarially trained f": _climbed(key, other, x, y, jnp.float32(eps)),
    }


def detection(
    parts: Parts, scores: Mapping[str, Any], gate: Gate, test: Batch, eps: float, other: Any
) -> Arrays:
    """Score all families by all detectors, and say where f and the defence err."""
    found, out = families(parts, test, eps, other), {}
    defence = Defence(parts.f, parts.translate, gate)

    @jax.jit
    def errs(defence: Defence, other: Any, x: Any, y: Any) -> Any:
        answer = defended(defence)(jax.random.key(0), x)
        logits = (answer.plain, answer.logits, answer.through, other(x))
        moved = jnp.abs(jnp.clip(defence.translate(jax.random.key(0), x), 0, 1) - test.image).mean((1, 2, 3))
        wrong = jnp.stack([logit.correct(z, y) < 0.5 for z in logits])
        return wrong, answer.routed, moved, jnp.abs(x - test.image).mean((1, 2, 3))

    for name, x in found.items():
        keys = ("wrong", "routed", "after", "before")
        out |= dict(zip((f"{name}/{k}" for k in keys), errs(defence, other, x, test.label), strict=True))
        out[f"{name}/shown"] = x[:SHOWN]
    for name, score in scores.items():
        run = jax.jit(lambda x, score=score: score(x))
        out |= {f"{family}/score/{name}": run(x) for family, x in found.items()}
        out[f"calibration/score/{name}"] = run(jnp.asarray(parts.calibration))
    through = jax.jit(lambda d, x: jnp.clip(d(jax.random.key(0), x), 0, 1))
    for name in ("clean", "PGD 1 eps"):
        out[f"{name}/translated"] = through(parts.translate, found[name][:SHOWN])
    return {name: np.asarray(value) for name, value in out.items()}


# --- natural shifts ---------------------------------------------------------------------------------------


def natural(parts: Parts, gate: Gate, translators: Mapping[str, Any], test: Batch) -> list[dict[str, Any]]:
    """Judge translators on images darker or sharper: by route, and with every image translated."""

    @jax.jit
    def answered(defence: Defence, x: Any) -> Any:
        return defended(defence)(jax.random.key(0), x)

    rows = []
    for name, strength in SHIFTS:
        x = tones.SHIFTS[name].apply(test.image, jnp.full(len(test.image), strength, jnp.float32))
        for trained, translate in translators.items():
            answer = answered(Defence(parts.f, translate, gate), x)
            table = route_table(test.label, answer.plain, answer.through, answer.routed)
            rows.append({"shift": f"{name} {strength:g}", "T trained on": trained} | table)
    return rows


# --- attacks ----------------------------------------------------------------------------------------------


def attacked(
    defence: Defence,
    test: Batch,
    eps: float,
    plan: Sequence[GatedCase],
    *,
    seed: int,
    batch_size: int = 128,
    progress: Any = None,
    **more: Any,
) -> Assessment:
    """Run a plan in linf; the radius is an argument of its programs."""
    threat = Threat("linf", jnp.float32(eps), jnp.float32(0), jnp.float32(1))
    x, y = test.image, test.label
    key = jax.random.key(seed)
    return purifier.assess(key, defence, x, y, threat, plan, batch_size=batch_size, progress=progress, **more)


def sweep(steps: int) -> tuple[GatedCase, ...]:
    """List what is enough to break a defence where everything is allowed, of the programs of `gated_cases.adaptive`.

    A3 comes first, so that it tries all images also where the others are tried on what is left.
    """
    long = steps + steps // 2
    return (
        GatedCase("A3 gate bypass", "TM3", gated_objectives.selective, gated_cases.even, long, goal="unseen"),
        GatedCase("A3 gate bypass", "TM3", gated_objectives.unseen, steps=steps, penalty=15.0, goal="unseen"),
        GatedCase("A1 through translator", "TM3", gated_objectives.through, steps=steps),
        GatedCase("A4 soft gate", "TM3", gated_objectives.softened, gated_cases.even, steps, anneal=10.0),
    )


def alone(defence: Defence, images: Any, *, key: Any = None, passes: int | None = None) -> np.ndarray:
    """Answer f(T(x)) for the first images, each in a batch of its own, with the draws `attacked` gives them."""
    keys = keys_for(jax.random.key(0) if key is None else key, len(images))

    @jax.jit
    def one(defence: Defence, keys: Any, x: Any) -> Any:
        return defences.seen_by(defence, keys, slope="exact", passes=passes).through(x)

    x, given = jnp.asarray(images), defences.as_argument(defence)
    return np.concatenate([np.asarray(one(given, keys[i : i + 1], x[i : i + 1])) for i in range(len(x))])


def probes(defence: Defence, test: Batch, eps: float) -> tuple[masking_checks.Flag, ...]:
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


def in_arrays(found: Assessment) -> Arrays:
    """Turn an assessment into arrays for a file, with the first points of every attack only."""
    out = {name: np.asarray(getattr(found, name)) for name in found.__dataclass_fields__}
    return out | {"x": found.x[:, :SHOWN]}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Assessment:
    """Undo `in_arrays`."""
    names = {name: tuple(str(one) for one in arrays[name]) for name in ("attacks", "models")}
    return Assessment(**{n: names.get(n, arrays[n]) for n in Assessment.__dataclass_fields__})  # pyright: ignore


def told(
    found: Assessment,
    test: Batch,
    calibration: Any,
    single: np.ndarray,
    at_one: float | None,
    exempt: Sequence[str] = (),
) -> headline.Headline:
    """Say what may be printed of a defence."""
    return headline.headline(
        found, images=test.image, calibration=calibration, single=single, at_one=at_one, exempt=exempt
    )


def paths(defence: Defence, test: Batch) -> Arrays:
    """Compare the ways to run a defence: both branches or only what is routed, many images or one."""
    key = jax.random.key(0)
    given = defences.as_argument(defence)
    both = jax.jit(lambda d, x: defended(d)(key, x))(given, test.image)
    host, routed = gathered(defence)(key, test.image)
    plain = np.asarray(jax.jit(defence.logits_fn)(test.image))
    one = gathered(defence)
    single = np.concatenate([one(key, test.image[i : i + 1])[0] for i in range(min(16, len(test.image)))])
    return {
        "paths/unrouted_bits": np.array((host[~routed] == plain[~routed]).all()),
        "paths/labels": np.array((host.argmax(1) == np.asarray(both.logits).argmax(1)).all()),
        "paths/difference": np.abs(host - np.asarray(both.logits)).max(),
        "paths/alone_labels": np.array((single.argmax(1) == host[: len(single)].argmax(1)).all()),
        "paths/alone_difference": np.abs(single - host[: len(single)]).max(),
    }
