"""Adversarial training: minimise the risk at attacked images."""

import jax
import jax.numpy as jnp

from robustjax import checks, logit, numerics
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.standard import check_smoothing
from robustjax.types import Attack, Batch, Model, Number, frozen


def adversarial(model: Model, attack: Attack, *, smoothing: Number = 0.0) -> AdversarialLoss:
    """Minimise the cross-entropy of attacked images.

    Args:
      model: the classifier; the attack sees it frozen, in evaluation mode.
      attack: such as `against(pgd(threat, ...), objectives.cross_entropy)`.
      smoothing: probability mass spread evenly over all classes, in [0, 1].

    Returns:
      A loss over a `Batch`; metrics `robust_accuracy` and `risk` (nats) at the attacked images.

    Raises:
      ValueError: if a known smoothing is outside [0, 1].

    Reference: Madry et al. 2018, arXiv:1706.06083, equation 2.1.
    """
    check_smoothing("adversarial", smoothing)

    def find(params, state, batch: Batch, key):
        checks.batch("adversarial", batch, soft=True)
        return attack(key, frozen(model, params, state), batch.image, batch.label).x

    def risk(params, state, batch: Batch, attacked, key):
        logits, state = model.apply(params, state, attacked, train=True, key=key)
        value = logit.cross_entropy(logits, batch.label, smoothing=smoothing).mean()
        return value, (state, {"risk": value, "robust_accuracy": logit.correct(logits, batch.label).mean()})

    return AdversarialLoss(find, risk)


def half_adversarial(model: Model, attack: Attack, *, smoothing: Number = 0.0) -> AdversarialLoss:
    """Attack every other image of the batch and minimise the mean cross-entropy of both halves.

    One forward pass serves both, so they share BatchNorm statistics.

    Args:
      model: the classifier.
      attack: as in `adversarial`.
      smoothing: probability mass spread evenly over all classes, in [0, 1].

    Returns:
      A loss over a `Batch` of even size; metrics `risk`, `accuracy` (clean half), `robust_accuracy`.

    Raises:
      ValueError: if a known smoothing is outside [0, 1].

    Reference: Kurakin et al. 2017, arXiv:1611.01236, with equal weights.
    """
    check_smoothing("half_adversarial", smoothing)

    def find(params, state, batch: Batch, key):
        checks.batch("half_adversarial", batch, soft=True)
        _, label = numerics.unpack(batch.label)
        _, image = numerics.unpack(batch.image)
        return attack(key, frozen(model, params, state), image, label).x

    def risk(params, state, batch: Batch, attacked, key):
        label = jnp.stack(numerics.unpack(batch.label))
        both = numerics.pack(numerics.unpack(batch.image)[0], attacked)
        logits, state = model.apply(params, state, both, train=True, key=key)
        parts = jnp.stack(numerics.unpack(logits))
        value = jax.vmap(lambda z, y: logit.cross_entropy(z, y, smoothing=smoothing).mean())(
            parts, label
        ).mean()
        clean, robust = jax.vmap(lambda z, y: logit.correct(z, y).mean())(parts, label)
        return value, (state, {"risk": value, "accuracy": clean, "robust_accuracy": robust})

    return AdversarialLoss(find, risk)
