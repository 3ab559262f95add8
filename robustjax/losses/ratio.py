"""RATIO: adversarial training on ID images and on OOD images, alone or with clean ID images beside."""

from robustjax import checks, logit, numerics
from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.confidences import Confidence
from robustjax.losses.id_and_ood import attack_both, check_weight, logits_of, two_sided
from robustjax.types import Ascent, Attack, Batch, Model, Number, Pair


def ratio(
    model: Model,
    id_attack: Attack,
    ood_ascent: Ascent,
    *,
    weight: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
    ood_surrogate: Confidence | None = None,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise 1/2 max_{x'} CE(f(x'), y) + weight/2 max_{z'} KL(U || p(z')).

    The half is real: with the same learning rate and decay, ID images pull half as hard as in adversarial training.

    Two generations were published, both l2, on batches of 128 and 128. Both attack by
    `pgd(threat, steps=..., step_size=0.1, momentum=0.9, start=at_origin)`, whose steps are the same on both sides.
    The paper maximises the margin on ID images and adds steps as training goes on (`step_schedule.first_steps`); the
    models released later (WideResNet-34-10) maximise the cross-entropy, 10 steps within 0.5 of ID images, 20 within
    1.0 of OOD images, that is `dataclasses.replace(threat, eps=2 * threat.eps)`.

    Args:
      model: the classifier; one forward pass serves ID and OOD images.
      id_attack: on ID images, such as `against(pgd(...), objectives.cross_entropy)`.
      ood_ascent: on OOD images.
      weight: lambda.
      penalty: what must be small around OOD images.
      ood_surrogate: what the ascent maximises; the penalty by default.
      batchnorm: what both attacks see of the network.

    Returns:
      A loss over a `Pair`; metrics `risk` (nats), `excess`, `robust_accuracy`, all at
      attacked images.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Augustin, Meinke and Hein 2020, arXiv:2003.09461.
    """
    check_weight("ratio", weight)
    return two_sided(
        model,
        id_attack,
        ood_ascent,
        id_weight=0.5,
        weight=0.5 * weight,
        penalty=penalty,
        ood_surrogate=ood_surrogate,
        batchnorm=batchnorm,
    )


def half_ratio(
    model: Model,
    id_attack: Attack,
    ood_ascent: Ascent,
    *,
    weight: Number = 1.0,
    scale: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
    ood_surrogate: Confidence | None = None,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Attack every other ID image: scale (1/2 (CE clean + CE attacked) + weight/2 max KL(U || p(z'))).

    Args:
      model, id_attack, ood_ascent, weight, penalty, ood_surrogate, batchnorm: as in `ratio`.
      scale: of the whole; 2/3 gives the weights of the authors' code of 2021, a third for each term.

    Returns:
      A loss over a `Pair` whose ID images are even in number, in the paper twice as many as OOD images; metrics as of
      `ratio`, `accuracy` on the clean half and `robust_accuracy` on the attacked one.

    Raises:
      ValueError: if a known weight or scale is negative.

    Reference: `train_clean` in the code of Augustin, Meinke and Hein 2020, arXiv:2003.09461.
    """
    check_weight("half_ratio", weight)
    check_weight("half_ratio", scale, "scale")

    def find(params, state, batch: Pair, key):
        checks.batch("half_ratio", batch)
        clean, image = numerics.unpack(batch.id.image)
        _, label = numerics.unpack(batch.id.label)
        half = Pair(Batch(image, label), batch.ood)
        image, ood = attack_both(
            model, params, state, half, key, id_attack, ood_ascent, ood_surrogate or penalty, batchnorm
        )
        return numerics.pack(clean, image), ood

    def risk(params, state, batch: Pair, images, key):
        inside, outside, state = logits_of(model, params, state, images, key)
        value = logit.cross_entropy(inside, batch.id.label).mean()
        excess = penalty(outside).mean()
        clean, robust = numerics.unpack(logit.correct(inside, batch.id.label))
        metrics = {
            "risk": value,
            "excess": excess,
            "accuracy": clean.mean(),
            "robust_accuracy": robust.mean(),
        }
        return scale * (value + 0.5 * weight * excess), (state, metrics)

    return AdversarialLoss(find, risk)
