"""ROWL: robust learning with a reject option, OOD images being one more class."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit, numerics
from robustjax.attacks import objectives
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.id_and_ood import check_weight
from robustjax.types import Ascent, Images, Labels, Model, Number, Pair, frozen


def rowl(model: Model, ascent: Ascent, *, weight: Number = 1.0) -> AdversarialLoss:
    """Minimise CE(f(u), v) + weight CE(f(u'), v) over ID and OOD images together, OOD images labelled K.

    u' maximises the log-probability of a wrong label among all K + 1, drawn anew for each image and update.

    Args:
      model: the classifier of K + 1 outputs; one forward pass serves clean and attacked images.
      ascent: such as `pgd(Threat("linf", 8 / 255), steps=5, step_size=2 / 255)`.
      weight: of the attacked images.

    Returns:
      A loss over a `Pair`, in which every image counts the same: with batches of 118 and 10 OOD images are as rare
      as in the paper (5000 beside 50000 ID images); metrics `risk` (clean), `robust_risk`, both in nats, `accuracy` and
      `robust_accuracy`, all over ID and OOD images.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Sehwag et al. 2019, arXiv:1905.01726, with the settings of Chen et al. 2021, arXiv:2006.15207. Their code
      draws the wrong label anew in every step of the attack, which then follows no objective; here it stays for all
      steps of an attack, which makes it stronger.
    """
    check_weight("rowl", weight)

    def find(params, state, batch: Pair, key):
        checks.batch("rowl", batch)
        drawn, ascent_key = jax.random.split(key)
        logits_fn = frozen(model, params, state)
        image, label = _joined(logits_fn, batch)
        target = wrong_labels(drawn, label, classes=_classes(logits_fn, batch.ood))
        return ascent(ascent_key, objectives.targeted_cross_entropy(logits_fn, target), image).x

    def risk(params, state, batch: Pair, attacked, key):
        image, label = _joined(frozen(model, params, state), batch)
        both = numerics.pack(image, attacked)
        logits, state = model.apply(params, state, both, train=True, key=key)
        clean, robust = numerics.unpack(logits)
        natural = logit.cross_entropy(clean, label).mean()
        hard = logit.cross_entropy(robust, label).mean()
        metrics = {
            "risk": natural,
            "robust_risk": hard,
            "accuracy": logit.correct(clean, label).mean(),
            "robust_accuracy": logit.correct(robust, label).mean(),
        }
        return natural + weight * hard, (state, metrics)

    return AdversarialLoss(find, risk)


def wrong_labels(key: PRNGKeyArray, label: Labels, *, classes: int) -> Labels:
    """Draw one of the other classes for each label."""
    draw = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes))
    return (label + draw(numerics.keys_for(key, label.shape[0]))) % classes


def _classes(logits_fn, images: Images) -> int:
    return jax.eval_shape(logits_fn, images).shape[-1]


def _joined(logits_fn, batch: Pair) -> tuple[Images, Labels]:
    outside = _classes(logits_fn, batch.ood) - 1
    strange = jnp.full(batch.ood.shape[0], outside, batch.id.label.dtype)
    label = numerics.pack(batch.id.label[:, None], strange[:, None])[:, 0]
    return numerics.pack(batch.id.image, batch.ood), label
