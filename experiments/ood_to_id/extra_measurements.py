"""What ood_to_id.evaluate looks at beside single attacks: noise, shifts, several submissions, a sibling gate."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id.measure import Arrays
from robustjax.analysis.intervals import proportion
from robustjax.evaluation import defences
from robustjax.evaluation.assessments import Assessment
from robustjax.evaluation.headline import percent
from robustjax.ood import controls
from robustjax.ood.gates import Gate, score_of, together, window_threshold
from robustjax.ood.gaussian_scores import mahalanobis
from robustjax.ood.metrics import auroc
from robustjax.ood.translate import Defence, any_wrong, defended, majority, predictions
from robustjax.perturbations import tones
from robustjax.types import Batch

TENS = 10  # images that the sibling gate decides on together
WINDOW = 100  # test images that its threshold comes from
FITTED = 1000  # training images that its covariance comes from


def beside(folder: pathlib.Path, defence: Defence, test: Batch, eps: float) -> list[dict[str, str]]:
    """Look at PGD on f beside noise of the same size, and at darker and sharper images.

    The gate's AUROC and the share it routes, and accuracies of f and of the defence. Images that f gets wrong from the
    start are not attacked, and count as they are.
    """
    key, x = jax.random.key(11), test.image
    families = {
        "sign noise": controls.sign_noise(key, x, eps),
        "uniform noise": controls.uniform_noise(key, x, eps),
    }
    for path in sorted((folder / "attacks").glob("*_PGD_on_f.npz"))[:1]:
        with np.load(path) as file:
            points = jnp.asarray(file["points"])
        families = {"PGD on f": points, "normal noise as far": controls.as_far(key, x, points)} | families
    for name, strength in (("darker", 0.5), ("darker", 0.3), ("sharper", 4.0)):
        moved = tones.SHIFTS[name].apply(x, jnp.full(len(x), strength, jnp.float32))
        families[f"{name} {strength:g}"] = moved

    @jax.jit
    def look(defence: Defence, x: Any) -> Any:
        answer = defended(defence)(key, x)
        return defence.gate.score(x), answer.routed, answer.plain, answer.logits

    given = defences.as_argument(defence)
    inside, rows = np.asarray(look(given, x)[0]), []
    for name, images in families.items():
        score, routed, plain, logits = (np.asarray(a) for a in look(given, images))
        rights = (proportion(z.argmax(axis=1) == np.asarray(test.label)) for z in (plain, logits))
        f, whole = (percent(right) for right in rights)
        row = {
            "images": name,
            "AUROC of the gate": f"{auroc(inside, score):.3f}",
            "routed %": f"{100 * routed.mean():.1f}",
        }
        rows.append(row | {"f %": f, "defence %": whole})
    return rows


# --- several submissions ----------------------------------------------------------------------------------


def resubmitted(
    defence: Defence, test: Batch, parts: Sequence[Arrays], found: Assessment, *, times: int, batch_size: int
) -> tuple[Assessment, list[dict[str, str]]]:
    """Submit the images and the points of every attack several times to a random defence, with new draws.

    Args:
      defence: with a random translator.
      test: images and labels.
      parts: of every attack, with its "points", in the order of `found`.
      found: what the attacks did.
      times: submissions of each image.
      batch_size: rows on the device.
    Returns:
      The assessment in which an attempt fails only if all its submissions do; and a table: how often one submission
      is right, all of them are, and their majority is.
    """

    @jax.jit
    def ask(defence: Defence, x: Any) -> Any:
        return predictions(defended(defence), jax.random.key(101), x, draws=times)

    given, y, classes = defences.as_argument(defence), np.asarray(test.label), found.plain.shape[1]

    def submitted(points: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = range(0, len(points), batch_size)
        drawn = jnp.concatenate([ask(given, jnp.asarray(points[i : i + batch_size])) for i in starts], axis=1)
        votes = np.asarray(majority(drawn, classes)) == y
        return np.asarray(drawn == y).mean(axis=0), ~np.asarray(any_wrong(drawn, test.label)), votes

    each = [submitted(test.image), *(submitted(part["points"]) for part in parts)]
    # Whoever attacks takes, image by image, what serves best.
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


def sibling_gate(eye: Any, train: Batch, test: Batch, seed: int) -> Gate:
    """Fit the gate of related code by the same authors: see `sibling_rows`.

    One Gaussian over the features of 1000 training images, neither scaled to length 1 nor standardised, and a
    threshold from a random window of TEST images.
    """
    features = np.asarray(jax.jit(eye)(train.image[:FITTED]))
    form = mahalanobis(features, np.zeros(len(features), int))
    score = score_of(eye, form)
    scores = np.asarray(jax.jit(lambda x: score(x))(test.image))
    threshold = window_threshold(jax.random.key(seed), scores, window=min(WINDOW, len(scores)))
    return Gate(score, jnp.float32(threshold), jnp.float32(max(abs(threshold), 1.0)))


def sibling_rows(
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
    n = len(test.label) // TENS * TENS
    key, x, y = jax.random.key(12), test.image[:n], np.asarray(test.label[:n])
    families = {"clean": x, "sign noise": controls.sign_noise(key, x, eps)}
    families |= {name: jnp.asarray(at[:n]) for name, at in points.items()}

    @jax.jit
    def answers(defence: Defence, x: Any) -> Any:
        by_tens = defended(defence, decide=together(defence.gate))

        def both(x: Any) -> Any:
            one, ten = defended(defence)(key, x), by_tens(key, x)
            return [(out.routed, out.logits.argmax(axis=1)) for out in (one, ten)]

        found = jax.lax.map(both, x.reshape(-1, TENS, *x.shape[1:]))
        return jax.tree.map(lambda a: a.reshape(-1), found)

    given, rows = defences.as_argument(defence), []

    def row(name: str, found: Any, chosen: Any, label: np.ndarray) -> dict[str, str]:
        (one, first), (ten, second) = jax.tree.map(lambda a: np.asarray(a)[chosen], found)
        told: dict[str, str] = {"images": name}
        for how, routed, said in (("each alone", one, first), ("by tens", ten, second)):
            told[f"routed %, {how}"] = f"{100 * routed.mean():.1f}"
            told[f"defence %, {how}"] = percent(proportion(said == label))
        return told

    for name, images in families.items():
        rows.append(row(name, answers(given, images), slice(None), y))
    for name in points:
        # Image i, attacked, and the nine after it as they are.
        beside = (np.arange(n)[:, None] + np.arange(TENS)) % n
        mixed = jnp.asarray(x)[beside].at[:, 0].set(families[name])
        found = answers(given, mixed.reshape(-1, *x.shape[1:]))
        rows.append(row(f"{name}, one among nine clean", found, slice(None, None, TENS), y))
    return rows
