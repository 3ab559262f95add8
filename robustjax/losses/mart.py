"""MART: adversarial training that attends to the images it gets wrong."""

import jax
import jax.numpy as jnp

from robustjax import checks, logit
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.types import Attack, Batch, Labels, Logits, Model, Number, PerExample, frozen


def mart(model: Model, attack: Attack, *, beta: Number = 5.0) -> AdversarialLoss:
    """Minimise BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)).

    Args:
      model: the classifier.
      attack: the paper's is PGD on the cross-entropy.
      beta: weight of the divergence, lambda in the paper.

    Returns:
      A loss over a `Batch`; metrics `risk` (the boosted cross-entropy), `divergence`, both in nats,
      `accuracy`, `robust_accuracy`.

    Raises:
      ValueError: if a known beta is negative.

    Reference: Wang et al. 2020, Improving Adversarial Robustness Requires Revisiting Misclassified Examples,
      ICLR, equation 11. Logarithms are taken in log space, not of 1.0001 - p + 1e-12.
    """
    checks.number("mart", "beta", beta, least=0)

    def find(params, state, batch: Batch, key):
        checks.batch("mart", batch)
        return attack(key, frozen(model, params, state), batch.image, batch.label).x

    def risk(params, state, batch: Batch, attacked, key):
        clean, state = model.apply(params, state, batch.image, train=True, key=key)
        moved, state = model.apply(params, state, attacked, train=True, key=key)
        boosted = boosted_cross_entropy(moved, batch.label).mean()
        doubt = 1.0 - jnp.exp(-logit.cross_entropy(clean, batch.label))
        divergence = (logit.kl(clean, moved) * doubt).mean()
        metrics = {
            "risk": boosted,
            "divergence": divergence,
            "accuracy": logit.correct(clean, batch.label).mean(),
            "robust_accuracy": logit.correct(moved, batch.label).mean(),
        }
        return boosted + beta * divergence, (state, metrics)

    return AdversarialLoss(find, risk)


def boosted_cross_entropy(logits: Logits, label: Labels) -> PerExample:
    """Compute -log p_y - log(1 - max_{j != y} p_j), in nats."""
    own = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    rival = jnp.where(own, -jnp.inf, logits).argmax(axis=-1)
    others = jnp.where(jax.nn.one_hot(rival, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    # log(1 - p_rival) is the log of what all other classes hold: no cancellation when the rival holds nearly all.
    log_rest = jax.nn.logsumexp(others, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    return logit.cross_entropy(logits, label) - log_rest
