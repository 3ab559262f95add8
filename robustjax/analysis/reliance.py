"""All that is measured of classifiers on paired scenes, one result per example, for several seeds at once.

`measurement` runs networks of one shape that differ in their seed, stacked on a leading axis, and gives arrays
(seeds, examples, ...). The functions below turn such arrays into numbers; they take (seeds, examples) or any part
of them, so that a bootstrap may resample both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from robustjax import evaluation, logit
from robustjax.analysis import noise, saliency, sensitivity
from robustjax.analysis.groups import worst_group
from robustjax.data.scenes import Scene, Scenes, batches
from robustjax.types import Attack, Mask, Model, frozen

Sets = Mapping[str, Sequence[Scenes]]  # by variant, one for each seed
Arrays = dict[str, np.ndarray]


def measurement(
    model: Model, attack: Attack, *, levels: Sequence[float], attacked: Sequence[str], batch_size: int = 300
) -> Callable[..., Arrays]:
    """Build the measurement; what it compiles serves all networks of one shape.

    Args:
      model: the classifier.
      attack: decides what is robust.
      levels: standard deviations of the noise on object and rest.
      attacked: the variants to attack.
      batch_size: examples at once, times seeds.

    Returns:
      (key, params, state, sets) -> arrays, where params and state lead with the seeds and `sets` holds for each
      variant one `Scenes` per seed, all of one length. It gives `label` (s, n); `prediction/<variant>` (s, n);
      `robust/<variant>` (s, n), right before and after the attack; and on the variant "original", if it has
      masks, `noise/foreground` and `noise/background` (s, n, r) and `overlap` (s, n).
    """
    under_noise = sensitivity.under_noise(noise.gaussian, levels)

    def predict(keys, batch: Scene, params, state):
        return frozen(model, params, state)(batch.image).argmax(axis=-1).astype(jnp.int16)

    def under_attack(keys, batch: Scene, params, state):
        logits_fn = frozen(model, params, state)
        point = attack(keys, logits_fn, batch.image, batch.label).x
        right = logit.correct(logits_fn(batch.image), batch.label) * logit.correct(
            logits_fn(point), batch.label
        )
        return right > 0

    def sensitivity_and_saliency(keys, batch: Scene, params, state):
        logits_fn = frozen(model, params, state)
        assert batch.mask is not None
        parts = under_noise(keys, logits_fn, batch.image, batch.mask, batch.label)
        fit = saliency.alignment(saliency.gradient(logits_fn, batch.image, batch.label), batch.mask)
        return parts.foreground.hit, parts.background.hit, fit.overlap

    run_predict, run_attack, run_masked = (
        evaluation.mapped(_over_seeds(f)) for f in (predict, under_attack, sensitivity_and_saliency)
    )

    def measure(key: PRNGKeyArray, params: Any, state: Any, sets: Sets) -> Arrays:
        def run(evaluate, variant: str):
            found = evaluate(key, _stacked(sets[variant], batch_size), params, state)
            return jax.tree.map(lambda a: np.moveaxis(a, 1, 0), found)

        out = {"label": np.stack([s.label for s in sets["original"]])}
        out |= {f"prediction/{name}": run(run_predict, name) for name in sets}
        out |= {f"robust/{name}": run(run_attack, name) for name in attacked if name in sets}
        if all(s.mask is not None for s in sets["original"]):
            front, back, overlap = run(run_masked, "original")
            out |= {"noise/foreground": front, "noise/background": back, "overlap": overlap}
        return out

    return measure


def accuracy(prediction: np.ndarray, label: np.ndarray) -> float:
    """Average over everything.

    Raises:
      ValueError: if predictions and labels differ in shape.
    """
    if np.shape(prediction) != np.shape(label):
        raise ValueError(
            f"reliance.accuracy: predictions are {np.shape(prediction)} and labels {np.shape(label)}, must be equal"
        )
    return float((prediction == label).mean())


def gap(same: np.ndarray, random: np.ndarray, label: np.ndarray) -> float:
    """Compute the accuracy on own minus that on random backgrounds, from predictions."""
    return accuracy(same, label) - accuracy(random, label)


def worst(same: np.ndarray, other: np.ndarray, label: np.ndarray) -> float:
    """Compute the accuracy of the worst group, a class on its own background or on another one."""
    hits = np.concatenate([(same == label).ravel(), (other == label).ravel()])
    group = np.concatenate([2 * label.ravel(), 2 * label.ravel() + 1])
    return float(worst_group(hits, group))


def mean_worst(same: np.ndarray, other: np.ndarray, label: np.ndarray) -> float:
    """Average over seeds the accuracy of each network's worst group."""
    return float(np.mean([worst(*row) for row in zip(same, other, label, strict=True)]))


def mean_rfs(foreground: np.ndarray, background: np.ndarray, label: np.ndarray) -> float:
    """Average the relative foreground sensitivity over levels and seeds."""
    rows = zip(foreground, background, label, strict=True)
    return float(np.mean([sensitivity.rfs(f, b, y) for f, b, y in rows]))


def _over_seeds(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Map over networks and their own examples; examples lead, as `evaluation.mapped` wants them."""

    def both(keys, batch, params, state):
        return jax.vmap(lambda b, p, s: fn(keys, b, p, s), in_axes=(1, 0, 0), out_axes=1)(
            batch, params, state
        )

    return both


def _stacked(sets: Sequence[Scenes], batch_size: int) -> Iterator[tuple[Scene, Mask]]:
    for together in zip(*(batches(s, batch_size=batch_size) for s in sets), strict=True):
        yield jax.tree.map(lambda *a: jnp.stack(a, axis=1), *(b for b, _ in together)), together[0][1]
