"""What OOD-to-ID translation does: the gate, its detection of attacks beside noise, natural shifts, resubmissions.

Everything that is compiled takes networks as `jax.tree_util.Partial`s over their weights, so that other seeds and other
translators of the same shapes share programs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import logit
from robustjax.analysis.intervals import proportion
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.data.subsets import batch_subset
from robustjax.evaluation.defence_results import SHOWN, Arrays, DefenceResults
from robustjax.evaluation.defences import as_argument
from robustjax.evaluation.headline import percent
from robustjax.numerics import in_float32
from robustjax.ood import controls, feature_scores, gaussian_scores, logit_scores
from robustjax.ood.gates import Gate, score_of, together, window_threshold
from robustjax.ood.gates import gated as gate_of
from robustjax.ood.gaussian_scores import mahalanobis
from robustjax.ood.metrics import auroc, threshold_keeping
from robustjax.ood.odin import odin
from robustjax.ood.scores import Score
from robustjax.ood.ssd import Unsquared, ssd
from robustjax.ood.translate import Defence, any_wrong, defended, gathered, majority, predictions, route_table
from robustjax.perturbations import tones
from robustjax.threats import Threat
from robustjax.types import Batch, Network

SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)  # of eps
SHIFTS = (
    ("darker", 0.7),
    ("darker", 0.5),
    ("darker", 0.3),
    ("darker", 0.1),
    ("sharper", 2.0),
    ("sharper", 4.0),
)
GROUP = 10  # images that a grouped gate decides on together
WINDOW = 100  # test images that its threshold comes from
GROUPED_FIT = 1000  # training images that its covariance comes from


class Parts(NamedTuple):
    """What a system is made of, as arguments for compiled functions.

    Attributes:
      f: images -> logits.
      translate: (keys, images) -> images.
      features: of the encoder, and of f before its last layer: what detectors read and attacks may match.
      calibration: held-out training images, which set thresholds.
    """

    f: Any
    translate: Any
    features: tuple[Any, Any]
    calibration: Any


def as_logits(network: Network) -> Any:
    """Turn a network into images -> logits, a `Partial` over its weights."""
    return jax.tree_util.Partial(_logits(network.model.apply), network.params, network.state)


def as_features(network: Network) -> Any:
    """Turn a network into images -> (b, d), what comes before its head: a `Partial` over its weights."""
    return jax.tree_util.Partial(_last_features(network.model.features), network.params, network.state)


@functools.cache
def _logits(apply: Any) -> Callable[..., Any]:
    return lambda params, state, x: apply(params, state, x)[0].astype(jnp.float32)


@functools.cache
def _last_features(features: Any) -> Callable[..., Any]:
    def last(params: Any, state: Any, x: Any) -> Any:
        taps = features(params, state, x)
        return taps[max(taps)].astype(jnp.float32)

    return last


# --- gates and detectors ----------------------------------------------------------------------------------


def detectors(parts: Parts, train: Batch) -> dict[str, Any]:
    """Fit every score on training images: larger on ID images."""
    label = np.asarray(train.label)
    of_encoder, of_f = (np.asarray(jax.jit(in_float32(one))(train.image)) for one in parts.features)
    margin, energy = (jax.tree_util.Partial(form) for form in (logit_scores.msp_margin, logit_scores.energy))
    return {
        "SSD": score_of(parts.features[0], Unsquared(ssd(of_encoder, covariance="truncated"))),
        "Mahalanobis of f": score_of(
            parts.features[1], Unsquared(gaussian_scores.mahalanobis(of_f, label, shrinkage="ledoit-wolf"))
        ),
        "nearest neighbours": score_of(parts.features[0], feature_scores.knn(of_encoder, neighbours=10)),
        "max softmax": score_of(parts.f, margin),
        "energy": score_of(parts.f, energy),
        "ODIN": jax.tree_util.Partial(odin(parts.f)),
    }


def calibrated(score: Score, calibration: Any, *, rate: float = 0.05, distance: bool = True) -> Gate:
    """Set a gate's threshold on held-out training images.

    Args:
      score: larger on ID images.
      calibration: the images.
      rate: the share of them that the gate routes.
      distance: whether the score is minus a distance; the unit of the gap is then the threshold itself.
    """
    scores = np.asarray(jax.jit(in_float32(lambda x: score(x)))(jnp.asarray(calibration)))
    threshold = threshold_keeping(scores, 1 - rate)
    return gate_of(score, threshold, calibration=None if distance else scores)


# --- is what is adversarial OOD? --------------------------------------------------------------------------


@jax.jit
def _attacked(key: Any, f: Any, x: Any, y: Any, eps: Any) -> Any:
    ascent = pgd(Threat("linf", eps), steps=40, step_size=eps / 10)
    return against(ascent, objectives.cross_entropy)(key, f, x, y).x


def image_families(parts: Parts, test: Batch, eps: float, other: Any) -> dict[str, Any]:
    """Make the images whose scores the detection claim is read from: attacks, and noise of the same size.

    Args:
      parts: of the system.
      test: images and labels.
      eps: radius, linf.
      other: logits of a classifier trained against attacks.
    """
    key, x, y = jax.random.key(11), test.image, test.label
    found = {"clean": x}
    for share in SHARES:
        found[f"PGD {share:g} eps"] = _attacked(key, parts.f, x, y, jnp.float32(share * eps))
        found[f"sign noise {share:g} eps"] = controls.sign_noise(key, x, share * eps)
    strong = found["PGD 1 eps"]
    return found | {
        "PGD 1 eps, 8 bits": controls.rounded(strong),
        "uniform noise 1 eps": controls.uniform_noise(key, x, eps),
        "normal noise as far as PGD": controls.as_far(key, x, strong),
        "PGD on an adversarially trained f": _attacked(key, other, x, y, jnp.float32(eps)),
    }


def detection(
    parts: Parts, scores: Mapping[str, Any], gate: Gate, test: Batch, eps: float, other: Any
) -> Arrays:
    """Score all families by all detectors, and say where f and the defence err."""
    found, out = image_families(parts, test, eps, other), {}
    defence = Defence(parts.f, parts.translate, gate)

    @jax.jit
    @in_float32
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
        run = jax.jit(in_float32(lambda x, score=score: score(x)))
        out |= {f"{family}/score/{name}": run(x) for family, x in found.items()}
        out[f"calibration/score/{name}"] = run(jnp.asarray(parts.calibration))
    through = jax.jit(lambda d, x: jnp.clip(d(jax.random.key(0), x), 0, 1))
    for name in ("clean", "PGD 1 eps"):
        out[f"{name}/translated"] = through(parts.translate, found[name][:SHOWN])
    return {name: np.asarray(value) for name, value in out.items()}


def noise_and_shifts(defence: Defence, test: Batch, eps: float, attacked: Any | None) -> list[dict[str, str]]:
    """Tabulate the gate and the defence on PGD beside noise of the same size, and on darker and sharper images.

    The gate's AUROC and the share it routes, and accuracies of f and of the defence.

    Args:
      defence: what is looked at.
      test: images and labels.
      eps: radius of the noise, linf.
      attacked: what PGD on f made of the images, if it was run; images that f gets wrong anyway are not attacked, and
        count as they are.
    """
    key, x = jax.random.key(11), test.image
    families = {
        "sign noise": controls.sign_noise(key, x, eps),
        "uniform noise": controls.uniform_noise(key, x, eps),
    }
    if attacked is not None:
        points = jnp.asarray(attacked)
        families = {"PGD on f": points, "normal noise as far": controls.as_far(key, x, points)} | families
    for name, strength in (("darker", 0.5), ("darker", 0.3), ("sharper", 4.0)):
        moved = tones.SHIFTS[name].apply(x, jnp.full(len(x), strength, jnp.float32))
        families[f"{name} {strength:g}"] = moved

    @jax.jit
    @in_float32
    def answered(defence: Defence, x: Any) -> Any:
        answer = defended(defence)(key, x)
        return defence.gate.score(x), answer.routed, answer.plain, answer.logits

    given = as_argument(defence)
    inside, rows = np.asarray(answered(given, x)[0]), []
    for name, images in families.items():
        score, routed, plain, logits = (np.asarray(a) for a in answered(given, images))
        rights = (proportion(z.argmax(axis=1) == np.asarray(test.label)) for z in (plain, logits))
        f, whole = (percent(right) for right in rights)
        row = {
            "images": name,
            "AUROC of the gate": f"{auroc(inside, score):.3f}",
            "routed %": f"{100 * routed.mean():.1f}",
        }
        rows.append(row | {"f %": f, "defence %": whole})
    return rows


# --- natural shifts and ways to run -----------------------------------------------------------------------


def natural_shifts(
    parts: Parts, gate: Gate, translators: Mapping[str, Any], test: Batch
) -> list[dict[str, Any]]:
    """Evaluate translators on images darker or sharper: by route, and with every image translated."""

    @jax.jit
    @in_float32
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


def paths(defence: Defence, test: Batch) -> Arrays:
    """Compare the ways to run a defence: both branches or only what is routed, many images or one."""
    key = jax.random.key(0)
    given = as_argument(defence)
    both = jax.jit(in_float32(lambda d, x: defended(d)(key, x)))(given, test.image)
    host, routed = gathered(defence)(key, test.image)
    plain = np.asarray(jax.jit(in_float32(defence.logits_fn))(test.image))
    one = gathered(defence)
    single = np.concatenate([one(key, test.image[i : i + 1])[0] for i in range(min(16, len(test.image)))])
    return {
        "paths/unrouted_bits": np.array((host[~routed] == plain[~routed]).all()),
        "paths/labels": np.array((host.argmax(1) == np.asarray(both.logits).argmax(1)).all()),
        "paths/difference": np.abs(host - np.asarray(both.logits)).max(),
        "paths/alone_labels": np.array((single.argmax(1) == host[: len(single)].argmax(1)).all()),
        "paths/alone_difference": np.abs(single - host[: len(single)]).max(),
    }


# --- several submissions ----------------------------------------------------------------------------------


def resubmitted(
    defence: Defence,
    test: Batch,
    points: Sequence[Any],
    found: DefenceResults,
    *,
    times: int,
    batch_size: int,
) -> tuple[DefenceResults, list[dict[str, str]]]:
    """Submit the images and the points of every attack several times to a random defence, with new draws.

    Args:
      defence: with a random translator.
      test: images and labels.
      points: of every attack, (n, h, w, c), in the order of `found`.
      found: what the attacks did.
      times: submissions of each image.
      batch_size: images on the device.
    Returns:
      The results in which an attack fails only if all its submissions do; and a table: how often one submission
      is right, all of them are, and their majority is.
    """

    @jax.jit
    @in_float32
    def ask(defence: Defence, x: Any) -> Any:
        return predictions(defended(defence), jax.random.key(101), x, draws=times)

    given, y, classes = as_argument(defence), np.asarray(test.label), found.plain.shape[1]

    def submitted(points: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = range(0, len(points), batch_size)
        drawn = jnp.concatenate([ask(given, jnp.asarray(points[i : i + batch_size])) for i in starts], axis=1)
        votes = np.asarray(majority(drawn, classes)) == y
        return np.asarray(drawn == y).mean(axis=0), ~np.asarray(any_wrong(drawn, test.label)), votes

    each = [submitted(test.image), *(submitted(one) for one in points)]
    # An adversary takes, image by image, the attack that serves best.
    each.append(tuple(np.min(column, axis=0) for column in zip(*each, strict=True)))
    rows = [
        {
            "images": name,
            "one submission right %": f"{100 * single.mean():.1f}",
            f"all {times} right %": percent(proportion(every)),
            f"majority of {times} right %": percent(proportion(votes)),
        }
        for name, (single, every, votes) in zip(("clean", *found.attacks, "worst case"), each, strict=True)
    ]
    wrong = found.wrong | ~np.stack([every for _, every, _ in each[1:-1]])
    return dataclasses.replace(found, wrong=wrong), rows


# --- a gate for comparison only ---------------------------------------------------------------------------


def grouped_gate(features: Any, train: Batch, test: Batch, seed: int) -> Gate:
    """Fit the gate of related code by the same authors: see `grouped_rows`.

    One Gaussian over the features of 1000 training images, neither scaled to length 1 nor standardised, and a
    threshold from a random window of TEST images.
    """
    fitted = np.asarray(jax.jit(in_float32(features))(batch_subset(train, GROUPED_FIT).image))
    form = mahalanobis(fitted, np.zeros(len(fitted), int))
    score = score_of(features, form)
    scores = np.asarray(jax.jit(in_float32(lambda x: score(x)))(test.image))
    threshold = window_threshold(jax.random.key(seed), scores, window=min(WINDOW, len(scores)))
    return Gate(score, jnp.float32(threshold), jnp.float32(max(abs(threshold), 1.0)))


def grouped_rows(
    defence: Defence, test: Batch, points: Mapping[str, Any], eps: float
) -> list[dict[str, str]]:
    """Let a gate decide once for ten images by their mean score, beside the same gate image by image.

    For comparison only: ten attacked images together are easily told from ten clean ones, while one attacked image
    among nine clean ones is waved through with them, and single queries mean nothing.

    Args:
      defence: with the gate in question.
      test: images and labels.
      points: what attacks made of the images, by name; one of them goes among clean images as well.
      eps: the radius.
    """
    n = len(test.label) // GROUP * GROUP
    key, x, y = jax.random.key(12), test.image[:n], np.asarray(test.label[:n])
    families = {"clean": x, "sign noise": controls.sign_noise(key, x, eps)}
    families |= {name: jnp.asarray(at[:n]) for name, at in points.items()}

    @jax.jit
    @in_float32
    def answers(defence: Defence, x: Any) -> Any:
        by_tens = defended(defence, decide=together(defence.gate))

        def both(x: Any) -> Any:
            one, ten = defended(defence)(key, x), by_tens(key, x)
            return [(out.routed, out.logits.argmax(axis=1)) for out in (one, ten)]

        found = jax.lax.map(both, x.reshape(-1, GROUP, *x.shape[1:]))
        return jax.tree.map(lambda a: a.reshape(-1), found)

    given, rows = as_argument(defence), []

    def row(name: str, found: Any, chosen: Any, label: np.ndarray) -> dict[str, str]:
        (one, first), (ten, second) = jax.tree.map(lambda a: np.asarray(a)[chosen], found)
        cells: dict[str, str] = {"images": name}
        for how, routed, predicted in (("each alone", one, first), ("by tens", ten, second)):
            cells[f"routed %, {how}"] = f"{100 * routed.mean():.1f}"
            cells[f"defence %, {how}"] = percent(proportion(predicted == label))
        return cells

    for name, images in families.items():
        rows.append(row(name, answers(given, images), slice(None), y))
    for name in points:
        # Image i, attacked, and the nine after it as they are.
        group = (np.arange(n)[:, None] + np.arange(GROUP)) % n
        mixed = jnp.asarray(x)[group].at[:, 0].set(families[name])
        found = answers(given, mixed.reshape(-1, *x.shape[1:]))
        rows.append(row(f"{name}, one among nine clean", found, slice(None, None, GROUP), y))
    return rows
