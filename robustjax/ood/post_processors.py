"""Detectors by their settings: what OpenOOD calls post-processors, each a score and what it is fitted to.

A function makes a `Detector` of settings, so that they can be searched on validation images. Defaults are published, or
OpenOOD's where the paper leaves them open; where fewer training images are given than a number of neighbours supposes,
it shrinks with them, to one in twenty.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks
from robustjax.logit import energy as energy_of
from robustjax.ood import (
    adascale,
    detectors,
    feature_scores,
    gram,
    guided_scores,
    head_scores,
    kl_matching,
    logit_scores,
    openmax,
    prototype_scores,
    rankfeat,
    shaping,
    temperature,
)
from robustjax.ood import dropout as dropouts
from robustjax.ood.detectors import (
    Detector,
    FitInputs,
    LastLayer,
    ScoreInputs,
    last,
    last_features,
    logits_on,
)
from robustjax.ood.odin import odin as odin_score
from robustjax.ood.scores import Score, scored
from robustjax.types import Images, Objective, PerExample


def margin_of(inputs: ScoreInputs) -> Objective:
    """Build the surrogate of scores without slope where predictions saturate: the log odds of the likeliest class."""
    return scored(inputs.logits_fn, logit_scores.msp_margin)


def energy(*, temperature: float = 1.0) -> Detector:
    """Make `logit_scores.energy` a detector."""
    return detectors.of_logits(lambda z: logit_scores.energy(z, temperature=temperature))


def gen(*, gamma: float = 0.1, top: int | None = None) -> Detector:
    """Make `logit_scores.gen_log` a detector."""
    return detectors.of_logits(lambda z: logit_scores.gen_log(z, gamma=gamma, top=top))


class _Odin(NamedTuple):
    temperature: float
    magnitude: float

    def __call__(self, inputs: ScoreInputs) -> Score:
        return odin_score(inputs.logits_fn, temperature=self.temperature, magnitude=self.magnitude)


def odin(*, temperature: float = 1000.0, magnitude: float = 0.0014) -> Detector:
    """Make `odin.odin` a detector, with the score before the step as surrogate."""
    return Detector(_Odin(temperature, magnitude), surrogate=_Odin(temperature, 0.0), reads="images")


def temperature_scaling() -> Detector:
    """Make `temperature.temperature_scaling` a detector, fitted to validation images."""

    def fit(given: FitInputs) -> temperature.Tempered:
        if given.held_out_label is None:
            raise ValueError("temperature_scaling: labels of validation images are not known, must be there")
        return temperature.temperature_scaling(logits_on(given, "held_out"), given.held_out_label)

    return detectors.of_fitted_logits(fit)


def matching() -> Detector:
    """Make `kl_matching.kl_matching` a detector, fitted to validation images."""
    return detectors.of_fitted_logits(
        lambda given: kl_matching.kl_matching(logits_on(given, "held_out")), surrogate=margin_of
    )


def open_max(*, tail: int = 20, alpha: int = 3) -> Detector:
    """Make `openmax.openmax` a detector."""

    def fit(given: FitInputs) -> openmax.OpenMax:
        return openmax.openmax(logits_on(given, "train"), given.label, tail=tail, alpha=alpha)

    return detectors.of_fitted_logits(fit, surrogate=margin_of)


def knn(*, neighbours: int = 50) -> Detector:
    """Make `feature_scores.knn` a detector.

    On features that were trained for it this is what OpenOOD scores CIDER and NPOS by: it takes the squared distance.
    """
    return detectors.of_features(
        lambda given: feature_scores.knn(last(given.features), neighbours=_few(neighbours, given))
    )


def prototypes() -> Detector:
    """Make `prototype_scores.prototypes` a detector."""
    return detectors.of_features(lambda given: prototype_scores.prototypes(last(given.features), given.label))


def vim(*, principal: int | None = None) -> Detector:
    """Make `feature_scores.vim` a detector."""
    return detectors.of_features(
        lambda given: feature_scores.vim(*_with_head(given), principal=principal), needs_last_layer=True
    )


def residual(*, principal: int | None = None) -> Detector:
    """Make `feature_scores.residual` a detector."""
    return detectors.of_features(
        lambda given: feature_scores.residual(*_with_head(given), principal=principal), needs_last_layer=True
    )


def she() -> Detector:
    """Make `prototype_scores.she` a detector."""

    def fit(given: FitInputs) -> prototype_scores.Patterns:
        features, kernel, bias = _with_head(given)
        return prototype_scores.she(features, given.label, kernel, bias)

    return detectors.of_features(fit, needs_last_layer=True)


def gradnorm() -> Detector:
    """Make `head_scores.gradnorm` a detector."""
    return detectors.of_features(
        lambda given: head_scores.gradnorm(*_with_head(given)[1:]), needs_last_layer=True, surrogate=margin_of
    )


def fdbd(*, centred: bool = True) -> Detector:
    """Make `head_scores.fdbd` a detector."""
    return detectors.of_features(
        lambda given: head_scores.fdbd(*_with_head(given), centred=centred), needs_last_layer=True
    )


def nci(*, alpha: float = 1e-4) -> Detector:
    """Make `head_scores.nci` a detector."""
    return detectors.of_features(
        lambda given: head_scores.nci(*_with_head(given), alpha=alpha), needs_last_layer=True
    )


def nnguide(*, neighbours: int = 100) -> Detector:
    """Make `guided_scores.nnguide` a detector."""
    return detectors.of_features(
        lambda given: guided_scores.nnguide(*_with_head(given), neighbours=_few(neighbours, given)),
        needs_last_layer=True,
    )


def relation(*, power: float = 1.0) -> Detector:
    """Make `guided_scores.relation` a detector."""
    return detectors.of_features(
        lambda given: guided_scores.relation(*_with_head(given), power=power),
        needs_last_layer=True,
        surrogate=margin_of,
    )


def dropout(*, share: float = 0.5, samples: int = 5) -> Detector:
    """Make `dropout.dropout` a detector."""
    return detectors.of_features(
        lambda given: dropouts.dropout(*_with_head(given)[1:], share=share, samples=samples),
        needs_last_layer=True,
    )


def react(*, percentile: float = 90.0) -> Detector:
    """Clip features by `shaping.react`, then energy."""
    return detectors.reshaped(
        shaping.react,
        lambda given: jnp.float32(shaping.react_limit(last(given.features), percentile=percentile)),
    )


def vra(*, low: float = 10.0, high: float = 90.0) -> Detector:
    """Clip features by `shaping.vra`, then energy."""

    def fit(given: FitInputs) -> tuple[Array, ...]:
        limits = shaping.vra_limits(last(given.features), low=low, high=high)
        return tuple(jnp.float32(limit) for limit in limits)

    return detectors.reshaped(lambda limits: shaping.vra(*limits), fit)


def ash_p(*, percentile: float = 90.0) -> Detector:
    """Prune features by `shaping.ash_p`, then energy."""
    return detectors.reshaped(lambda _: shaping.ash_p(percentile=percentile))


def ash_b(*, percentile: float = 90.0) -> Detector:
    """Prune features by `shaping.ash_b`, then energy: what OpenOOD calls ASH."""
    return detectors.reshaped(lambda _: shaping.ash_b(percentile=percentile))


def ash_s(*, percentile: float = 90.0) -> Detector:
    """Prune and scale features by `shaping.ash_s`, then energy."""
    return detectors.reshaped(lambda _: shaping.ash_s(percentile=percentile))


def scale(*, percentile: float = 85.0) -> Detector:
    """Scale features by `shaping.scale`, then energy."""
    return detectors.reshaped(lambda _: shaping.scale(percentile=percentile))


def t2fnorm(*, tau: float = 0.1) -> Detector:
    """Divide features by `shaping.divided`, then the log odds of the likeliest class.

    For networks that were trained by T2FNorm, whose last layer has seen features of length 1 / tau; 0.1 for CIFAR.
    """

    def build(inputs: ScoreInputs) -> Score:
        kernel, bias = _head(inputs)
        form = shaping.head(kernel, bias, logit_scores.msp_margin, shaping.divided(tau))
        return scored(last_features(inputs), form)

    return Detector(build, needs_last_layer=True)


def dice(*, percentile: float = 90.0) -> Detector:
    """Make the sparse last layer of `head_scores.dice` a detector: its energy."""

    def build(inputs: ScoreInputs) -> Score:
        bias = _head(inputs).bias
        return scored(last_features(inputs), lambda h: energy_of(h @ inputs.fitted + bias[None]))

    return Detector(
        build,
        lambda given: head_scores.dice(*_with_head(given), percentile=percentile),
        needs_last_layer=True,
    )


def rank_feat(*, temperature: float = 1.0) -> Detector:
    """Make `rankfeat.rankfeat` a detector."""
    checks.number("rankfeat", "temperature", temperature, above=0)

    def build(inputs: ScoreInputs) -> Score:
        maps = _maps(inputs)
        form = rankfeat.rankfeat(*_head(inputs), temperature=temperature)
        return lambda x: form(last(maps(x)))

    return Detector(build, needs_last_layer=True, reads="maps")


class _GramStatistics(NamedTuple):
    powers: tuple[int, ...]

    def __call__(self, inputs: ScoreInputs) -> Any:
        maps = _maps(inputs)
        return lambda x: gram.statistics(maps(x), self.powers)


def gram_matrices(*, powers: Sequence[int] = gram.POWERS) -> Detector:
    """Make `gram.gram` of all inner activations a detector; `gram.Ranges.centred` is its surrogate."""
    if not powers:
        raise ValueError("gram: powers is empty, must hold at least one")
    for p in powers:
        checks.count("gram", "powers", p)
    found = _GramStatistics(tuple(powers))

    def fit(given: FitInputs) -> gram.Ranges:
        if given.measure is None:
            raise ValueError("gram: it is fitted to feature maps, FitInputs.measure must be there")
        predicted = logits_on(given, "held_out").argmax(axis=1)
        return gram.gram(
            given.measure("train", found), given.label, given.measure("held_out", found), predicted
        )

    def build(inputs: ScoreInputs) -> Score:
        of_maps = found(inputs)
        return lambda x: inputs.fitted(of_maps(x), _predicted(inputs, x))

    def surrogate(inputs: ScoreInputs) -> Objective:
        of_maps = found(inputs)
        return lambda x: inputs.fitted.centred(of_maps(x), _predicted(inputs, x))

    return Detector(build, fit, surrogate, reads="maps")


class _Shift(NamedTuple):
    """The statistic of AdaScale by its settings: equal ones are measured once."""

    first: float
    second: float
    weight: float
    pixels: float
    magnitude: float

    def __call__(self, inputs: ScoreInputs) -> Any:
        return adascale.shift_statistic(last_features(inputs), *_head(inputs), **self._asdict())


class _AdaScale(NamedTuple):
    """The score of AdaScale: percentiles are among what is fitted, so that one program serves all of them."""

    kind: Literal["activations", "logits"]
    shift: _Shift

    def __call__(self, inputs: ScoreInputs) -> Score:
        features, statistic, (kernel, bias) = last_features(inputs), self.shift(inputs), _head(inputs)

        def score(x: Images) -> PerExample:
            h = features(x)
            gain = adascale.gain(h, adascale.percentile_of(statistic(x), *inputs.fitted))[:, None]
            if self.kind == "logits":
                return energy_of((h @ kernel + bias[None]) * gain**2)
            return energy_of((h * jnp.exp(gain)) @ kernel + bias[None])

        return score


def adascale_a(**settings: Any) -> Detector:
    """Multiply features by exp(gain), then energy: AdaScale-A; settings as in `ada_scale`."""
    return ada_scale("activations", **settings)


def adascale_l(**settings: Any) -> Detector:
    """Multiply logits by gain squared, then energy: AdaScale-L; settings as in `ada_scale`."""
    return ada_scale("logits", **settings)


def ada_scale(
    kind: Literal["activations", "logits"],
    *,
    percentiles: tuple[float, float] = (75.0, 85.0),
    first: float = 5.0,
    second: float = 1.0,
    weight: float = 10.0,
    pixels: float = 0.05,
    magnitude: float = 0.125,
) -> Detector:
    """Scale features or logits by a gain whose percentile depends on the image, then energy.

    With the gain r of `adascale.gain`, AdaScale-A multiplies features by exp(r), AdaScale-L logits by r^2. The
    percentile is `adascale.percentile_of` the statistic of `adascale.shift_statistic`, and a constant to gradients.

    Args:
      kind: what is scaled: AdaScale-A or AdaScale-L.
      percentiles: the least and the largest, in (0, 100).
      first, second, weight, pixels, magnitude: of the statistic.
    Raises:
      ValueError: if a setting is out of range.

    Reference: Regmi 2025, AdaScale, arXiv:2503.08023, with OpenOOD's settings. Its step of 0.5 is of normalised pixels:
      of pixels in [0, 1] that is 0.5 times their standard deviation, about 0.125.
    """
    low, high = percentiles
    checks.number("adascale", "the smaller percentile", low, above=0, below=100)
    checks.number("adascale", "the larger percentile", high, least=low, below=100)
    for name, value in (("first", first), ("second", second)):
        checks.number("adascale", name, value, above=0, most=100)
    checks.number("adascale", "weight", weight, least=0)
    checks.number("adascale", "pixels", pixels, above=0, most=1)
    checks.number("adascale", "magnitude", magnitude, above=0)
    shift = _Shift(first, second, weight, pixels, magnitude)

    def fit(given: FitInputs) -> Any:
        if given.measure is None:
            raise ValueError("adascale: it is fitted to changed images, FitInputs.measure must be there")
        known = adascale.known_values(given.measure("held_out", shift))
        return known, jnp.float32(low), jnp.float32(high)

    return Detector(_AdaScale(kind, shift), fit, needs_last_layer=True, reads="images")


def _predicted(inputs: ScoreInputs, x: Images) -> Array:
    return inputs.logits_fn(x)[:, : inputs.classes].argmax(axis=1)


def _few(neighbours: int, given: FitInputs) -> int:
    return min(neighbours, max(1, len(given.label) // 20))


def _head(inputs: ScoreInputs) -> LastLayer:
    assert inputs.last_layer is not None
    return inputs.last_layer


def _maps(inputs: ScoreInputs) -> Any:
    if inputs.maps is None:
        raise ValueError("the detector reads feature maps, which the network does not show")
    return inputs.maps


def _with_head(given: FitInputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kernel, bias = (np.asarray(a) for a in given.last_layer or ())
    return last(given.features), kernel, bias
