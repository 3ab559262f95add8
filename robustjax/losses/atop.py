"""Adversarial training of a translator in front of a classifier that stays as it is."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.types import Attack, Batch, Images, Logits, LogitsFn, Model, Number, Params, State


def after_translation(translator: Model, logits_fn: LogitsFn, params: Params, state: State) -> LogitsFn:
    """Let a classifier see images through a translator in evaluation mode: f(T(x)), frozen."""
    params, state = jax.lax.stop_gradient((params, state))

    def composed(x: Images) -> Logits:
        return logits_fn(translator.apply(params, state, x)[0])

    return composed


def atop(
    translator: Model, logits_fn: LogitsFn, attack: Attack, *, clean: Number = 0.5, missed: Number = 1.0
) -> AdversarialLoss:
    """Minimise (1 - clean) CE(f(T(x')), y) + clean CE(f(T(x)), y) + missed (|T(x') - x| + |T(x) - x|).

    x' is what the attack finds against f(T(.)), that is, knowing the translator; |.| is the mean over pixels. Start it
    from a translator that was trained to translate.

    Args:
      translator: what is trained.
      logits_fn: f, frozen.
      attack: around data, such as `against(pgd(...), objectives.cross_entropy)`.
      clean: share of images as they are, in [0, 1].
      missed: weight of the difference of pixels.
    Returns:
      A loss over a `Batch`; metrics `risk` (nats, of attacked images), `accuracy`, `robust_accuracy`, `error`.
    Raises:
      ValueError: if a known share is out of range or a known weight negative.

    Reference: in the manner of Lin et al. 2024, arXiv:2401.16352 (AToP), who fine-tune a purifier adversarially with
      the classifier frozen; without its random transformations and its critic.
    """
    checks.number("atop", "clean", clean, least=0, most=1)
    checks.number("atop", "missed", missed, least=0)

    def find(params: Params, state: State, batch: Batch, key: PRNGKeyArray) -> Images:
        checks.batch("atop", batch)
        return attack(
            key, after_translation(translator, logits_fn, params, state), batch.image, batch.label
        ).x

    def risk(params: Params, state: State, batch: Batch, adversarial: Images, key: PRNGKeyArray):
        count = batch.image.shape[0]
        both = jnp.concatenate([batch.image, adversarial])
        made, state_next = translator.apply(params, state, both, train=True, key=key)
        logits = logits_fn(made)
        plain = logit.cross_entropy(logits[:count], batch.label).mean()
        attacked = logit.cross_entropy(logits[count:], batch.label).mean()
        errors = jnp.abs(made - jnp.concatenate([batch.image, batch.image])).mean()
        value = clean * plain + (1.0 - clean) * attacked + 2.0 * missed * errors
        metrics = {
            "risk": attacked,
            "accuracy": logit.correct(logits[:count], batch.label).mean(),
            "robust_accuracy": logit.correct(logits[count:], batch.label).mean(),
            "error": errors,
        }
        return value, (state_next, metrics)

    return AdversarialLoss(find, risk)
