"""The shape of a loss on ID and OOD images: be right around ID images, and unsure around OOD images."""

import jax
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit, numerics
from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.confidences import Confidence
from robustjax.types import (
    Ascent,
    Attack,
    Images,
    Logits,
    Model,
    Number,
    OODImages,
    OODLogits,
    Pair,
    Params,
    State,
)


def two_sided(
    model: Model,
    id_attack: Attack | None = None,
    ood_ascent: Ascent | None = None,
    *,
    id_weight: Number = 1.0,
    weight: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
    ood_surrogate: Confidence | None = None,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise id_weight mean CE(f(x'), y) + weight mean penalty(f(z')).

    x' is what the attack makes of the ID images, z' what the ascent makes of the OOD images by maximising
    `ood_surrogate`; without one the images stay clean. Both share one forward pass and thus their BatchNorm
    statistics. OE, CEDA, ACET, RATIO, AOE, ALOE, NTOM and ATOM are all this, with their settings.

    Args:
      model: the classifier.
      id_attack: on ID images, such as `against(pgd(...), objectives.cross_entropy)`.
      ood_ascent: on OOD images; its radius need not be the attack's.
      id_weight: of the cross-entropy.
      weight: of the penalty.
      penalty: what must be small around OOD images.
      ood_surrogate: what the ascent maximises; the penalty by default.
      batchnorm: what attacks see of the network; in evaluation mode by default.

    Returns:
      A loss over a `Pair`, whose two sides may differ in size; metrics `risk` (the cross-entropy, nats) and `excess`
      (the penalty) at the images trained on, and `accuracy` or, at attacked ID images, `robust_accuracy`.

    Raises:
      ValueError: if a known weight is negative.
    """
    check_weight("two_sided", id_weight, "id_weight")
    check_weight("two_sided", weight)

    def find(params, state, batch: Pair, key):
        checks.batch("two_sided", batch)
        return attack_both(
            model, params, state, batch, key, id_attack, ood_ascent, ood_surrogate or penalty, batchnorm
        )

    def risk(params, state, batch: Pair, images: tuple[Images, OODImages], key):
        inside, outside, state = logits_of(model, params, state, images, key)
        value = logit.cross_entropy(inside, batch.id.label).mean()
        excess = penalty(outside).mean()
        metrics = {
            "risk": value,
            "excess": excess,
            "accuracy" if id_attack is None else "robust_accuracy": logit.correct(
                inside, batch.id.label
            ).mean(),
        }
        return id_weight * value + weight * excess, (state, metrics)

    return AdversarialLoss(find, risk)


def attack_both(
    model: Model,
    params: Params,
    state: State,
    batch: Pair,
    key: PRNGKeyArray,
    id_attack: Attack | None,
    ood_ascent: Ascent | None,
    ood_surrogate: Confidence,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> tuple[Images, OODImages]:
    """Attack ID images and raise the confidence around OOD images; without attack or ascent images stay clean."""
    id_key, ood_key, id_view, ood_view = jax.random.split(key, 4)
    image, ood = batch.id.image, batch.ood
    if id_attack is not None:
        seen = batchnorm(model, params, state, batch.ood, id_view)
        image = id_attack(id_key, seen, image, batch.id.label).x
    if ood_ascent is not None:
        seen = batchnorm(model, params, state, batch.id.image, ood_view)
        ood = ood_ascent(ood_key, confidences.over(ood_surrogate, seen), ood).x
    return image, ood


def logits_of(
    model: Model, params: Params, state: State, images: tuple[Images, OODImages], key: PRNGKeyArray
) -> tuple[Logits, OODLogits, State]:
    """Run ID and OOD images through the network in one pass: (ID logits, OOD logits, new state)."""
    logits, state = model.apply(params, state, numerics.pack(*images), train=True, key=key)
    inside, outside = numerics.unpack(logits, (len(images[0]), len(images[1])))
    return inside, outside, state


def check_weight(name: str, weight: Number, setting: str = "weight") -> None:
    """Refuse a weight that is known to be negative."""
    checks.number(name, setting, weight, least=0)
