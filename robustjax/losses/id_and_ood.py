"""The shape of a loss on data and outliers: be right around the former, and unsure around the latter."""

import jax
from jaxtyping import PRNGKeyArray

from robustjax import logit, numerics
from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.confidences import Confidence
from robustjax.types import Ascent, Attack, Images, Logits, Model, Number, Pair, Params, State


def two_sided(
    model: Model,
    attack: Attack | None = None,
    ascent: Ascent | None = None,
    *,
    data_weight: Number = 1.0,
    weight: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
    ood_surrogate: Confidence | None = None,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise data_weight mean CE(f(x'), y) + weight mean penalty(f(z')).

    x' is what the attack makes of the data, z' what the ascent makes of the outliers by climbing
    `ood_surrogate`; without one the images stay clean. Both share one forward pass and thus their BatchNorm
    statistics. OE, CEDA, ACET, RATIO, AOE, ALOE, NTOM and ATOM are all this, with their settings.

    Args:
      model: the classifier.
      attack: on data, such as `against(pgd(...), objectives.cross_entropy)`.
      ascent: on outliers; its radius need not be the attack's.
      data_weight: of the cross-entropy.
      weight: of the penalty.
      penalty: what must be small around outliers.
      ood_surrogate: what the ascent maximises; the penalty by default.
      batchnorm: what attacks see of the network; in evaluation mode by default.

    Returns:
      A loss over a `Pair`, whose two sides may differ in size; metrics `risk` (the cross-entropy, nats) and `excess`
      (the penalty) at the images trained on, and `accuracy` or, at attacked data, `robust_accuracy`.

    Raises:
      ValueError: if a known weight is negative.
    """
    check_weight("two_sided", data_weight, "data_weight")
    check_weight("two_sided", weight)

    def find(params, state, batch: Pair, key):
        return attack_both(
            model, params, state, batch, key, attack, ascent, ood_surrogate or penalty, batchnorm
        )

    def risk(params, state, batch: Pair, images: tuple[Images, Images], key):
        inside, outside, state = logits_of(model, params, state, images, key)
        value = logit.cross_entropy(inside, batch.data.label).mean()
        excess = penalty(outside).mean()
        metrics = {
            "risk": value,
            "excess": excess,
            "accuracy" if attack is None else "robust_accuracy": logit.correct(
                inside, batch.data.label
            ).mean(),
        }
        return data_weight * value + weight * excess, (state, metrics)

    return AdversarialLoss(find, risk)


def attack_both(
    model: Model,
    params: Params,
    state: State,
    batch: Pair,
    key: PRNGKeyArray,
    attack: Attack | None,
    ascent: Ascent | None,
    ood_surrogate: Confidence,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> tuple[Images, Images]:
    """Attack the data and raise the confidence around outliers; without attack or ascent images stay clean."""
    around_data, around_outliers, data_view, outlier_view = jax.random.split(key, 4)
    image, outlier = batch.data.image, batch.outlier
    if attack is not None:
        seen = batchnorm(model, params, state, batch.outlier, data_view)
        image = attack(around_data, seen, image, batch.data.label).x
    if ascent is not None:
        seen = batchnorm(model, params, state, batch.data.image, outlier_view)
        outlier = ascent(around_outliers, confidences.over(ood_surrogate, seen), outlier).x
    return image, outlier


def logits_of(
    model: Model, params: Params, state: State, images: tuple[Images, Images], key: PRNGKeyArray
) -> tuple[Logits, Logits, State]:
    """Run data and outliers through the network in one pass: (logits inside, logits outside, new state)."""
    logits, state = model.apply(params, state, numerics.pack(*images), train=True, key=key)
    inside, outside = numerics.unpack(logits, (len(images[0]), len(images[1])))
    return inside, outside, state


def check_weight(name: str, weight: Number, setting: str = "weight") -> None:
    """Refuse a weight that is known to be negative."""
    if isinstance(weight, int | float) and not weight >= 0:
        raise ValueError(f"{name}: {setting} is {weight}, must be at least 0")
