"""Detectors by name: fitted to held-in data where they need it, and scored in the form that can be attacked."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from robustjax.catalog import ood_losses
from robustjax.ood import feature_scores, gaussian_scores, logit_scores, shaping
from robustjax.ood.blend import blend
from robustjax.ood.odin import odin
from robustjax.ood.scores import Features, Form, Score, through
from robustjax.types import Images, LogitsFn


class Kit(NamedTuple):
    """What a score is built of, inside a compiled function.

    Attributes:
      logits_fn: the network.
      taps: its inner activations by name, or None where the network is a function.
      head: kernel and bias of the last layer, or None.
      method: how the network was trained.
      classes: of the data.
      fitted: what `Detector.fit` made.
    """

    logits_fn: LogitsFn
    taps: Callable[[Images], dict[str, Features]] | None
    head: tuple[Any, Any] | None
    method: str
    classes: int
    fitted: Any


class Seen(NamedTuple):
    """What detectors are fitted to: activations by tap of training data, of other data, and of noise.

    Attributes:
      taps: of training images, each (n, d).
      label: theirs.
      held: of validation images.
      noise: of their pixels, permuted: outliers of no test set.
      head: as in `Kit`.
    """

    taps: Mapping[str, np.ndarray]
    label: np.ndarray
    held: Mapping[str, np.ndarray]
    noise: Mapping[str, np.ndarray]
    head: tuple[Any, Any] | None


class Detector(NamedTuple):
    """How to fit a score and how to build it.

    Attributes:
      build: Kit -> Score, in a form that does not saturate.
      fit: Seen -> a pytree; None for scores that need no features.
      around: Kit -> an objective to climb beside the score, where its own slope may mislead.
      headed: whether it needs the last layer apart.
    """

    build: Callable[[Kit], Score]
    fit: Callable[[Seen], Any] | None = None
    around: Callable[[Kit], Score] | None = None
    headed: bool = False


def _of_logits(form: Form) -> Detector:
    return Detector(lambda kit: through(kit.logits_fn, form))


def _last(kit: Kit) -> Callable[[Images], Features]:
    taps = kit.taps
    assert taps is not None
    return lambda x: (found := taps(x))[max(found)]


def _of_features(fit: Callable[[Seen], Any], *, headed: bool = False) -> Detector:
    return Detector(lambda kit: through(_last(kit), kit.fitted), fit, headed=headed)


def _reshaped(shape: Callable[[Any], Any], fit: Callable[[Seen], Any]) -> Detector:
    def build(kit: Kit) -> Score:
        assert kit.head is not None
        return through(_last(kit), shaping.head(*kit.head, logit_scores.energy, shape(kit.fitted)))

    return Detector(build, fit, headed=True)


def _top(seen: Seen) -> np.ndarray:
    return seen.taps[max(seen.taps)]


def _fit_all_layers(seen: Seen) -> Any:
    forms = {name: gaussian_scores.mahalanobis(taps, seen.label) for name, taps in seen.taps.items()}
    held, noise = (
        np.stack([np.asarray(forms[n](jnp.asarray(part[n]))) for n in forms], axis=1)
        for part in (seen.held, seen.noise)
    )
    return forms, blend(held, noise)


def _all_layers(kit: Kit) -> Score:
    forms, weighed = kit.fitted
    taps = kit.taps
    assert taps is not None

    def score(x: Images):
        found = taps(x)
        return weighed(jnp.stack([form(found[name]) for name, form in forms.items()], axis=1))

    return score


DETECTORS: dict[str, Detector] = {
    "msp": _of_logits(logit_scores.msp_margin),
    "max_logit": _of_logits(logit_scores.max_logit),
    "energy": _of_logits(logit_scores.energy),
    "entropy": _of_logits(logit_scores.entropy_log),
    "gen": _of_logits(logit_scores.gen_log),
    "own": Detector(lambda kit: through(kit.logits_fn, ood_losses.form(kit.method, classes=kit.classes))),
    "odin": Detector(
        lambda kit: odin(kit.logits_fn),
        around=lambda kit: odin(kit.logits_fn, magnitude=0.0),
    ),
    "mahalanobis": _of_features(lambda seen: gaussian_scores.mahalanobis(_top(seen), seen.label)),
    "relative_mahalanobis": _of_features(
        lambda seen: gaussian_scores.relative_mahalanobis(_top(seen), seen.label)
    ),
    "mahalanobis_layers": Detector(_all_layers, _fit_all_layers),
    "knn": _of_features(
        lambda seen: feature_scores.knn(_top(seen), neighbours=min(50, max(1, len(seen.label) // 20)))
    ),
    "vim": _of_features(
        lambda seen: feature_scores.vim(_top(seen), *(np.asarray(a) for a in seen.head or ())), headed=True
    ),
    "react": _reshaped(shaping.react, lambda seen: jnp.float32(shaping.react_limit(_top(seen)))),
    "ash": _reshaped(lambda _: shaping.ash_s(), lambda _: ()),
    "scale": _reshaped(lambda _: shaping.scale(), lambda _: ()),
}
