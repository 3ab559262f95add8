"""Adversarial training on the image of the larger loss, per example: itself, or what an attack made of it."""

import jax.numpy as jnp

from robustjax import checks, logit, numerics
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.types import Attack, Batch, Model, frozen


def max_clean_adversarial(model: Model, attack: Attack) -> AdversarialLoss:
    """Minimise the mean of max(CE(f(x), y), CE(f(attacked), y)), both from one forward pass.

    For sets that need not hold the image itself, such as learned ones: attacked images alone would leave it out.

    Args:
      model: the classifier; the attack sees it frozen, in evaluation mode.
      attack: such as `sets.attack_through(space, against(pgd(space.threat, ...)))`.
    Returns:
      A loss over a `Batch`; metrics `risk` (nats), `accuracy`, `robust_accuracy`.

    Reference: Wong and Kolter 2020, arXiv:2007.08450. Deviations: the attack leaves the statistics of BatchNorm
      alone, and goes on with images that are already wrong.
    """

    def find(params, state, batch: Batch, key):
        checks.batch("max_clean_adversarial", batch)
        return attack(key, frozen(model, params, state), batch.image, batch.label).x

    def risk(params, state, batch: Batch, attacked, key):
        both = numerics.pack(batch.image, attacked)
        logits, state = model.apply(params, state, both, train=True, key=key)
        clean, moved = numerics.unpack(logits)
        worse = jnp.maximum(logit.cross_entropy(clean, batch.label), logit.cross_entropy(moved, batch.label))
        accuracies = (logit.correct(z, batch.label).mean() for z in (clean, moved))
        names = ("accuracy", "robust_accuracy")
        return worse.mean(), (state, {"risk": worse.mean(), **dict(zip(names, accuracies, strict=True))})

    return AdversarialLoss(find, risk)
