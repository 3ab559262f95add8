"""Detectors of OOD images: a score, and what it is fitted to.

A detector of your own is one file:

    from robustjax.ood import detectors, gaussian_scores

    def fit(given):                                      # on the host, once per network
        return gaussian_scores.mahalanobis(detectors.last(given.features), given.label)

    MINE = detectors.of_features(fit)                    # --detectors my_module:MINE

and a score of logits alone is one function, `def my_score(logits_fn): return lambda x: logits_fn(x).max(axis=-1)`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from robustjax import checks
from robustjax.ood import gaussian_scores, shaping
from robustjax.ood.blend import blend
from robustjax.ood.logit_scores import energy, msp_margin
from robustjax.ood.odin import preprocessed
from robustjax.ood.scores import Features, Form, Score, scored
from robustjax.types import Images, Inputs, LogitsFn, Objective, PerExample


class LastLayer(NamedTuple):
    """Kernel (d, k) and bias (k,) of a network's last layer."""

    kernel: Array
    bias: Array


class ScoreInputs(NamedTuple):
    """What a score is built of, inside a compiled function.

    Attributes:
      logits_fn: the network.
      classes: of the ID data; outputs beyond them are reject classes.
      features: inner activations by name, each (b, d), in the order of depth; None where the network is a function.
      last_layer: for detectors that need it apart, else None.
      form: how the method that trained the network reads its logits: the score "own".
      fitted: what `Detector.fit` made, () where it fits nothing.
      maps: inner activations before pooling (b, ..., c), None where the network does not show them.
    """

    logits_fn: LogitsFn
    classes: int
    features: Callable[[Images], dict[str, Features]] | None = None
    last_layer: LastLayer | None = None
    form: Form = msp_margin
    fitted: Any = ()
    maps: Callable[[Images], dict[str, Array]] | None = None


class Measure(Protocol):
    """Run what is built of `ScoreInputs` over a part of the images that a detector is fitted to.

    `fitted` is what `ScoreInputs.fitted` is then. Equal arguments give the same arrays without a second run.
    """

    def __call__(
        self,
        part: Literal["train", "held_out", "noise"],
        build: Callable[[ScoreInputs], Callable[[Images], Any]],
        fitted: PyTree = (),
    ) -> Any: ...


class FitInputs(NamedTuple):
    """What a detector is fitted to: inner activations by name, each (n, d).

    Attributes:
      features: of training images.
      label: theirs (n,).
      held_out: of validation images.
      noise: of validation images with permuted pixels, as OOD images that are in no test set.
      last_layer: of the network, for detectors that need it apart, else None.
      held_out_label: of validation images; None where they are not known.
      measure: for what is not among the activations, such as logits; None where there are only these.
    """

    features: Mapping[str, np.ndarray]
    label: np.ndarray
    held_out: Mapping[str, np.ndarray]
    noise: Mapping[str, np.ndarray]
    last_layer: LastLayer | None = None
    held_out_label: np.ndarray | None = None
    measure: Measure | None = None


class Detector(NamedTuple):
    """How to fit a score and how to build it.

    Attributes:
      build: inputs -> a score that does not saturate, larger on ID images.
      fit: on the host -> a pytree of arrays; None for scores of logits.
      surrogate: inputs -> what an adaptive attack maximises beside the score, where the score's gradient may mislead.
      needs_last_layer: whether `last_layer` must be there.
      reads: "features" where it is fitted to pooled activations or needs the last layer; "logits" where it is fitted
        to logits alone, which every network has; "maps" where it reads activations before pooling; "images" where its
        score depends on more than an image's activations, such as a gradient.
    """

    build: Callable[[ScoreInputs], Score]
    fit: Callable[[FitInputs], Any] | None = None
    surrogate: Callable[[ScoreInputs], Objective] | None = None
    needs_last_layer: bool = False
    reads: Literal["logits", "features", "maps", "images"] = "features"

    def __call__(self, inputs: ScoreInputs) -> Score:
        """Build the score."""
        return self.build(inputs)


class ScoredNetwork(NamedTuple):
    """A score and the network behind it, as an attack sees them.

    Attributes:
      score: what decides, larger on ID images, in a form that does not saturate.
      logits_fn: of the network behind it, for surrogates; None where there is none.
      surrogate: what an adaptive attack maximises beside the score, or None.
      classes: of the ID data; outputs beyond them are reject classes. None for all outputs.
      of_activations: whether the score was fitted to inner activations, which surrogates of logits need not move.
    """

    score: Score
    logits_fn: LogitsFn | None = None
    surrogate: Objective | None = None
    classes: int | None = None
    of_activations: bool = False


def built(detector: Detector, inputs: ScoreInputs) -> ScoredNetwork:
    """Build a detector's score and its surrogate."""
    surrogate = detector.surrogate and detector.surrogate(inputs)
    of_activations = detector.fit is not None and detector.reads != "logits"
    return ScoredNetwork(detector.build(inputs), inputs.logits_fn, surrogate, inputs.classes, of_activations)


def logits_of(detector: ScoredNetwork) -> LogitsFn:
    """Give the network behind a score.

    Raises:
      ValueError: if there is none.
    """
    if detector.logits_fn is None:
        raise ValueError(
            "score: the attack needs the logits of the network behind the score, and none is given"
        )
    return detector.logits_fn


def of_logits(form: Form) -> Detector:
    """Score logits."""
    return Detector(lambda inputs: scored(inputs.logits_fn, form))


def of_fitted_logits(
    fit: Callable[[FitInputs], Form], *, surrogate: Callable[[ScoreInputs], Objective] | None = None
) -> Detector:
    """Score logits by a form that is fitted, to `logits_on` images, and is a pytree of arrays itself."""
    return Detector(lambda inputs: scored(inputs.logits_fn, inputs.fitted), fit, surrogate, reads="logits")


def of_features(
    fit: Callable[[FitInputs], Form],
    *,
    needs_last_layer: bool = False,
    surrogate: Callable[[ScoreInputs], Objective] | None = None,
) -> Detector:
    """Score the last activations by a form that is fitted, and is a pytree of arrays itself."""
    return Detector(
        lambda inputs: scored(last_features(inputs), inputs.fitted),
        fit,
        surrogate,
        needs_last_layer=needs_last_layer,
    )


def reshaped(
    shape: Callable[[Any], shaping.Shape], fit: Callable[[FitInputs], Any] = lambda _: ()
) -> Detector:
    """Reshape the last activations, run the last layer on them, and score its logits by their energy.

    Args:
      shape: what was fitted -> features -> features.
      fit: such as the limit of ReAct.
    """

    def build(inputs: ScoreInputs) -> Score:
        assert inputs.last_layer is not None
        return scored(last_features(inputs), shaping.head(*inputs.last_layer, energy, shape(inputs.fitted)))

    return Detector(build, fit, needs_last_layer=True)


def mahalanobis_layers(*, magnitude: float = 0.0) -> Detector:
    """Sum Mahalanobis scores of all layers, with weights fitted to validation images beside noise.

    Args:
      magnitude: length of a step per pixel that raises the score of each layer before it is taken, 0 for none. An
        adaptive attack also maximises the score without the step.

    Reference: Lee et al. 2018, arXiv:1807.03888. The weights are fitted to scores after the step, as there.
    """
    checks.number("mahalanobis_layers", "magnitude", magnitude, least=0)

    def forms_of(given: FitInputs) -> dict[str, gaussian_scores.Gaussians]:
        return {n: gaussian_scores.mahalanobis(layer, given.label) for n, layer in given.features.items()}

    def fit(given: FitInputs) -> Any:
        forms = forms_of(given)
        held_out, noise = (
            np.stack([np.asarray(forms[n](jnp.asarray(part[n]))) for n in forms], axis=1)
            for part in (given.held_out, given.noise)
        )
        return forms, blend(held_out, noise)

    def fit_after_step(given: FitInputs) -> Any:
        if given.measure is None:
            raise ValueError("fit: mahalanobis_layers steps along images, FitInputs.measure must be there")
        fitted = forms_of(given), jnp.float32(magnitude)
        held_out, noise = (np.asarray(given.measure(part, _layers, fitted)) for part in ("held_out", "noise"))
        return (*fitted, blend(held_out, noise))

    return (
        Detector(_sum_of_layers, fit)
        if magnitude == 0
        else Detector(_sum_after_step, fit_after_step, surrogate=_sum_before_step, reads="images")
    )


def _sum_of_layers(inputs: ScoreInputs) -> Score:
    forms, weighed = inputs.fitted
    features = inputs.features
    assert features is not None

    def score(x: Inputs) -> PerExample:
        found = features(x)
        return weighed(jnp.stack([form(found[name]) for name, form in forms.items()], axis=1))

    return score


def _layers(inputs: ScoreInputs) -> Callable[[Images], Array]:
    """Build x -> the scores of all layers (b, layers), each after a step of its own; fitted: forms, magnitude."""
    forms, magnitude, *_ = inputs.fitted
    features = inputs.features
    assert features is not None

    def layer(name: str) -> Score:
        return preprocessed(scored(lambda x: features(x)[name], forms[name]), magnitude)

    each = [layer(name) for name in forms]
    return lambda x: jnp.stack([score(x) for score in each], axis=1)


def _sum_after_step(inputs: ScoreInputs) -> Score:
    layers = _layers(inputs)
    return lambda x: inputs.fitted[-1](layers(x))


def _sum_before_step(inputs: ScoreInputs) -> Score:
    forms, _, weighed = inputs.fitted
    return _sum_of_layers(inputs._replace(fitted=(forms, weighed)))


def last(features: Mapping[str, Any]) -> Any:
    """Take the activations of the last layer but one."""
    return features[max(features)]


def last_features(inputs: ScoreInputs) -> Callable[[Images], Features]:
    """Read the activations of the last layer but one."""
    features = inputs.features
    assert features is not None
    return lambda x: last(features(x))


def logits_on(given: FitInputs, part: Literal["train", "held_out"]) -> np.ndarray:
    """Run the network on the images that a detector is fitted to.

    Raises:
      ValueError: if there are only activations.
    """
    if given.measure is None:
        raise ValueError("fit: the detector is fitted to logits, FitInputs.measure must be there")
    return given.measure(part, _logits)


def _logits(inputs: ScoreInputs) -> LogitsFn:
    return inputs.logits_fn
