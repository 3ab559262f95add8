"""Detectors of OOD images by name, each scored in a form that does not saturate, so that it can be attacked."""

import jax.numpy as jnp
import numpy as np

from robustjax.catalog.names import named
from robustjax.ood import detectors, feature_scores, gaussian_scores, logit_scores, shaping
from robustjax.ood.detectors import Detector, FitInputs, last
from robustjax.ood.odin import odin
from robustjax.ood.scores import scored
from robustjax.ood.ssd import ssd


def _knn(given: FitInputs) -> feature_scores.Neighbours:
    return feature_scores.knn(last(given.features), neighbours=min(50, max(1, len(given.label) // 20)))


def _vim(given: FitInputs) -> feature_scores.Virtual:
    return feature_scores.vim(last(given.features), *(np.asarray(a) for a in given.last_layer or ()))


DETECTORS: dict[str, Detector] = {
    "msp": detectors.of_logits(logit_scores.msp_margin),
    "max_logit": detectors.of_logits(logit_scores.max_logit),
    "energy": detectors.of_logits(logit_scores.energy),
    "entropy": detectors.of_logits(logit_scores.entropy_log),
    "gen": detectors.of_logits(logit_scores.gen_log),
    "own": Detector(lambda inputs: scored(inputs.logits_fn, inputs.form)),
    "odin": Detector(
        lambda inputs: odin(inputs.logits_fn),
        surrogate=lambda inputs: odin(inputs.logits_fn, magnitude=0.0),
    ),
    "mahalanobis": detectors.of_features(
        lambda given: gaussian_scores.mahalanobis(last(given.features), given.label)
    ),
    "relative_mahalanobis": detectors.of_features(
        lambda given: gaussian_scores.relative_mahalanobis(last(given.features), given.label)
    ),
    "mahalanobis_layers": detectors.mahalanobis_layers(),
    "ssd": detectors.of_features(lambda given: ssd(last(given.features), covariance="ledoit-wolf")),
    "knn": detectors.of_features(_knn),
    "vim": detectors.of_features(_vim, needs_last_layer=True),
    "react": detectors.reshaped(
        shaping.react, lambda given: jnp.float32(shaping.react_limit(last(given.features)))
    ),
    "ash": detectors.reshaped(lambda _: shaping.ash_s()),
    "scale": detectors.reshaped(lambda _: shaping.scale()),
}


def detector(name: str, *, flag: str = "--detectors") -> Detector:
    """Find a detector by name.

    Args:
      name: of the table; or `module:name` of a function from logits_fn to a score, or of a `Detector`.
      flag: what the name was given to, for the error.
    Raises:
      ValueError: in one line, if there is no such detector, or nothing to import.
    """
    found = named(DETECTORS, name, flag=flag)
    return found if isinstance(found, Detector) else Detector(lambda inputs: found(inputs.logits_fn))
