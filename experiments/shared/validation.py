"""Clean and robust accuracy of a network in training, on validation or test images."""

from collections.abc import Callable

import jax
from jax.sharding import NamedSharding

from robustjax import data, evaluation, logit, training
from robustjax.types import Attack, Model, frozen

Accuracies = Callable[[training.TrainState, data.Split, str], dict[str, float]]


def accuracies(
    model: Model, attack: Attack, *, batch_size: int, seed: int, sharding: NamedSharding
) -> Accuracies:
    """Build (state, split, prefix) -> {prefix_clean, prefix_robust}, shares of the images in [0, 1].

    An image is robust if it is classified correctly as it is and as the attack leaves it. It compiles once for all
    splits.

    Args:
      model: what is trained; its moving average is evaluated if the state has one.
      attack: the adversary.
      batch_size: images per forward pass, over all devices.
      seed: of the attack.
      sharding: of a batch.
    """

    def one(keys, batch, params, state):
        logits_fn = frozen(model, params, state)
        point = attack(keys, logits_fn, batch.image, batch.label).x
        clean = logit.correct(logits_fn(batch.image), batch.label)
        return {"clean": clean, "robust": clean * logit.correct(logits_fn(point), batch.label)}

    mapped = evaluation.mapped(one)

    def measure(state: training.TrainState, split: data.Split, prefix: str) -> dict[str, float]:
        params, net_state = training.for_evaluation(state)
        batches = data.evaluation(split, batch_size=batch_size, sharding=sharding)
        hits = mapped(jax.random.key(seed), batches, params, net_state)
        return {f"{prefix}_{name}": float(value.mean()) for name, value in hits.items()}

    return measure
