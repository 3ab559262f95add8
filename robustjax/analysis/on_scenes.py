"""Networks on sets of scenes, a batch at a time: predictions, hits under noise on either part, inner activations.

Each function builds a program for one model, to be run with any weights on any number of sets. Memory is that of a
batch, and of the few numbers that are kept of each image. A `layer`, where one is given, takes the place of the
network's last one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from robustjax import evaluation, logit
from robustjax.analysis import last_layer, sensitivity
from robustjax.analysis.noise import dilated
from robustjax.data.scenes import Scene, Scenes, batches
from robustjax.logistic_regression import Linear
from robustjax.types import LogitsFn, Model, Network, Params, State, frozen


class Predicted(NamedTuple):
    """Predicted classes (n,), -1 where the logits name none.

    Attributes:
      all: among all classes.
      among: among the classes that were allowed.
    """

    all: np.ndarray
    among: np.ndarray


class UnderNoise(NamedTuple):
    """Under noise on object and rest, (n, r) each.

    Attributes:
      foreground, background: how often the prediction was right, of the trials.
      foreground_length, background_length: l2 norm of what the noise changed, after clipping.
    """

    foreground: np.ndarray
    background: np.ndarray
    foreground_length: np.ndarray
    background_length: np.ndarray


def predictor(model: Model, *, batch_size: int) -> Callable[..., Predicted]:
    """Build (network, scenes, layer, allowed) -> Predicted.

    `layer` is by default the network's own; `allowed` is (k,), true for the classes to choose among, by default all.
    """

    def predict(keys, batch: Scene, params, state, layer, allowed):
        logits = _logits_fn(model, params, state, layer)(batch.image)
        chosen = jnp.where(allowed, logits, -jnp.inf)
        # One NaN or infinity unsettles the whole row, as it does without the choice.
        found = logit.prediction(logits)
        return found, jnp.where(found < 0, -1, logit.prediction(chosen))

    mapped = evaluation.mapped(predict)

    def over(
        network: Network, scenes: Scenes, layer: Linear | None = None, allowed: np.ndarray | bool = True
    ) -> Predicted:
        some = batches(scenes, batch_size=batch_size)
        return Predicted(*mapped(jax.random.key(0), some, *_of(network), layer, np.asarray(allowed)))

    return over


def noise_tester(
    model: Model,
    noise: sensitivity.Noise,
    levels: Sequence[float],
    *,
    batch_size: int,
    trials: int = 1,
    grown: int = 0,
) -> Callable[..., UnderNoise]:
    """Build (key, network, scenes, layer) -> UnderNoise for scenes with masks; `layer` is by default the network's own.

    Args:
      model: of the networks.
      noise, levels, trials: see `sensitivity.under_noise`.
      batch_size: images at a time.
      grown: how often to dilate the masks first, see `noise.dilated`.
    """
    under_noise = sensitivity.under_noise(noise, levels, trials=trials)

    def test(keys, batch: Scene, params, state, layer):
        assert batch.mask is not None
        mask = dilated(batch.mask, times=grown) if grown else batch.mask
        found = under_noise(keys, _logits_fn(model, params, state, layer), batch.image, mask, batch.label)
        return found.foreground.hit, found.background.hit, found.foreground.length, found.background.length

    mapped = evaluation.mapped(test)

    def over(key: PRNGKeyArray, network: Network, scenes: Scenes, layer: Linear | None = None) -> UnderNoise:
        if scenes.mask is None:
            raise ValueError(f"noise_tester: {scenes.name} has no masks, must have one for each image")
        return UnderNoise(*mapped(key, batches(scenes, batch_size=batch_size), *_of(network), layer))

    return over


def activations(model: Model, *, batch_size: int) -> Callable[[Network, Scenes], np.ndarray]:
    """Build (network, scenes) -> the deepest activations (n, d), which a `layer` reads; all of them are in memory."""

    def deepest(keys, batch: Scene, params, state):
        found = model.features(*jax.lax.stop_gradient((params, state)), batch.image)
        return found[max(found)].astype(jnp.float32)

    mapped = evaluation.mapped(deepest)
    return lambda network, scenes: mapped(
        jax.random.key(0), batches(scenes, batch_size=batch_size), *_of(network)
    )


def _of(network: Network) -> tuple[Params, State]:
    return network.params, network.state


def _logits_fn(model: Model, params: Params, state: State, layer: Linear | None) -> LogitsFn:
    return (
        frozen(model, params, state) if layer is None else last_layer.retrained(model, params, state, layer)
    )
