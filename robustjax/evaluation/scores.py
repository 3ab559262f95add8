"""Scores of a detector over whole data sets: clean, corrupted, certified and smoothed; `score_suite` attacks them.

Every result is a dictionary of arrays that lead with the examples, in OpenOOD's words: `conf`, the score, larger on ID
images; `pred`, the class; beside them `confidence`, the largest softmax probability, and `image`, where the score was
taken. Smoothed scores come with `samples`, the scores of
the noisy copies. "id" as a side means that an adversary lowers scores, "ood" that it raises them.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from robustjax import checks, data
from robustjax.attacks.apgd import apgd
from robustjax.attacks.square import square
from robustjax.bounds.confidence import guaranteed_auroc, highest_msp, lowest_msp
from robustjax.data.sources import Split
from robustjax.evaluation.mapped import Evaluate, mapped
from robustjax.numerics import fold
from robustjax.ood import metrics
from robustjax.ood.corruption_attacks import copies
from robustjax.ood.detectors import Detector, FitInputs, LastLayer, ScoredNetwork, ScoreInputs, built
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.score_attacks import highest, lowered, lowest, raised
from robustjax.ood.scores import Form, Score, map_tap, tap
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.smoothing.median import certified, noisy_scores
from robustjax.smoothing.noise import in_pixels
from robustjax.threats import Threat
from robustjax.types import Images, Keys, Model, Network, Number, Params, State, frozen

Side = Literal["id", "ood"]
Scores = dict[str, np.ndarray]
ALPHA = 0.001  # probability with which the bounds of one smoothed score may be wrong
ATTACKED_SAMPLES = 16  # noisy copies whose mean score an attack on a smoothed score maximises
QUERIES = 200  # of Square on that mean, beside APGD


class DetectorOn(NamedTuple):
    """A detector on a model: (params, state, fitted) -> what attacks see. Equal ones share what is compiled."""

    model: Model
    detector: Detector
    classes: int
    form: Form = msp_margin

    def inputs(self, params: Params, state: State, fitted: PyTree) -> ScoreInputs:
        """Collect what the score is built of."""
        network = Network(self.model, params, state, {})
        return ScoreInputs(
            frozen(self.model, params, state),
            self.classes,
            lambda x: _activations(network, x),
            last_layer(network) if self.detector.needs_last_layer else None,
            self.form,
            fitted,
            map_tap(self.model, params, state),
        )

    def __call__(self, params: Params, state: State, fitted: PyTree) -> ScoredNetwork:
        """Build the score."""
        return built(self.detector, self.inputs(params, state, fitted))


class Scorer:
    """A detector on a network. Each kind of score is compiled once, whatever the set, the radius and the order.

    Args:
      network: without inner activations where it is a plain function.
      detector: what scores images.
      classes: of the ID data.
      form: how the method that trained the network reads its logits.
      fitted: from `fit`.
      batch_size: images in one pass.
      seed: of attacks and of noise; image i has the same random numbers in a batch of any size.
    Raises:
      ValueError: if the detector needs activations or a last layer that the network has not.
    """

    def __init__(
        self,
        network: Network,
        detector: Detector,
        *,
        classes: int,
        form: Form = msp_margin,
        fitted: PyTree = (),
        batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        self.network, self.detector, self.fitted = network, detector, fitted
        self.system = DetectorOn(network.model, detector, classes, form)
        self.batch_size, self.seed = batch_size, seed
        self._compiled: dict[Hashable, Evaluate] = {}

    @property
    def arguments(self) -> tuple[Params, State, PyTree]:
        """What `system` takes."""
        return self.network.params, self.network.state, self.fitted

    def clean(self, split: Split) -> Scores:
        """Score images as they are."""

        def measure(keys, batch, given):
            del keys
            inputs = self._inputs(given)
            return self._result(inputs, batch.image, self.detector(inputs)(batch.image))

        return self._run("clean", measure, split)

    def corrupted(self, split: Split, corrupted: Sequence[np.ndarray], *, side: Side) -> Scores:
        """Keep per image the worst score of all its corrupted copies and of the image itself.

        Args:
          split: the images.
          corrupted: the whole set, corrupted in one way after the other, as bytes (n, h, w, c); see
            `corrupted_copies`.
          side: "id" for the lowest score, "ood" for the highest.
        """
        worst = self.clean(split)
        for images in corrupted:
            worst = worse(self.clean(dataclasses.replace(split, image=images)), worst, side=side)
        return worst

    def certified(self, split: Split, threat: Threat, *, side: Side) -> Scores:
        """Bound the log of the maximum softmax probability over a threat: from below for "id", above for "ood"."""

        def measure(keys, batch, given, eps):
            del keys
            inputs = self._inputs(given)
            bound = (lowest_msp if side == "id" else highest_msp)(
                inputs.logits_fn, dataclasses.replace(threat, eps=eps)
            )
            return self._result(inputs, batch.image, bound(batch.image))

        return self._run(("certified", threat.norm, side), measure, split, jnp.float32(threat.eps))

    def smoothed(self, split: Split, *, sigma: float, samples: int) -> Scores:
        """Score each image by the median of its noisy copies.

        Args:
          split: the images.
          sigma: of the noise, in pixels.
          samples: noisy copies of each image.
        """

        def measure(keys, batch, given):
            return self._sampled(keys, batch.image, given, sigma, samples)

        return _with_median(self._run(("smoothed", sigma, samples), measure, split), sigma)

    def smoothed_attacked(
        self, split: Split, eps: float, *, sigma: float, samples: int, steps: int, side: Side
    ) -> Scores:
        """Attack the smoothed score within an l2 radius: APGD and Square on the mean of a few copies with one noise."""

        def measure(keys, batch, given, eps):
            score = self.detector(self._inputs(given))
            attack = _against_mean(score, sigma, eps, side=side, steps=steps)
            return self._sampled(keys, attack(fold(keys, 1), batch.image), given, sigma, samples)

        name = ("smoothed_attacked", sigma, samples, steps, side)
        return _with_median(self._run(name, measure, split, jnp.float32(eps)), sigma)

    def _sampled(self, keys, x: Images, given, sigma: float, samples: int) -> dict[str, Array]:
        inputs = self._inputs(given)
        scores = noisy_scores(self.detector(inputs), in_pixels(sigma), samples=samples, chunk_size=100)
        return self._result(inputs, x, jnp.zeros(len(x))) | {"samples": scores(keys, x)}

    def _run(self, name: Hashable, measure: Callable[..., PyTree], split: Split, *rest: Any) -> Scores:
        evaluate = self._compiled.setdefault(name, mapped(measure))
        batches = data.evaluation(split, batch_size=min(self.batch_size, len(split.label)))
        return evaluate(jax.random.key(self.seed), batches, self.arguments, *rest)

    def _inputs(self, given) -> ScoreInputs:
        return self.system.inputs(*given)

    def _result(self, inputs: ScoreInputs, x: Images, conf: Array) -> dict[str, Array]:
        logits = inputs.logits_fn(x).astype(jnp.float32)
        known = logits[:, : self.system.classes]
        confidence = jnp.exp(known.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1))
        pred = known.argmax(axis=-1).astype(jnp.int32)
        return {"conf": conf, "pred": pred, "confidence": confidence, "image": x}


def fit(
    network: Network,
    detector: Detector,
    train: Split,
    held_out: Split,
    noise: Split,
    *,
    batch_size: int = 250,
) -> PyTree:
    """Fit a detector to a network's activations, on the host.

    Args:
      network: what computes the activations.
      detector: what is fitted.
      train, held_out: training and validation images of the ID data.
      noise: what weighs layers against validation images, such as these with permuted pixels.
      batch_size: images in one pass.
    Returns:
      What `Detector.fit` makes; () where there is nothing to fit.
    Raises:
      ValueError: if the network has no inner activations or some that are not finite, or no last layer where the
        detector needs one.
    """
    if detector.fit is None:
        return ()
    return detector.fit(fit_inputs(network, detector, train, held_out, noise, batch_size=batch_size))


def fit_inputs(
    network: Network,
    detector: Detector,
    train: Split,
    held_out: Split,
    noise: Split,
    *,
    batch_size: int = 250,
) -> FitInputs:
    """Collect what a detector, and others that read the same, are fitted to; arguments as in `fit`."""
    require(network, detector, train.image.shape[1:])
    head = last_layer(network) if detector.needs_last_layer else None
    system = DetectorOn(network.model, detector, len(train.info.classes))
    parts, known, programs = {"train": train, "held_out": held_out, "noise": noise}, {}, {}

    def measure(part: str, build: Callable[[ScoreInputs], Callable], fitted: PyTree = ()) -> Any:
        key = part, build, id(fitted) if fitted != () else None
        if key not in known:

            def run(keys, batch, given):
                del keys
                return build(system.inputs(*given))(batch.image)

            count = min(batch_size, len(parts[part].label))
            given = network.params, network.state, fitted
            batches = data.evaluation(parts[part], batch_size=count)
            program = programs.setdefault(build, mapped(run))
            # What was fitted is kept too, so that its number is not given to another object.
            known[key] = program(jax.random.key(0), batches, given), fitted
        return known[key][0]

    def read(keys, batch, params, state):
        del keys
        return _activations(network._replace(params=params, state=state), batch.image)

    compiled = mapped(read)

    def features(split: Split) -> dict[str, np.ndarray]:
        if detector.reads in ("logits", "maps") or not (detector.fit or detector.needs_last_layer):
            return {}
        batches = data.evaluation(split, batch_size=min(batch_size, len(split.label)))
        found = compiled(jax.random.key(0), batches, network.params, network.state)
        for name, values in found.items():
            checks.finite("fit", f"activations {name} of {split.info.name} {split.info.split} images", values)
        return found

    made = features(train), train.label, features(held_out), features(noise), head
    return FitInputs(*made, held_out.label, measure)


def require(network: Network, detector: Detector, shape: Sequence[int]) -> None:
    """Refuse a detector that cannot be had on a network, before any work.

    Args:
      network: what it reads.
      detector: the detector.
      shape: of one image.
    Raises:
      ValueError: if it reads inner activations or a last layer that the network has not.
    """
    title = network.title or "the network"
    if detector.reads == "maps" and network.model.maps is None:
        raise ValueError(f"the detector reads feature maps, which {title} does not show")
    reads_features = detector.fit is not None and detector.reads != "logits"
    if not (reads_features or detector.needs_last_layer):
        return
    try:
        found = jax.eval_shape(lambda: _activations(network, jnp.zeros((1, *shape))))
    except ValueError:  # a function of images
        found = {}
    if not found:
        raise ValueError(f"the detector reads inner activations, which {title} does not give")
    if detector.needs_last_layer:
        last_layer(network)


def last_layer(network: Network) -> LastLayer:
    """Find the last layer of a network.

    Raises:
      ValueError: if no parameters are named head.
    """
    try:
        return LastLayer(network.params["head"]["kernel"], network.params["head"]["bias"])
    except (KeyError, TypeError, IndexError):
        name = network.title or "the network"
        raise ValueError(f"the last layer of {name} cannot be told apart: no parameters named head") from None


def worse(found: Scores, other: Scores, *, side: Side) -> Scores:
    """Keep of two results, per image, the one that is worse for the detector; `other` where scores are equal.

    Arrays may be of the first images alone; what `other` lacks is left out.
    """
    keep = found["conf"] < other["conf"] if side == "id" else found["conf"] > other["conf"]
    return {
        name: np.where(keep[: len(value)].reshape(-1, *[1] * (value.ndim - 1)), value, other[name])
        for name, value in found.items()
        if name in other
    }


def corrupted_copies(
    split: Split, names: Sequence[str] = tuple(CORRUPTIONS), *, seed: int = 0, batch_size: int = 250
) -> np.ndarray:
    """Corrupt every image in each way at 5 severities: bytes (5 names, n, h, w, c). Each corruption compiles once."""
    count = len(split.label)
    size = min(batch_size, count)
    made = np.empty((5 * len(names), *split.image.shape), np.uint8)
    for i, name in enumerate(names):
        corrupted = jax.jit(copies(name))
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows, jnp.int32))
            found = corrupted(fold(keys, i), jnp.asarray(split.image[rows], jnp.float32) / 255)
            keep = min(size, count - start)
            made[5 * i : 5 * i + 5, start : start + keep] = np.rint(255 * np.asarray(found))[:, :keep]
    return made


def smoothed_auroc(
    id_samples: np.ndarray,
    ood_samples: np.ndarray,
    attacked: Mapping[float, tuple[np.ndarray, np.ndarray]],
    *,
    sigma: float,
) -> dict[str, Any]:
    """Compute the AUROC of a smoothed score: clean, and per radius what is certified and what an attack leaves.

    Args:
      id_samples, ood_samples: scores of the noisy copies of ID and OOD images, (n, samples).
      attacked: by l2 radius, the smoothed scores of attacked ID and OOD images.
      sigma: of the noise.
    Returns:
      auroc, and by radius, as {"0.25": ...}: certified_out, certified_both, auroc_out and auroc_both, by what is
      attacked: OOD images, or both.
    """
    id_clean, ood_clean = (
        certified(samples, radius=0.0, sigma=sigma).value for samples in (id_samples, ood_samples)
    )
    found: dict[str, Any] = {"auroc": metrics.auroc(id_clean, ood_clean)}
    for radius, (low, high) in attacked.items():
        id_bounds, ood_bounds = (
            certified(samples, radius=radius, sigma=sigma, alpha=ALPHA)
            for samples in (id_samples, ood_samples)
        )
        found[f"{radius:.4g}"] = {
            "certified_out": guaranteed_auroc(id_clean, ood_bounds.upper),
            "certified_both": guaranteed_auroc(id_bounds.lower, ood_bounds.upper),
            "auroc_out": metrics.auroc(id_clean, high),
            "auroc_both": metrics.auroc(low, high),
        }
    return found


def _activations(network: Network, x: Images) -> dict[str, Array]:
    names = jax.eval_shape(network.model.features, network.params, network.state, x)
    return {name: tap(network.model, network.params, network.state, name)(x) for name in names}


def _with_median(found: Scores, sigma: float) -> Scores:
    return found | {"conf": certified(found["samples"], radius=0.0, sigma=sigma).value}


def _against_mean(
    score: Score, sigma: float, eps: Number, *, side: Side, steps: int
) -> Callable[[Keys, Images], Images]:
    noise_of = in_pixels(sigma)

    def attack(keys: Keys, x: Images) -> Images:
        zero = jnp.zeros(x.shape[1:], x.dtype)
        noise = jax.vmap(lambda k: noise_of.sample(k, zero, ATTACKED_SAMPLES))(keys)

        def mean(x: Images) -> Array:
            return jax.lax.map(lambda n: score(x + n), noise.swapaxes(0, 1)).mean(axis=0)

        threat = Threat("l2", eps)
        push, worst = (lowered, lowest) if side == "id" else (raised, highest)
        search = worst(push(apgd(threat, steps=steps), mean), push(square(threat, queries=QUERIES), mean))
        return search(keys, x).x

    return attack
